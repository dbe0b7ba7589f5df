"""Real photographs that scikit-image and scikit-learn ship, in groups that share none."""

from collections.abc import Callable
from functools import cache

import numpy as np
import skimage.data
from PIL import Image
from sklearn.datasets import load_sample_image

PHOTOGRAPHS: dict[str, dict[str, Callable[[], np.ndarray]]] = {
    "pretraining": {
        "astronaut": skimage.data.astronaut,
        "brick": skimage.data.brick,
        "camera": skimage.data.camera,
        "coins": skimage.data.coins,
        "grass": skimage.data.grass,
        "hubble_deep_field": skimage.data.hubble_deep_field,
        "retina": skimage.data.retina,
    },
    "train": {
        "chelsea": skimage.data.chelsea,
        "china": lambda: load_sample_image("china.jpg"),
        "gravel": skimage.data.gravel,
        "immunohistochemistry": skimage.data.immunohistochemistry,
        "motorcycle": lambda: skimage.data.stereo_motorcycle()[0],
    },
    "validation": {
        "coffee": skimage.data.coffee,
        "moon": skimage.data.moon,
    },
    "test": {
        "cell": skimage.data.cell,
        "flower": lambda: load_sample_image("flower.jpg"),
        "rocket": skimage.data.rocket,
    },
}
"""Loaders by group and name. Pictures of text and of a clock face are in none: they show letters and digits."""


@cache
def photographs(group: str) -> tuple[Image.Image, ...]:
    """Returns the photographs of a group, in RGB."""
    return tuple(Image.fromarray(load()).convert("RGB") for load in PHOTOGRAPHS[group].values())


def random_background(group: str, size: int, random: np.random.Generator) -> Image.Image:
    """Cuts a square out of a photograph of a group.

    Args:
        group: A key of `PHOTOGRAPHS`.
        size: Side of the result in pixels. The square's own side is drawn evenly, from this up to the photograph's
            shorter side.
        random: Source of random numbers; decides on photograph, place, size and mirroring.
    """
    images = photographs(group)
    image = images[random.integers(len(images))]
    side = int(random.integers(size, min(image.size) + 1))
    left, top = (int(random.integers(length - side + 1)) for length in image.size)
    background = image.resize((size, size), Image.Resampling.BILINEAR, (left, top, left + side, top + side), 3.0)
    return background.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else background


def exchange_colours(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    """Returns a picture with its three channels in a random order: a few photographs become many more."""
    return Image.fromarray(np.ascontiguousarray(np.asarray(picture)[..., random.permutation(3)]))
