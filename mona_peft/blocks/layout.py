"""How the hidden states of a block lie in memory, and the one place where they are turned into tokens and back.

Adapters see tokens of shape (B, N, C), prefix tokens first. Blocks may hold instead

- `"BHWC"`: maps, channels last (SAM, timm's Swin);
- `"BCHW"`: maps, channels first (ConvNeXt, ViTDet);
- `"NC"`: one sequence of the tokens of all images of a batch (Qwen2.5-VL).
"""

from __future__ import annotations

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


def grid_of_map(hidden_states: torch.Tensor, layout: Layout) -> Grid:
    """Return (H, W) of a map in the layout `"BHWC"` or `"BCHW"`."""
    height, width = hidden_states.shape[1:3] if layout is Layout.BHWC else hidden_states.shape[2:4]
    return height, width


def to_tokens(hidden_states: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Turn the hidden states of a block in `layout` into tokens of shape (B, N, C)."""
    if layout is Layout.NC:
        return hidden_states.unsqueeze(0)
    if layout is Layout.BCHW:
        return hidden_states.flatten(2).transpose(1, 2)
    return hidden_states.flatten(1, 2) if layout is Layout.BHWC else hidden_states


def tokens_of(hidden_states: torch.Tensor) -> torch.Tensor:
    """Return tokens (B, N, C) as they are, and a map (B, C, H, W) as tokens, in the same memory if it can be."""
    return to_tokens(hidden_states, Layout.BCHW) if hidden_states.dim() == 4 else hidden_states


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


def from_tokens(tokens: torch.Tensor, layout: Layout, grid: Grid) -> torch.Tensor:
    """Undo `to_tokens`: return tokens of shape (B, N, C), of a map those of the grid (H, W), in `layout`."""
    if layout is Layout.NC:
        return tokens.squeeze(0)
    if layout is Layout.BCHW:
        return tokens.transpose(1, 2).unflatten(2, grid)
    return tokens.unflatten(1, grid) if layout is Layout.BHWC else tokens
