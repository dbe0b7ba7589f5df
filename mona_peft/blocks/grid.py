"""Where a block's grid (H, W) comes from: its arguments, its input's shape, or what stands around it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from mona_peft.blocks.layout import Grid, Layout, grid_of_map
from mona_peft.blocks.packed import PackedCalls, PackedMaps
from mona_peft.blocks.patch_grids import PatchGrids

PATCH_GRID = "patch_grid"
"""Keyword with which an adapted block hands itself the grid of the patch projection."""


@dataclass(frozen=True)
class GridOfMap:
    """Reads (H, W) from the shape of the block's input.

    Attributes:
        layout: That of a map, `BHWC` or `BCHW`.
    """

    layout: Layout

    def keywords(self, hidden_states: torch.Tensor) -> dict[str, Grid]:
        """Nothing has to be handed in."""
        return {}

    def read(self, hidden_states: torch.Tensor, args: Sequence[Any], kwargs: dict[str, Any]) -> Grid:
        """Return (H, W) of the map `hidden_states`."""
        return grid_of_map(hidden_states, self.layout)


@dataclass(frozen=True)
class GridArguments:
    """Reads (H, W) from the arguments with which a block is called.

    Attributes:
        names: Names of the arguments that hold the grid.
        positions: Their positions among the positional arguments behind the hidden states.
    """

    names: tuple[str, ...]
    positions: tuple[int, ...]

    @classmethod
    def of(cls, block: nn.Module, names: tuple[str, ...]) -> GridArguments:
        """Find the arguments `names` in the signature of the block's `forward`.

        Raises:
            ValueError: If `forward` has no such argument.
        """
        stock_class = getattr(block, "stock_class", type(block))  # of a block that is adapted already
        arguments = _arguments_of(stock_class.forward)
        missing = [name for name in names if name not in arguments]
        if missing:
            raise ValueError(
                f"The anatomy of {type(block).__name__} takes the grid from the argument(s) {missing}, but its forward "
                f"has {list(arguments)}. Register the right one: `mona_peft.register_block(...)`."
            )
        return cls(names, tuple(map(arguments.index, names)))

    def keywords(self, hidden_states: torch.Tensor) -> dict[str, Grid]:
        """Nothing has to be handed in."""
        return {}

    def read(self, hidden_states: torch.Tensor, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Grid:
        """Return (H, W).

        Args:
            hidden_states: First argument of the call.
            args: Positional arguments of the call behind the hidden states.
            kwargs: Keyword arguments of the call.
        """
        values = [
            kwargs[name] if name in kwargs else args[position]
            for name, position in zip(self.names, self.positions, strict=True)
        ]
        height, width = values[0] if len(values) == 1 else values
        return height, width


@cache
def _arguments_of(forward: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of the arguments of a block's `forward` behind the hidden states."""
    return tuple(inspect.signature(forward).parameters)[2:]


@dataclass
class GridOfPatches:
    """Reads (H, W) from the patch projection that the block's tokens come from.

    Attributes:
        projection: Remembers the grids of the patches.
        pooling: (vertical, horizontal) factors by which stages in front of the block made the grid smaller.
        num_prefix: Number of prefix tokens, once it is known; tells grids apart.
        windows: Number of windows of an image, each of which is a sample of its own.
    """

    projection: PatchGrids
    pooling: tuple[tuple[int, int], ...] = ()
    num_prefix: int | None = None
    windows: int = 1

    def keywords(self, hidden_states: torch.Tensor) -> dict[str, Grid]:
        """Return the keyword argument that carries the grid of the patches into the block."""
        return {PATCH_GRID: self.projection.read(self, hidden_states)}

    def read(self, hidden_states: torch.Tensor, args: Sequence[Any], kwargs: dict[str, Any]) -> Grid:
        """Return (H, W), and take the keyword of `keywords` out of `kwargs`."""
        return self.pooled(kwargs.pop(PATCH_GRID, None) or self.projection.read(self, hidden_states))

    def pooled(self, grid: Grid) -> Grid:
        """Return the grid of the block's tokens, given that of the patches."""
        if not self.pooling:
            return grid
        height, width = grid
        for vertical, horizontal in self.pooling:
            height, width = height // vertical, width // horizontal
        return height, width


@dataclass(frozen=True)
class GridsOfCall:
    """Reads where several maps lie in one sequence from the call of the module around the blocks.

    Attributes:
        calls: Remembers what that module was told.
    """

    calls: PackedCalls

    def keywords(self, hidden_states: torch.Tensor) -> dict[str, PackedMaps]:
        """Return the keyword argument that carries the maps into the block."""
        return {PATCH_GRID: self.calls.read(hidden_states)}

    def read(self, hidden_states: torch.Tensor, args: Sequence[Any], kwargs: dict[str, Any]) -> PackedMaps:
        """Return the maps, and take the keyword of `keywords` out of `kwargs`."""
        return kwargs.pop(PATCH_GRID, None) or self.calls.read(hidden_states)
