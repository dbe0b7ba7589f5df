"""How the hidden states of a block lie in memory, and the one place where they are turned into tokens and back.

Adapters see tokens of shape (B, N, C), row by row of the grid, prefix tokens first. Blocks may hold instead

- `"BHWC"`: maps, channels last (SAM, timm's Swin);
- `"BCHW"`: maps, channels first (ConvNeXt, ViTDet);
- `"NC"`: one sequence of the tokens of all images of a batch (Qwen2.5-VL);
- `"BNC"` in mask units: Hiera reorders its tokens so that those of one unit lie at fixed strides;
- `"BNC"` in windows: RF-DETR makes each window of an image a sample of its own, with its own class token.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import torch

Grid = tuple[int, int]
"""Height and width of a token map, in tokens."""

VideoGrid = tuple[int, int, int]
"""Number of frames, and height and width of each, in tokens."""


class Layout(str, Enum):
    """Order of the dimensions of a block's hidden states: B samples, N tokens or H x W places, C channels."""

    BNC = "BNC"
    NC = "NC"
    BHWC = "BHWC"
    BCHW = "BCHW"

    @classmethod
    def of(cls, field: str, value: str) -> Layout:
        """Return the layout of a name.

        Raises:
            ValueError: If there is none; names `field` and those there are.
        """
        try:
            return cls(value)
        except ValueError:
            raise ValueError(f"{field}={value!r}: choose one of {tuple(layout.value for layout in cls)}.") from None


Strides = Sequence[Sequence[int]]
"""(vertical, horizontal) strides by which tokens were unrolled into mask units, the first unrolling first."""


def grid_of_map(hidden_states: torch.Tensor, layout: Layout) -> Grid:
    """Return (H, W) of a map in the layout `"BHWC"` or `"BCHW"`."""
    height, width = hidden_states.shape[1:3] if layout is Layout.BHWC else hidden_states.shape[2:4]
    return height, width


def to_tokens(
    hidden_states: torch.Tensor, layout: Layout, grid: Grid, strides: Strides = (), windows_a_side: int = 1
) -> torch.Tensor:
    """Turn the hidden states of a block into tokens of shape (B, N, C), row by row.

    Args:
        hidden_states: Tensor in the layout `layout`.
        layout: The layout.
        grid: (H, W) of the tokens.
        strides: Strides of the mask units in which the tokens lie; none if they lie row by row.
        windows_a_side: Number of windows along each side of an image, if each is a sample of its own.
    """
    if layout is Layout.NC:
        return hidden_states.unsqueeze(0)
    if layout is Layout.BCHW:
        return hidden_states.flatten(2).transpose(1, 2)
    if layout is Layout.BHWC:
        return hidden_states.flatten(1, 2)
    if strides:
        sizes, order = _mask_units(grid, strides)
        return _reorder(hidden_states, sizes, order)
    return _join_windows(hidden_states, grid, windows_a_side) if windows_a_side > 1 else hidden_states


def tokens_of(hidden_states: torch.Tensor) -> torch.Tensor:
    """Return tokens (B, N, C) as they are, and a map (B, C, H, W) as tokens, in the same memory if it can be."""
    return to_tokens(hidden_states, Layout.BCHW, ()) if hidden_states.dim() == 4 else hidden_states


def shaped_like(tokens: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
    """Undo `tokens_of(hidden_states)`."""
    if hidden_states.dim() == 3:
        return tokens
    return from_tokens(tokens, Layout.BCHW, grid_of_map(hidden_states, Layout.BCHW))


def is_dense(hidden_states: torch.Tensor) -> bool:
    """Whether `tokens_of(hidden_states)` lie in memory one after the other, where `hidden_states` lie."""
    return hidden_states.is_contiguous(
        memory_format=torch.channels_last if hidden_states.dim() == 4 else torch.contiguous_format
    )


def from_tokens(
    tokens: torch.Tensor, layout: Layout, grid: Grid, strides: Strides = (), windows_a_side: int = 1
) -> torch.Tensor:
    """Undo `to_tokens`: return tokens of shape (B, N, C) in the layout of a block."""
    if layout is Layout.NC:
        return tokens.squeeze(0)
    if layout is Layout.BCHW:
        return tokens.transpose(1, 2).unflatten(2, grid)
    if layout is Layout.BHWC:
        return tokens.unflatten(1, grid)
    if strides:
        sizes, order = _mask_units(grid, strides)
        inverse = sorted(range(len(order)), key=order.__getitem__)
        return _reorder(tokens, [sizes[axis] for axis in order], inverse)
    return _split_windows(tokens, grid, windows_a_side) if windows_a_side > 1 else tokens


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
