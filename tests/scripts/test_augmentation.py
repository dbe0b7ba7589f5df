"""Augmentation of images for classification: what is mirrored, what is not, and how often."""

from random import Random

import numpy as np
import pytest
from PIL import Image

from mona_peft.tasks.data.augmentation import AUGMENTATIONS

COUNT = 200


def rises(image: Image.Image) -> bool:
    """Whether an image is brighter at its right edge than at its left."""
    pixels = np.asarray(image.convert("L"), dtype=float)
    return pixels[:, -1].mean() > pixels[:, 0].mean()


@pytest.mark.parametrize(("name", "least", "most"), [("crop", 0, 0), ("crop-flip", 0.4, 0.6)])
def test_share_of_mirrored_images(name, least, most):
    ramp = Image.fromarray(np.tile(np.arange(0, 200, 4, dtype=np.uint8), (40, 1))).convert("RGB")
    assert rises(ramp)
    mirrored = [not rises(AUGMENTATIONS[name](ramp, Random(seed))) for seed in range(COUNT)]
    assert least <= np.mean(mirrored) <= most
