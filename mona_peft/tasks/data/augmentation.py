"""Augmentation of single images. Any callable of an image and a `random.Random` can stand in this table."""

from collections.abc import Callable
from random import Random

import PIL.Image
import PIL.ImageOps

Augmentation = Callable[[PIL.Image.Image, Random], PIL.Image.Image]


def random_box(size: tuple[int, int], random: Random, min_area: float = 0.4) -> tuple[int, int, int, int]:
    """Draws a rectangle inside an image.

    Args:
        size: Width and height of the image.
        random: Source of random numbers.
        min_area: Least share of the image's area; the share is drawn evenly from there up to 1. The ratio of the sides
            changes by a factor between 3/4 and 4/3, even on a logarithmic scale.

    Returns:
        Its left, top, right and bottom edge in pixels.
    """
    area, ratio = random.uniform(min_area, 1), (4 / 3) ** random.uniform(-1, 1)
    width = max(1, round(size[0] * min(1, (area * ratio) ** 0.5)))
    height = max(1, round(size[1] * min(1, (area / ratio) ** 0.5)))
    left, top = random.randint(0, size[0] - width), random.randint(0, size[1] - height)
    return left, top, left + width, top + height


def random_crop(image: PIL.Image.Image, random: Random) -> PIL.Image.Image:
    """Cuts a random rectangle out of an image; the image processor resizes it ("random resized crop")."""
    return image.crop(random_box(image.size, random))


def random_crop_and_flip(image: PIL.Image.Image, random: Random) -> PIL.Image.Image:
    """`random_crop`, and half of the images mirrored left to right."""
    image = random_crop(image, random)
    return PIL.ImageOps.mirror(image) if random.random() < 0.5 else image


AUGMENTATIONS: dict[str, Augmentation | None] = {
    "none": None,
    "crop": random_crop,
    "crop-flip": random_crop_and_flip,
}
