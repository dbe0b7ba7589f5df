"""Token maps of one image whose tokens do not lie row by row.

Most of what an adapter does, it does to each token by itself, in whatever order they lie. Only filters have to see an
image, and in a bottleneck its tokens are few numbers long: so they are put in order there, and not in the block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from mona_peft.blocks.layout import Grid

Strides = Sequence[Sequence[int]]
"""(vertical, horizontal) strides by which tokens were unrolled into mask units, the first unrolling first."""


@dataclass(frozen=True)
class ReorderedGrid:
    """The grid of an image whose tokens lie in mask units (Hiera), or in windows (RF-DETR, LW-DETR).

    Attributes:
        grid: (H, W) of the image.
        strides: Strides of the mask units in which the tokens lie, if they do: those of one unit lie at fixed strides.
        windows_a_side: Number of windows along each side of the image, if each is a sample of its own, with prefix
            tokens of its own.
    """

    grid: Grid
    strides: Strides = ()
    windows_a_side: int = 1

    def row_by_row(self, tokens: torch.Tensor) -> torch.Tensor:
        """Turn tokens as the block has them, of any number of channels, into those of whole images.

        Args:
            tokens: (B, H * W, n) in mask units, or windows (B * side^2, P + H * W / side^2, n).

        Returns:
            (B, P' + H * W, n), row by row, the P' prefix tokens of all windows first; a copy.
        """
        if self.strides:
            sizes, order = _mask_units(self.grid, self.strides)
            return _reorder(tokens, sizes, order)
        return _join_windows(tokens, self.grid, self.windows_a_side)

    def as_in_block(self, tokens: torch.Tensor) -> torch.Tensor:
        """Undo `row_by_row`."""
        if self.strides:
            sizes, order = _mask_units(self.grid, self.strides)
            inverse = sorted(range(len(order)), key=order.__getitem__)
            return _reorder(tokens, [sizes[axis] for axis in order], inverse)
        return _split_windows(tokens, self.grid, self.windows_a_side)

    def each(self, compute: Callable[[torch.Tensor, Grid], torch.Tensor], tokens: torch.Tensor) -> torch.Tensor:
        """Return what `compute(tokens, grid)` gives for tokens that lie row by row, in the order of the block."""
        return self.as_in_block(compute(self.row_by_row(tokens), self.grid))


def _join_windows(hidden_states: torch.Tensor, grid: Grid, side: int) -> torch.Tensor:
    """Join windows (B * side^2, P + N / side^2, C) to whole images, the prefix tokens of all windows first."""
    height, width = grid[0] // side, grid[1] // side
    windows = hidden_states.unflatten(0, (-1, side**2))
    num_prefix = windows.shape[2] - height * width
    places = windows[:, :, num_prefix:].unflatten(2, (height, width)).unflatten(1, (side, side))
    return torch.cat([windows[:, :, :num_prefix].flatten(1, 2), places.transpose(2, 3).flatten(1, 4)], dim=1)


def _split_windows(tokens: torch.Tensor, grid: Grid, side: int) -> torch.Tensor:
    """Undo `_join_windows`."""
    height, width = grid[0] // side, grid[1] // side
    num_prefix = tokens.shape[1] - grid[0] * grid[1]
    places = tokens[:, num_prefix:].unflatten(1, (side, height, side, width)).transpose(2, 3)
    prefix = tokens[:, :num_prefix].unflatten(1, (side**2, -1))
    return torch.cat([prefix, places.flatten(3, 4).flatten(1, 2)], dim=2).flatten(0, 1)


def _mask_units(grid: Grid, strides: Strides) -> tuple[list[int], list[int]]:
    """Axes into which tokens in mask units split, and their order when the tokens lie row by row.

    Unrolling by a stride s writes y = s * y' + a and moves a, an axis of length s, to the front; so after k unrollings
    the axes are (a1, b1, ..., ak, bk, y, x), and row by row they are (y, ak, ..., a1, x, bk, ..., b1).
    """
    height, width = grid
    sizes = []
    for vertical, horizontal in strides:
        sizes += [vertical, horizontal]
        height, width = height // vertical, width // horizontal
    rows = [len(sizes), *reversed(range(0, len(sizes), 2))]
    columns = [len(sizes) + 1, *reversed(range(1, len(sizes), 2))]
    return [*sizes, height, width], rows + columns


def _reorder(tokens: torch.Tensor, sizes: list[int], order: list[int]) -> torch.Tensor:
    axes = tokens.unflatten(1, sizes).permute(0, *(1 + axis for axis in order), len(sizes) + 1)
    return axes.flatten(1, len(sizes))
