"""Images with objects as a detector takes them."""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import PIL.Image
import PIL.ImageOps
import torch
from torch.nn import functional
from transformers import BaseImageProcessor

from mona_peft.tasks.data.augmentation import random_box
from mona_peft.tasks.data.dataset import ImageDataset
from mona_peft.tasks.data.objects.check import Objects

ObjectAugmentation = Callable[[PIL.Image.Image, Objects, Random], tuple[PIL.Image.Image, Objects]]
"""From an image and its objects to others of them; masks are not needed and may get lost."""

MIN_SIDE = 1.0
"""Least side in pixels of what is left of a box in a part of an image."""


def crop(image: PIL.Image.Image, objects: Objects, random: Random) -> tuple[PIL.Image.Image, Objects]:
    """Cuts out a random rectangle, and boxes off at its edges; boxes that lie outside are left out."""
    edges = random_box(image.size, random)
    kept: Objects = {name: [] for name in ("bbox", "category", "area", "iscrowd")}
    for box, category, area, iscrowd in zip(*(objects[name] for name in kept), strict=True):
        left, top = max(box[0], edges[0]), max(box[1], edges[1])
        width, height = min(box[0] + box[2], edges[2]) - left, min(box[1] + box[3], edges[3]) - top
        if width >= MIN_SIDE and height >= MIN_SIDE:
            share = width * height / (box[2] * box[3])
            values = ([left - edges[0], top - edges[1], width, height], category, area * share, iscrowd)
            for column, value in zip(kept.values(), values, strict=True):
                column.append(value)
    return image.crop(edges), kept


def flip(image: PIL.Image.Image, objects: Objects, random: Random) -> tuple[PIL.Image.Image, Objects]:
    """Mirrors half of the images left to right."""
    if random.random() < 0.5:
        return image, objects
    mirrored = [[image.width - left - width, top, width, height] for left, top, width, height in objects["bbox"]]
    return PIL.ImageOps.mirror(image), {**objects, "bbox": mirrored}


def crop_and_flip(image: PIL.Image.Image, objects: Objects, random: Random) -> tuple[PIL.Image.Image, Objects]:
    """`crop`, then `flip`."""
    return flip(*crop(image, objects, random), random)


OBJECT_AUGMENTATIONS: dict[str, ObjectAugmentation | None] = {
    "none": None,
    "crop": crop,
    "flip": flip,
    "crop-flip": crop_and_flip,
}


class ObjectDetectionDataset(ImageDataset):
    """Rows in the form of `data.objects.loading`, as `detector_inputs` makes them of each."""

    augmentation: ObjectAugmentation | None

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, row = self.image(index), self.rows[index]
        objects = row["objects"]
        if self.augmentation is not None:
            image, objects = self.augmentation(image, objects, self.random(index))
        return detector_inputs(self.image_processor, image, row["image_id"], objects)


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
