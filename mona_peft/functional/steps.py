"""The folded Mona, step by step: what the forward pass and the recomputation in the backward pass share."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from mona_peft.blocks import Grid
from mona_peft.functional.depthwise import depthwise
from mona_peft.functional.folding import FoldedWeights
from mona_peft.functional.formula import LAYER_NORM_EPS

Statistics = tuple[torch.Tensor, torch.Tensor]
"""Mean and reciprocal standard deviation of each token, (B, N, 1)."""


def scaled_norm(x: torch.Tensor, w: FoldedWeights) -> tuple[torch.Tensor, Statistics | None]:
    """Compute u and the statistics of the tokens x of shape (B, N, C)."""
    if w.norm_scale is None:
        return x, None
    x = x.to(w.norm_scale.dtype)
    normed, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], w.norm_scale, w.norm_shift, LAYER_NORM_EPS)
    return normed.addcmul_(x, w.skip_scale), (mean, rstd)


def project_down(u: torch.Tensor, w: FoldedWeights) -> torch.Tensor:
    """Compute p of shape (B, N, n) from u of shape (B, N, C)."""
    return F.linear(u.to(w.down_weight.dtype), w.down_weight, w.down_bias)


def filter_tokens(p: torch.Tensor, grid: Grid, w: FoldedWeights) -> tuple[torch.Tensor, torch.Tensor]:
    """Convolve.

    Args:
        p: (B, P + H * W, n), P prefix tokens first.
        grid: (H, W).
        w: The weights.

    Returns:
        The filtered map q of shape (B, H * W, n), and r of the shape of p: q mixed, behind the prefix as it was.
    """
    num_prefix_tokens = p.shape[1] - grid[0] * grid[1]
    q = depthwise(p[:, num_prefix_tokens:].contiguous(), grid, w.kernel, w.kernel_bias)
    r = F.linear(q, w.mix_weight, w.mix_bias)
    return q, torch.cat([p[:, :num_prefix_tokens], r], dim=1) if num_prefix_tokens else r


def project_up(hidden: torch.Tensor, scale: float, w: FoldedWeights) -> torch.Tensor:
    """Compute delta of shape (B, N, C) from `hidden` (B, N, n), which `scale` (of the dropout) multiplies."""
    delta = torch.addmm(w.up_bias, hidden.flatten(0, 1), w.up_weight.t(), alpha=scale)
    return delta.unflatten(0, hidden.shape[:2])


def mona_folded(x: torch.Tensor, grid: Grid, w: FoldedWeights, dropout: float) -> torch.Tensor:
    """Compute delta of tokens x (B, P + H * W, C) in operations that compilers and exporters can follow."""
    p = project_down(scaled_norm(x, w)[0], w)
    hidden = F.dropout(F.gelu(filter_tokens(p, grid, w)[1]), dropout)
    return project_up(hidden, 1.0, w).to(x.dtype)


def accumulate_up(x: torch.Tensor, hidden: torch.Tensor, scale: float, w: FoldedWeights, sign: int) -> torch.Tensor:
    """Add delta to `x`, in place, or subtract it.

    Args:
        x: (B, N, C), contiguous.
        hidden: As in `project_up`.
        scale: As in `project_up`.
        w: The weights.
        sign: 1 or -1.

    Returns:
        `x`.
    """
    if x.dtype == hidden.dtype and x.dtype not in (torch.bfloat16, torch.float16):
        # Straight from the matrix product into x. In half precision that would round twice.
        x.view(-1, x.shape[-1]).addmm_(hidden.flatten(0, 1), w.up_weight.t(), alpha=sign * scale)
        return x.add_(w.up_bias, alpha=sign)
    return x.add_(project_up(hidden, scale, w), alpha=sign)
