"""scikit-learn's real handwritten digits over photographs: the task of the demonstration."""

from functools import cache
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from PIL import Image as PILImage
from sklearn.datasets import load_digits

from mona_peft.tasks.data.stored import stored_png
from scripts.demonstration.overlay import Variation, overlay
from scripts.demonstration.photographs import random_background

DIGITS = "handwritten digits over photographs (embedded default)"
IMAGE_SIZE = 64
SCANS = {"train": range(1000), "validation": range(1000, 1297), "test": range(1297, 1797)}
"""Which of the 1,797 scans belong to a split. No two splits share a scan or a photograph."""

VARIATION = Variation(size=(0.35, 0.7), angle=25, shear=0.2, stretch=1.3, contrast=40, opacity=0.7)


def digit_stencil(scan: np.ndarray) -> PILImage.Image:
    """Enlarges a scan and cuts it to its bounds.

    Args:
        scan: (8, 8), from 0 to 16, as scikit-learn gives it.

    Returns:
        Image in grey levels of at most 96 x 96 pixels.
    """
    stencil = PILImage.fromarray((scan * 255 / 16).astype(np.uint8))
    # A rim of nothing, without which strokes that touch the scan's edge would end in a straight cut.
    padded = PILImage.new("L", (10, 10))
    padded.paste(stencil, (1, 1))
    enlarged = padded.resize((120, 120), PILImage.Resampling.BICUBIC)
    return enlarged.crop(enlarged.point(lambda level: 255 if level > 32 else 0).getbbox())


@cache  # for processes that train several times
def handwritten_digits(seed: int = 0) -> DatasetDict:
    """Builds the splits `train`, `validation` and `test`, the same every time.

    Args:
        seed: Of places, sizes, colours, turns and backgrounds.

    Returns:
        Rows of `image`, 64 x 64 pixels, and `label`, the digit.
    """
    digits = load_digits()
    features = Features({"image": Image(), "label": ClassLabel(names=[str(digit) for digit in range(10)])})
    splits = {}
    for split, scans in SCANS.items():
        pictures = [_picture(digits.images[scan], split, np.random.default_rng([seed, scan])) for scan in scans]
        rows = {"image": pictures, "label": [int(digits.target[scan]) for scan in scans]}
        splits[split] = Dataset.from_dict(rows, features=features)
    return DatasetDict(splits)


@cache
def digit_images() -> DatasetDict:
    """Returns `handwritten_digits`, not decoded, as `load_image_classification` returns a user's images."""
    return handwritten_digits().cast_column("image", Image(decode=False))


def _picture(scan: np.ndarray, split: str, random: np.random.Generator) -> dict[str, Any]:
    background = random_background(split, IMAGE_SIZE, random)
    picture, _ = overlay(background, digit_stencil(scan), VARIATION, random)
    return stored_png(picture)
