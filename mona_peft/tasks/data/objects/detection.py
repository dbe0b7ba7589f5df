"""Images with objects as a detector takes them."""

from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch.nn import functional
from transformers import BaseImageProcessor

from mona_peft.tasks.data.augmentation import Augmentation, Sample
from mona_peft.tasks.data.dataset import ImageDataset
from mona_peft.tasks.data.objects.check import Objects


class ObjectDetectionDataset(ImageDataset):
    """Rows in the form of `objects.loading`, as `detector_inputs` makes them of each."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index]
        image = self.decode(row, index, self.least_side(index))
        objects = scaled(row["objects"], image.width / row["width"], image.height / row["height"])
        if self.augmentation is not None:
            image, objects = augment_objects(self.augmentation, image, objects, self.random(index))
        return detector_inputs(self.image_processor, image, row["image_id"], objects)


def scaled(objects: Objects, horizontally: float, vertically: float) -> Objects:
    """Returns objects without masks in an image that was read at a part of its size."""
    if horizontally == vertically == 1:
        return objects
    factors = (horizontally, vertically, horizontally, vertically)
    boxes = [[edge * factor for edge, factor in zip(box, factors, strict=True)] for box in objects["bbox"]]
    return {**objects, "bbox": boxes, "area": [area * horizontally * vertically for area in objects["area"]]}


def augment_objects(
    augmentation: Augmentation, image: PIL.Image.Image, objects: Objects, random: Random
) -> tuple[PIL.Image.Image, Objects]:
    """Changes an image and its boxes; areas shrink as their boxes do, and masks get lost."""
    boxes = np.array(objects["bbox"], dtype=np.float64).reshape(-1, 4)
    changed = augmentation(Sample(image, boxes, kept=np.arange(len(boxes))), random)
    shares = changed.boxes[:, 2:].prod(1) / boxes[changed.kept, 2:].prod(1)
    return changed.image, {
        "bbox": changed.boxes.tolist(),
        "category": [objects["category"][number] for number in changed.kept],
        "area": [objects["area"][number] * share for number, share in zip(changed.kept, shares.tolist(), strict=True)],
        "iscrowd": [objects["iscrowd"][number] for number in changed.kept],
    }


def detector_inputs(
    image_processor: BaseImageProcessor, image: PIL.Image.Image, image_id: int, objects: Objects
) -> dict[str, Any]:
    """Lets the image processor prepare an image and its objects. It leaves crowds out.

    Returns:
        `pixel_values` of shape (3, H, W) and `labels`: `class_labels` of shape (N,), `boxes` of shape (N, 4), centre
        and size as shares of the image's sides, and more, among it `image_id` and `orig_size`.
    """
    names = {"bbox": "bbox", "category": "category_id", "area": "area", "iscrowd": "iscrowd"}
    columns = [objects[name] for name in names]
    annotations = [dict(zip(names.values(), values, strict=True)) for values in zip(*columns, strict=True)]
    encoded = image_processor(
        images=image, annotations={"image_id": image_id, "annotations": annotations}, return_tensors="pt"
    )
    return {"pixel_values": encoded["pixel_values"][0], "labels": encoded["labels"][0]}


def collate(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Makes a batch of prepared images; those of several sizes are filled up with zeros below and to the right.

    Boxes stay shares of each image's own sides, which `pixel_mask` tells the model.

    Returns:
        `pixel_values` of shape (B, 3, H, W), `labels`, a list, and, if sizes differ, `pixel_mask` of shape (B, H, W).
    """
    return {**stack_images([row["pixel_values"] for row in rows]), "labels": [row["labels"] for row in rows]}


def stack_images(images: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Makes a batch of images, (3, H, W) each; those of several sizes are filled up as `collate` says."""
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    padding = [(0, width - image.shape[2], 0, height - image.shape[1]) for image in images]
    padded = [functional.pad(image, pad) for image, pad in zip(images, padding, strict=True)]
    batch = {"pixel_values": torch.stack(padded)}
    if any(any(pad) for pad in padding):
        ones = [torch.ones(image.shape[1:], dtype=torch.long) for image in images]
        batch["pixel_mask"] = torch.stack([functional.pad(one, pad) for one, pad in zip(ones, padding, strict=True)])
    return batch
