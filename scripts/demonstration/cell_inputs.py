"""Solar cells as models take them, and frozen blocks of DINOv2-small run over them once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import AutoModelForImageClassification, Dinov2ForImageClassification, PreTrainedModel

from scripts.demonstration.dinov2 import MEAN, STD, dinov2_small
from scripts.demonstration.frozen_prefix import tokens_before
from scripts.demonstration.solar_cells import CLASSES

SIZE = 98
"""Side of the images in pixels; a patch has 14."""

FIRST_BLOCK = 8
"""The blocks before it are frozen, of twelve."""

MIRRORED = ((), (-1,), (-2,), (-2, -1))
"""Axes along which an image is flipped; the first is the image itself, and the only one outside of training."""


@dataclass(frozen=True)
class Backbone:
    """What is adapted.

    Attributes:
        folder: Returns where it is.
        size: Side of its images in pixels.
    """

    folder: Callable[[], Path]
    size: int


BACKBONES = {
    "dinov2": Backbone(lambda: dinov2_small(), SIZE),
    "swin": Backbone(lambda: Path(__file__).parent / "distilled", 128),
}


def classifier(classes: Sequence[str] = CLASSES, backbone: str = "dinov2") -> PreTrainedModel:
    """Returns a backbone with a new head for the classes; attention that is quick in bfloat16 on a CPU."""
    return AutoModelForImageClassification.from_pretrained(
        BACKBONES[backbone].folder(), id2label=dict(enumerate(classes)), attn_implementation="eager"
    )


def pixel_values(images: np.ndarray, size: int = SIZE) -> torch.Tensor:
    """Returns grey images, (N, H, W) of bytes, as DINOv2 takes them, (N, 3, size, size)."""
    grey = torch.from_numpy(images).unsqueeze(1).float() / 255
    small = torch.nn.functional.interpolate(grey, size=(size, size), mode="bicubic", antialias=True).clamp(0, 1)
    return (small - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


def mirrored_inputs(
    model: Dinov2ForImageClassification,
    first_block: int,
    pixels: torch.Tensor,
    mirrored: Sequence[tuple[int, ...]] = MIRRORED,
) -> torch.Tensor:
    """Returns what the blocks from a number on take of images in some mirrorings, (N, V, ...) in bfloat16."""
    return torch.stack([tokens_before(model, first_block, pixels.flip(axes)).bfloat16() for axes in mirrored], dim=1)


class CellInputs(Dataset):
    """What a model takes of some cells.

    Args:
        inputs: (N, V, ...), of all cells, in V mirrorings.
        labels: (N,), of all cells.
        numbers: Which cells.
        is_mirrored: Whether each is drawn in any of its mirrorings, by PyTorch's own random numbers.
    """

    def __init__(self, inputs: torch.Tensor, labels: np.ndarray, numbers: np.ndarray, is_mirrored: bool) -> None:
        self.inputs, self.labels, self.numbers = inputs, labels, numbers
        self.num_variants = inputs.shape[1] if is_mirrored else 1

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = self.numbers[index]
        variant = int(torch.randint(self.num_variants, ()))
        return {"pixel_values": self.inputs[number, variant].float(), "labels": int(self.labels[number])}
