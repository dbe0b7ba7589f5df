"""Where a block's grid (H, W) comes from: its arguments, its input's shape, or the patch projection in front of it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mona_peft.blocks.layout import Grid, grid_of_map

PATCH_GRID = "patch_grid"
"""Keyword with which an adapted block hands itself the grid of the patch projection."""


@dataclass(frozen=True)
class GridOfMap:
    """Reads (H, W) from the shape of the block's input.

    Attributes:
        layout: `"BHWC"` or `"BCHW"`.
    """

    layout: str

    def keywords(self) -> dict[str, Grid]:
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
        arguments = list(inspect.signature(stock_class.forward).parameters)[2:]
        missing = [name for name in names if name not in arguments]
        if missing:
            raise ValueError(
                f"The anatomy of {type(block).__name__} takes the grid from the argument(s) {missing}, but its forward "
                f"has {arguments}. Register the right one: `mona_peft.register_block(...)`."
            )
        return cls(names, tuple(arguments.index(name) for name in names))

    def keywords(self) -> dict[str, Grid]:
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


class PatchGrid:
    """Forward hook of a patch projection: remembers the grid (H, W) of its last output.

    The grid is handed to each block as an argument of its call, outside of gradient checkpointing: what is recomputed
    in the backward pass then sees the grid of its own forward pass, not that of a later one. Where more than a block is
    recomputed at once, the grid is read anew; it is the right one unless several sizes went through, which raises.
    """

    def __init__(self) -> None:
        self.grid: Grid | None = None
        self._unused: set[Grid] = set()
        self._was_recomputed = False

    def __call__(self, projection: nn.Module, args: tuple, output: torch.Tensor) -> None:
        """Remember the grid of `output`, of shape (B, C, H, W)."""
        height, width = output.shape[2:4]
        self.grid = (height, width)
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return
        if self._was_recomputed:
            self._unused, self._was_recomputed = set(), False
        self._unused.add(self.grid)

    def read(self) -> Grid:
        """Return the grid of the last image.

        Raises:
            RuntimeError: If no image went through the patch projection, or several grids did whose backward pass is
                still to come and a block is recomputed in it without having been handed its own.
        """
        if self.grid is None:
            raise RuntimeError(
                "The grid of the patches is not known: no image went through the patch projection. Call the whole "
                "model, not a block of it."
            )
        if not torch.compiler.is_compiling() and _in_backward_pass():
            self._was_recomputed = True
            if len(self._unused) > 1:
                raise RuntimeError(
                    f"Images of several grids, {sorted(self._unused)}, share one backward pass, and gradient "
                    "checkpointing recomputes more than single blocks, so it is not known which grid belongs to "
                    "which block. Call backward() after each size, or leave gradient checkpointing off."
                )
        return self.grid

    def __getstate__(self) -> dict[str, Any]:
        """Copies and files hold no grid: it belongs to the last call."""
        return vars(PatchGrid())


def _in_backward_pass() -> bool:
    return torch._C._current_graph_task_id() != -1


def patch_grid_of(projection: nn.Module) -> PatchGrid:
    """Return the hook that remembers the grid of `projection`, registering it if there is none yet."""
    for hook in projection._forward_hooks.values():
        if isinstance(hook, PatchGrid):
            return hook
    hook = PatchGrid()
    projection.register_forward_hook(hook)
    return hook


def forget_patch_grids(model: nn.Module) -> None:
    """Take all `PatchGrid` hooks off a model."""
    for module in model.modules():
        for key, hook in list(module._forward_hooks.items()):
            if isinstance(hook, PatchGrid):
                del module._forward_hooks[key]


@dataclass
class GridOfPatches:
    """Reads (H, W) from the patch projection that the block's tokens come from.

    Attributes:
        projection: Remembers the grid of the patches.
        pooling: (vertical, horizontal) factors by which stages in front of the block made the grid smaller.
    """

    projection: PatchGrid
    pooling: tuple[tuple[int, int], ...] = ()

    def keywords(self) -> dict[str, Grid]:
        """Return the keyword argument that carries the grid of the patches into the block."""
        return {PATCH_GRID: self.projection.read()}

    def read(self, hidden_states: torch.Tensor, args: Sequence[Any], kwargs: dict[str, Any]) -> Grid:
        """Return (H, W), and take the keyword of `keywords` out of `kwargs`."""
        height, width = kwargs.pop(PATCH_GRID, None) or self.projection.read()
        for vertical, horizontal in self.pooling:
            height, width = height // vertical, width // horizontal
        return height, width
