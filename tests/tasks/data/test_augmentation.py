"""Augmentation of images for classification: what is mirrored, what is not, and how often."""

from random import Random

import numpy as np
import pytest
from PIL import Image

from mona_peft.tasks.data.augmentation import Sample, augmentation

COUNT = 200


def rises(image: Image.Image) -> bool:
    """Whether an image is brighter at its right edge than at its left."""
    pixels = np.asarray(image.convert("L"), dtype=float)
    return pixels[:, -1].mean() > pixels[:, 0].mean()


@pytest.mark.parametrize(("flip", "least", "most"), [(False, 0, 0), (None, 0.4, 0.6)])
def test_share_of_mirrored_images(flip, least, most):
    ramp = Image.fromarray(np.tile(np.arange(0, 200, 4, dtype=np.uint8), (40, 1))).convert("RGB")
    assert rises(ramp)
    mirrored = [not rises(augmentation("light", flip)(Sample(ramp), Random(seed)).image) for seed in range(COUNT)]
    assert least <= np.mean(mirrored) <= most
