"""Mona as it reads in the paper, one operation a line: the reference that the fast path is compared with.

It also runs where the fast path does not: under `torch.func` transforms and forward-mode differentiation, for the
rarely used places of the norm, and on empty batches.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F

from mona_peft.blocks import Grid, VideoGrid

NormPosition = Literal["input", "bottleneck", "none"]
FilterReduction = Literal["mean", "sum"]
LAYER_NORM_EPS = 1e-5


class Settings(NamedTuple):
    """What a Mona is besides its weights; see `mona_peft.Mona`.

    Attributes:
        norm_position: `"input"`, `"bottleneck"` or `"none"`.
        filter_reduction: `"mean"` or `"sum"`.
        dropout: Probability, 0 outside training.
    """

    norm_position: NormPosition
    filter_reduction: FilterReduction
    dropout: float


class Weights(NamedTuple):
    """Parameters of a Mona of C channels and a bottleneck of n; the norm's four are None where there is no norm.

    Attributes:
        norm_weight: (C), or (n) for a norm in the bottleneck; as the other three of the norm.
        norm_bias: Likewise.
        gamma: Scale of the normed input.
        gammax: Scale of the raw input.
        down_weight: (n, C).
        down_bias: (n).
        filter_weights: One (n, 1, k, k) a kernel size k.
        filter_biases: One (n) a kernel size.
        pw_weight: (n, n, 1, 1), the 1x1 convolution.
        pw_bias: (n).
        up_weight: (C, n).
        up_bias: (C).
    """

    norm_weight: torch.Tensor | None
    norm_bias: torch.Tensor | None
    gamma: torch.Tensor | None
    gammax: torch.Tensor | None
    down_weight: torch.Tensor
    down_bias: torch.Tensor
    filter_weights: tuple[torch.Tensor, ...]
    filter_biases: tuple[torch.Tensor, ...]
    pw_weight: torch.Tensor
    pw_bias: torch.Tensor
    up_weight: torch.Tensor
    up_bias: torch.Tensor


def mona_formula(hidden_states: torch.Tensor, grid: Grid, weights: Weights, settings: Settings) -> torch.Tensor:
    """Compute what a Mona adds to a token map, as the paper writes it (sections 3.2 and 3.3).

    Args:
        hidden_states: Tokens of shape (B, P + H * W, C): P prefix tokens, then the grid, row by row.
        grid: (H, W).
        weights: The parameters.
        settings: The settings.

    Returns:
        `delta` of the shape of `hidden_states`.
    """
    hidden = into_bottleneck(hidden_states, weights, settings)  # (B, P + H * W, n)
    prefix, tokens = hidden.split([hidden.shape[1] - grid[0] * grid[1], grid[0] * grid[1]], dim=1)
    hidden = torch.cat([prefix, convolve(tokens, grid, weights, settings)], dim=1)
    return out_of_bottleneck(hidden, weights, settings)


def mona_over_time(
    hidden_states: torch.Tensor, grid: VideoGrid, weights: Weights, settings: Settings, time_weight: torch.Tensor
) -> torch.Tensor:
    """Compute what a Mona with a filter over time adds to the tokens of a video.

    The filter, depthwise and with a residual, stands in front of those of each frame: `p = time(p) + p`.

    Args:
        hidden_states: Tokens of shape (B, T * H * W, C), frame after frame.
        grid: (T, H, W).
        weights: The parameters of a Mona of images.
        settings: The settings.
        time_weight: (n, 1, k), the filter.

    Returns:
        `delta` of the shape of `hidden_states`.
    """
    frames, height, width = grid
    hidden = into_bottleneck(hidden_states, weights, settings)
    video = hidden.unflatten(1, grid).permute(0, 4, 1, 2, 3)  # (B, n, T, H, W)
    kernel = time_weight[..., None, None]
    video = F.conv3d(video, kernel, padding=(kernel.shape[2] // 2, 0, 0), groups=kernel.shape[0]) + video
    images = video.permute(0, 2, 3, 4, 1).flatten(2, 3).flatten(0, 1)  # (B * T, H * W, n)
    hidden = convolve(images, (height, width), weights, settings).unflatten(0, (-1, frames)).flatten(1, 2)
    return out_of_bottleneck(hidden, weights, settings)


def into_bottleneck(hidden_states: torch.Tensor, w: Weights, settings: Settings) -> torch.Tensor:
    """Return tokens (B, N, n) of the bottleneck, in front of the filters."""
    hidden = scaled_norm(hidden_states, w) if settings.norm_position == "input" else hidden_states
    hidden = F.linear(hidden, w.down_weight, w.down_bias)
    return scaled_norm(hidden, w) if settings.norm_position == "bottleneck" else hidden


def out_of_bottleneck(hidden: torch.Tensor, w: Weights, settings: Settings) -> torch.Tensor:
    """Return what tokens (B, N, n), behind the filters, add to those of the block (B, N, C)."""
    return F.linear(F.dropout(F.gelu(hidden), settings.dropout), w.up_weight, w.up_bias)


def scaled_norm(x: torch.Tensor, w: Weights) -> torch.Tensor:
    """Return LayerNorm(x) * gamma + x * gammax."""
    return F.layer_norm(x, x.shape[-1:], w.norm_weight, w.norm_bias, LAYER_NORM_EPS) * w.gamma + x * w.gammax


def convolve(tokens: torch.Tensor, grid: Grid, w: Weights, settings: Settings) -> torch.Tensor:
    """Apply the depthwise filters and the 1x1 convolution, each with its residual, to tokens of shape (B, H * W, n)."""
    image = tokens.unflatten(1, grid).permute(0, 3, 1, 2)  # (B, n, H, W)
    filtered = [
        F.conv2d(image, weight, bias, padding=weight.shape[-1] // 2, groups=weight.shape[0])
        for weight, bias in zip(w.filter_weights, w.filter_biases, strict=True)
    ]
    total = sum(filtered[1:], start=filtered[0])
    image = image + (total / len(filtered) if settings.filter_reduction == "mean" else total)
    image = F.conv2d(image, w.pw_weight, w.pw_bias) + image
    return image.permute(0, 2, 3, 1).flatten(1, 2)
