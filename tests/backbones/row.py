"""What a row of the table of backbones says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import transformers
from torch import nn

from tests import naive_blocks as naive


@dataclass(frozen=True)
class Backbone:
    """One row.

    Attributes:
        family: Name of the family, as in the documentation.
        make: Builds a tiny model with random weights, with dropout and stochastic depth where the family has them.
        naive: The adapted block by hand.
        strides: Pixels a token, for each block.
        prefix: Number of prefix tokens, for all blocks or for each.
        image: (H, W) of a non-square image, or of a square one where the model takes no other.
        further_images: Other sizes it takes.
        arguments: Further arguments of the model's forward.
        standard: A size in common use: its name, and what builds it.
        checkpoints: Kinds of gradient checkpointing that work in the stock model. PVT, EoMT, SAM 2 and 3 and
            convolutional nets have none, and of PVT v2's nested outputs the reentrant kind loses the gradients.
        features: Builds a tiny backbone that returns feature maps, if the family has one.
        mark: Pixels a side of a patch by which places are told apart; the coarsest stride, unless it spreads.
        compiles: Whether the stock model compiles as one graph; EoMT branches on the values of a tensor.
        requires: Name of a class that not every supported version of transformers has.
    """

    family: str
    make: Callable[[], nn.Module]
    naive: naive.NaiveBlock
    strides: tuple[int, ...]
    standard: tuple[str, Callable[[], nn.Module]]
    prefix: int | tuple[int, ...] = 0
    image: tuple[int, int] = (24, 40)
    further_images: tuple[tuple[int, int], ...] = ((40, 24), (16, 16))
    arguments: dict[str, Any] = field(default_factory=dict)
    checkpoints: tuple[str, ...] = ("non-reentrant", "reentrant")
    features: Callable[[], nn.Module] | None = None
    mark: int | None = None
    compiles: bool = True
    requires: str | None = None

    def exists(self) -> bool:
        """Whether the installed transformers has this family."""
        return self.requires is None or hasattr(transformers, self.requires)

    def grids(self, image: tuple[int, int]) -> list[tuple[int, int]]:
        """(H, W) of each block's tokens for an image size."""
        return [(image[0] // stride, image[1] // stride) for stride in self.strides]

    def prefixes(self) -> list[int]:
        """Number of prefix tokens of each block."""
        return [self.prefix] * len(self.strides) if isinstance(self.prefix, int) else list(self.prefix)


STAGES = {"image": (64, 96), "further_images": ((96, 64), (64, 64))}
CONVOLUTIONS = {"image": (128, 192), "further_images": ((96, 64), (64, 64)), "checkpoints": (), "mark": 64}
FIXED = {"image": (28, 28), "further_images": ()}
