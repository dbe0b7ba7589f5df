"""Images with objects as a detector takes them."""

from collections.abc import Sequence
from typing import Any

import PIL.Image
import torch
from torch.nn import functional
from transformers import BaseImageProcessor

from scripts.common.coco_objects import Objects
from scripts.common.image_dataset import ImageDataset


class ObjectDetectionDataset(ImageDataset):
    """Rows in the form of `coco_data`, as `detector_inputs` makes them of each."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, row = self.image(index), self.rows[index]
        return detector_inputs(self.image_processor, image, row["image_id"], row["objects"])


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
    images = [row["pixel_values"] for row in rows]
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    padding = [(0, width - image.shape[2], 0, height - image.shape[1]) for image in images]
    batch = {
        "pixel_values": torch.stack([functional.pad(image, pad) for image, pad in zip(images, padding, strict=True)]),
        "labels": [row["labels"] for row in rows],
    }
    if any(any(pad) for pad in padding):
        ones = [torch.ones(image.shape[1:], dtype=torch.long) for image in images]
        batch["pixel_mask"] = torch.stack([functional.pad(one, pad) for one, pad in zip(ones, padding, strict=True)])
    return batch
