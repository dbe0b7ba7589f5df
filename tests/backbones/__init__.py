"""Every backbone that can be adapted, one row each: a tiny model, what is true of its tokens, its block by hand."""

from __future__ import annotations

import torch
from torch import nn

from tests.backbones.convolutional import CONVOLUTIONAL
from tests.backbones.maps import MAPS
from tests.backbones.plain import PLAIN
from tests.backbones.pyramids import PYRAMIDS
from tests.backbones.row import Backbone
from tests.backbones.towers import TOWERS

__all__ = ["BACKBONES", "TABLE", "Backbone", "build", "image"]

TABLE: dict[str, Backbone] = {**PYRAMIDS, **PLAIN, **TOWERS, **MAPS, **CONVOLUTIONAL}
"""The table, by name of the family in transformers."""

BACKBONES = {name: row for name, row in TABLE.items() if row.exists()}
"""The rows that the installed transformers has."""


def build(name: str) -> nn.Module:
    """Build a tiny backbone in evaluation mode; the same weights every time."""
    torch.manual_seed(0)
    return BACKBONES[name].make().eval()


def image(size: tuple[int, int], batch_size: int = 2, seed: int = 1) -> torch.Tensor:
    """Random images of shape (B, 3, H, W)."""
    return torch.randn(batch_size, 3, *size, generator=torch.Generator().manual_seed(seed))
