"""What the frozen features of a model tell apart: solar cells and digits, by a linear classifier and by neighbours."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifierCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from scripts.demonstration.cell_inputs import pixel_values
from scripts.demonstration.digits import SCANS, digit_stencil, handwritten_digits
from scripts.demonstration.dinov2 import MEAN, STD
from scripts.demonstration.solar_cells import load_solar_cells, split, subset

NUM_TRAINING, NUM_TEST = 600, 1300
"""Cells, all drawn from those to train on: whatever is chosen by these figures was not chosen by test cells."""

Part = tuple[torch.Tensor, np.ndarray]
"""Images, (N, 3, H, W), and labels, (N,)."""


def cells(size: int, num_training: int = NUM_TRAINING, num_test: int = NUM_TEST) -> tuple[Part, Part]:
    """Returns solar cells to train and to test on, at a size in pixels."""
    every = load_solar_cells()
    pool, _ = split(every)
    training = subset(every, pool, num_training, seed=0)
    test = subset(every, np.setdiff1d(pool, training), num_test, seed=0)
    return tuple((pixel_values(every.images[part], size), every.labels[part]) for part in (training, test))


def digits(size: int) -> tuple[Part, Part]:
    """Returns handwritten digits over photographs to train and to test on, at a size in pixels."""
    splits = _digits()
    return tuple(
        (torch.stack([as_input(image.resize((size, size))) for image in splits[name]["image"]]), _labels(splits[name]))
        for name in ("train", "test")
    )


def plain_digits(size: int) -> tuple[Part, Part]:
    """Returns the same digits, bright on black and without a photograph, to train and to test on."""
    scans = load_digits()
    return tuple(
        (torch.stack([_on_black(scans.images[scan], size) for scan in SCANS[name]]), scans.target[list(SCANS[name])])
        for name in ("train", "test")
    )


SETS: dict[str, Callable[[int], tuple[Part, Part]]] = {"cells": cells, "digits": digits, "plain_digits": plain_digits}


def as_input(image: Image.Image) -> torch.Tensor:
    """Returns a picture in RGB as DINOv2 takes it, (3, H, W)."""
    pixels = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1)
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


@torch.no_grad()
def features(model: nn.Module, images: torch.Tensor) -> np.ndarray:
    """Returns what a model pools of images: DINOv2 its class token, Swin the mean of its last stage; (N, C)."""
    model.eval()
    with torch.autocast(images.device.type, torch.bfloat16):
        return torch.cat([model(part).pooler_output.float() for part in images.split(50)]).numpy()


def probe(model: nn.Module, size: int) -> dict[str, float]:
    """Returns accuracies on test images: a linear classifier (ridge, its penalty by leaving one out) and 10 neighbours.

    Args:
        model: Returns `pooler_output` of shape (B, C).
        size: Of images, in pixels.
    """
    found = {}
    for name, load in SETS.items():
        (images, labels), (test_images, test_labels) = load(size)
        known, asked = features(model, images), features(model, test_images)
        classifiers = {
            "linear": make_pipeline(StandardScaler(), RidgeClassifierCV(np.logspace(0, 5, 6))),
            "neighbours": KNeighborsClassifier(10, metric="cosine"),
        }
        for way, classifier in classifiers.items():
            found[f"{name}_{way}"] = float(classifier.fit(known, labels).score(asked, test_labels))
    return found


def _on_black(scan: np.ndarray, size: int) -> torch.Tensor:
    stencil = digit_stencil(scan)
    picture = Image.new("L", (2 * max(stencil.size),) * 2)
    picture.paste(stencil, ((picture.width - stencil.width) // 2, (picture.height - stencil.height) // 2))
    return as_input(picture.convert("RGB").resize((size, size)))


@cache
def _digits() -> DatasetDict:
    return handwritten_digits()


def _labels(rows: Dataset) -> np.ndarray:
    return np.array(rows["label"])
