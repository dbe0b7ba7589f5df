"""Instance masks between a dataset and models of the MaskFormer family: training targets, and predictions back."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BaseImageProcessor

from mona_peft.tasks.data.augmentation import Sample
from mona_peft.tasks.data.dataset import ImageDataset
from mona_peft.tasks.data.objects.check import decode_masks

BACKGROUND = 255
"""Value of the pixels of no instance in an instance map. The image processors resize maps of 8 bits, no more."""

MAX_INSTANCES = BACKGROUND
"""How many instances a map can hold."""


def instance_map(masks: np.ndarray) -> np.ndarray:
    """Draws masks into one map, the largest first: where masks overlap, the smaller lies on top.

    Args:
        masks: (N, H, W) Which pixels belong to an instance: bool. N is at most `MAX_INSTANCES`.

    Returns:
        (H, W) Number of the mask, or `BACKGROUND`; uint8.
    """
    drawn = np.full(masks.shape[1:], BACKGROUND, dtype=np.uint8)
    for number in np.argsort(-masks.sum((1, 2)), kind="stable"):
        drawn[masks[number]] = number
    return drawn


def prepare_instances(
    image: Image.Image, masks: np.ndarray, classes: np.ndarray, image_processor: BaseImageProcessor
) -> dict[str, torch.Tensor]:
    """Prepares an image and its instances as models of the MaskFormer family take them in training.

    Args:
        image: In RGB.
        masks: (N, H, W) Which pixels belong to an instance: bool.
        classes: (N,) Class of each instance.
        image_processor: Of the model.

    Returns:
        `pixel_values` (3, H', W'), `mask_labels` (M, H', W') and `class_labels` (M,). Of more than `MAX_INSTANCES`
        instances the largest remain; those of which others or the resizing leave no pixel are left out.
    """
    if len(masks) > MAX_INSTANCES:
        largest = np.argsort(-masks.sum((1, 2)), kind="stable")[:MAX_INSTANCES]
        masks, classes = masks[largest], classes[largest]
    # The numbers of the instances begin at 0 and nothing is "reduced": with `ignore_index=0`, or with reduced labels,
    # the processors drop the first instance of every image without a word.
    inputs = image_processor(
        image,
        segmentation_maps=instance_map(masks),
        instance_id_to_semantic_id={number: int(label) for number, label in enumerate(classes)},
        ignore_index=BACKGROUND,
        do_reduce_labels=False,
        return_tensors="pt",
    )
    return {name: inputs[name][0] for name in ("pixel_values", "mask_labels", "class_labels")}


class InstanceDataset(ImageDataset):
    """Images and instances in the form of `objects.loading`; crowds are no instances."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index]
        image, objects = self.decode(row, index, self.least_side(index)), row["objects"]
        wanted = ~np.array(objects["iscrowd"], dtype=bool)
        masks = decode_masks(objects, row["width"], row["height"], step=round(row["width"] / image.width))[wanted]
        classes = np.array(objects["category"], dtype=np.int64)[wanted]
        if self.augmentation is not None:
            changed = self.augmentation(Sample(image, maps=masks), self.random(index))
            image, masks = changed.image, changed.maps
        inputs = prepare_instances(image, masks, classes, self.image_processor)
        return {**inputs, "image_ids": row["image_id"], "original_sizes": (row["height"], row["width"])}


def collate_instances(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Makes a batch: images are stacked; all else is one list entry an image, as numbers of instances differ."""
    batch = {name: [row[name] for row in rows] for name in rows[0]}
    return {**batch, "pixel_values": torch.stack(batch["pixel_values"])}
