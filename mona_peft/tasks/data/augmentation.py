"""Random changes of training images: of places, in images, boxes and maps alike, and of colours.

Pillow makes them, one image at a time, on the workers that decode. On a CPU that takes less time than with kornia,
which joins images, boxes and masks in batches, as suits a GPU.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

import numpy as np
import PIL.Image
from PIL import ImageEnhance, ImageFilter, ImageOps

Level = Literal["none", "light", "standard", "strong"]

MIN_SIDE = 1.0
"""Least side in pixels of what is left of a box in a part of an image."""

ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)

OPERATIONS: dict[str, Callable[[PIL.Image.Image, Random], PIL.Image.Image]] = {
    "autocontrast": lambda image, random: ImageOps.autocontrast(image),
    "equalize": lambda image, random: ImageOps.equalize(image),
    "posterize": lambda image, random: ImageOps.posterize(image, random.randint(4, 7)),
    "solarize": lambda image, random: ImageOps.solarize(image, random.randint(128, 255)),
    "sharpness": lambda image, random: ImageEnhance.Sharpness(image).enhance(random.uniform(0.1, 1.9)),
    "blur": lambda image, random: image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 1.5))),
    "grey": lambda image, random: ImageOps.grayscale(image).convert("RGB"),
}
"""Those of RandAugment that leave everything in its place, and two that self-supervised training uses."""

ERASED = (0.02, 0.2)
"""Least and greatest share of an image that random erasing paints over."""


@dataclass
class Sample:
    """An image and what is annotated in it; what there is not is None.

    Attributes:
        image: In RGB.
        boxes: (N, 4) left, top, width, height in pixels.
        maps: (..., H, W) class map or masks.
        kept: (M,) Numbers of the boxes that are left, in their order.
    """

    image: PIL.Image.Image
    boxes: np.ndarray | None = None
    maps: np.ndarray | None = None
    kept: np.ndarray | None = None


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training image.

    Attributes:
        min_area: Least share of the image that a random crop keeps; 1 for no crop.
        flip: Whether half of the images are mirrored left to right.
        colour: Greatest change of brightness, contrast and saturation, as a share.
        operations: How many of `OPERATIONS` are applied, drawn anew for each image.
        erase: Share of the images of which a rectangle is painted over.
    """

    min_area: float = 1.0
    flip: bool = False
    colour: float = 0.0
    operations: int = 0
    erase: float = 0.0

    def __call__(self, sample: Sample, random: Random) -> Sample:
        """Returns the changed image and annotation."""
        if self.min_area < 1:
            sample = crop(sample, random_box(sample.image.size, random, self.min_area))
        if self.flip and random.random() < 0.5:
            sample = mirror(sample)
        return replace(sample, image=self.change_colours(sample.image, random))

    def change_colours(self, image: PIL.Image.Image, random: Random) -> PIL.Image.Image:
        """Changes what a picture looks like, and nothing's place in it."""
        if self.colour:
            for enhancer in random.sample(ENHANCERS, len(ENHANCERS)):
                image = enhancer(image).enhance(random.uniform(1 - self.colour, 1 + self.colour))
        for name in random.sample(sorted(OPERATIONS), self.operations):
            image = OPERATIONS[name](image, random)
        if self.erase and random.random() < self.erase:
            share = random.uniform(*ERASED) ** 0.5
            width, height = (max(1, round(side * share)) for side in image.size)
            at = (random.randint(0, image.width - width), random.randint(0, image.height - height))
            image = image.copy()
            image.paste(tuple(random.randint(0, 255) for _ in range(3)), (*at, at[0] + width, at[1] + height))
        return image

    def least_side(self, side: int, random: Random) -> int:
        """Returns how many pixels the shorter side of an image needs so that its crop is not enlarged to `side`.

        Args:
            side: Of what is made of the crop, in pixels.
            random: In the state in which the augmentation will be given it.
        """
        return round(side / min(crop_shares(random, self.min_area))) if self.min_area < 1 else side


LEVELS: dict[Level, Augmentation] = {
    "none": Augmentation(),
    "light": Augmentation(min_area=0.4),
    "standard": Augmentation(min_area=0.4, colour=0.2),
    "strong": Augmentation(min_area=0.25, colour=0.4, operations=2, erase=0.25),
}


def augmentation(level: Level, flip: bool | None = None) -> Augmentation | None:
    """Returns the augmentation of a level.

    Args:
        level: How much images are changed.
        flip: Whether half of them are mirrored. None: on every level but `none`.
    """
    chosen = replace(LEVELS[level], flip=level != "none" if flip is None else flip)
    return None if chosen == Augmentation() else chosen


def random_box(size: tuple[int, int], random: Random, min_area: float = 0.4) -> tuple[int, int, int, int]:
    """Draws a rectangle inside an image ("random resized crop").

    Args:
        size: Width and height of the image.
        random: Source of random numbers.
        min_area: Least share of the image's area; the share is drawn evenly from there up to 1. The ratio of the sides
            changes by a factor between 3/4 and 4/3, even on a logarithmic scale.

    Returns:
        Its left, top, right and bottom edge in pixels.
    """
    width, height = (
        max(1, round(side * share)) for side, share in zip(size, crop_shares(random, min_area), strict=True)
    )
    left, top = random.randint(0, size[0] - width), random.randint(0, size[1] - height)
    return left, top, left + width, top + height


def crop_shares(random: Random, min_area: float) -> tuple[float, float]:
    """Draws which shares of an image's width and height a random crop has, as `random_box` tells."""
    area, ratio = random.uniform(min_area, 1), (4 / 3) ** random.uniform(-1, 1)
    return min(1, (area * ratio) ** 0.5), min(1, (area / ratio) ** 0.5)


def crop(sample: Sample, edges: Sequence[int]) -> Sample:
    """Cuts a rectangle out of an image, and boxes off at its edges; boxes of which no pixel is left are left out.

    Args:
        sample: The image and what is in it.
        edges: Left, top, right and bottom in pixels.
    """
    left, top, right, bottom = edges
    maps = None if sample.maps is None else sample.maps[..., top:bottom, left:right]
    cropped = replace(sample, image=sample.image.crop((left, top, right, bottom)), maps=maps)
    if sample.boxes is None:
        return cropped
    boxes = sample.boxes.reshape(-1, 4)
    start = np.maximum(boxes[:, :2], (left, top))
    size = np.minimum(boxes[:, :2] + boxes[:, 2:], (right, bottom)) - start
    inside = (size >= MIN_SIDE).all(1)
    kept = np.arange(len(boxes)) if sample.kept is None else sample.kept
    cut = np.concatenate([start - (left, top), size], 1)[inside]
    return replace(cropped, boxes=cut, kept=kept[inside])


def mirror(sample: Sample) -> Sample:
    """Mirrors an image and what is in it left to right."""
    boxes = sample.boxes
    if boxes is not None:
        boxes = boxes.reshape(-1, 4).copy()
        boxes[:, 0] = sample.image.width - boxes[:, 0] - boxes[:, 2]
    maps = None if sample.maps is None else sample.maps[..., ::-1]
    return replace(sample, image=ImageOps.mirror(sample.image), boxes=boxes, maps=maps)
