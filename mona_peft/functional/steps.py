"""The folded Mona, step by step: what the forward pass and the recomputation in the backward pass share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F

from mona_peft.blocks import Grid
from mona_peft.functional.depthwise import depthwise
from mona_peft.functional.folding import HALF_DTYPES, FoldedWeights
from mona_peft.functional.formula import LAYER_NORM_EPS

Statistics = tuple[torch.Tensor, torch.Tensor]
"""Mean and reciprocal standard deviation of each token, (..., 1)."""

_CHUNK_BYTES = 3 * 2**19
_MAX_GROWTH = 8.0
"""Up to which ratio of lengths the output stands for the input in half precision: an error of this many roundings."""


def mona_folded(x: torch.Tensor, grid: Grid, w: FoldedWeights, dropout: float) -> torch.Tensor:
    """Compute delta of tokens x (B, P + H * W, C) in operations that compilers and exporters can follow."""
    dtype, u = x.dtype, x
    if w.norm_scale is not None:
        x = x.to(w.norm_scale.dtype)
        u = F.layer_norm(x, x.shape[-1:], w.norm_scale, w.norm_shift, LAYER_NORM_EPS) + x * w.skip_scale
    hidden = F.gelu(filter_tokens(project_down(u, w), grid, w)[1])
    hidden = F.dropout(hidden, dropout) if dropout else hidden
    return F.linear(hidden, w.up_weight, w.up_bias).to(dtype)


def without_autocast(device_type: str) -> AbstractContextManager:
    """Switch autocast off where it is on; elsewhere do nothing, which leaves no trace in an exported graph."""
    return nullcontext() if autocast_dtype(device_type) is None else torch.autocast(device_type, enabled=False)


def autocast_dtype(device_type: str) -> torch.dtype | None:
    """Return the dtype of autocast on a kind of device, or None where it is off or (on the meta device) unknown."""
    if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return None


def chunks(tokens: torch.Tensor) -> Iterator[slice]:
    """Cut tokens (T, C) into equal slices of rows that a CPU's cache holds; on other devices there is one.

    What is computed slice by slice on the way to something smaller stays in the cache, and asks for no memory of the
    size of the whole map.
    """
    count = -(-tokens.numel() * tokens.element_size() // _CHUNK_BYTES) if tokens.device.type == "cpu" else 1
    step = -(-len(tokens) // count)
    return (slice(start, start + step) for start in range(0, len(tokens), step))


def scaled_norm(x: torch.Tensor, w: FoldedWeights) -> tuple[torch.Tensor, Statistics | None]:
    """Compute u and the statistics of the tokens x of shape (..., C)."""
    if w.norm_scale is None:
        return x, None
    x = x.to(w.norm_scale.dtype)
    normed, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], w.norm_scale, w.norm_shift, LAYER_NORM_EPS)
    return normed.addcmul_(x, w.skip_scale), (mean, rstd)


def scaled_norm_again(x: torch.Tensor, statistics: Statistics, w: FoldedWeights) -> torch.Tensor:
    """Compute u of x of shape (..., C) with known statistics."""
    # Not by a matrix product with x and another with the mean: those cancel where a token's mean is large.
    mean, rstd = statistics
    normed = torch.sub(x, mean).mul_(rstd)
    return normed.mul_(w.norm_scale).add_(w.norm_shift).addcmul_(x, w.skip_scale)


def project_down(u: torch.Tensor, w: FoldedWeights) -> torch.Tensor:
    """Compute p of shape (..., n) from u of shape (..., C)."""
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


def bottleneck(p: torch.Tensor, grid: Grid, w: FoldedWeights, mask: torch.Tensor | None) -> torch.Tensor:
    """Compute what the up projection takes, of the shape of p; `mask` multiplies it."""
    hidden = torch.ops.aten.gelu_(filter_tokens(p, grid, w)[1])
    return hidden if mask is None else hidden.mul_(mask)


def bottleneck_again(
    p: torch.Tensor, grid: Grid, w: FoldedWeights, mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute `bottleneck`, and return it with q and r of `filter_tokens`."""
    q, r = filter_tokens(p, grid, w)
    hidden = F.gelu(r)
    return hidden if mask is None else hidden.mul_(mask), q, r


def project_up(hidden: torch.Tensor, scale: float, w: FoldedWeights, out: torch.Tensor | None = None) -> torch.Tensor:
    """Compute delta (T, C) of `hidden` (T, n), which `scale` (of the dropout) multiplies."""
    return torch.addmm(w.up_bias, hidden, w.up_weight.t(), alpha=scale, out=out)


def add_delta_(x: torch.Tensor, hidden: torch.Tensor, scale: float, w: FoldedWeights) -> torch.Tensor:
    """Add delta to `x` (T, C), in place; `hidden`, `scale` and `w` as in `project_up`."""
    if _adds_exactly(x, hidden):
        return x.add_(w.up_bias).addmm_(hidden, w.up_weight.t(), alpha=scale)
    return x.add_(project_up(hidden, scale, w))


def without_delta(x: torch.Tensor, hidden: torch.Tensor, scale: float, w: FoldedWeights) -> torch.Tensor:
    """Return `x` (T, C) as it was before `add_delta_`."""
    if _adds_exactly(x, hidden):
        return torch.sub(x, w.up_bias).addmm_(hidden, w.up_weight.t(), alpha=-scale)
    return x - project_up(hidden, scale, w)


def loses_input(before: torch.Tensor, result: torch.Tensor, statistics: Statistics | None) -> bool:
    """Whether `without_delta` would bring some token back too coarsely from a result in half precision.

    Its error is a rounding of the result. What has to be exact is the token's deviation from its mean, or without a
    norm the token: both may be much shorter than the result, where delta is large or the mean is.

    Args:
        before: The tokens (B, N, C) before delta was added.
        result: Afterwards.
        statistics: Of `before`.
    """
    lengths = _lengths(result)
    spread = None if statistics is None else before.shape[-1] ** 0.5 / statistics[1].view(lengths.shape)
    needed = _lengths(before) if spread is None else spread
    return bool((lengths > _MAX_GROWTH * needed).any())


def _lengths(tokens: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(tokens, dim=-1, dtype=torch.float32)


def _adds_exactly(x: torch.Tensor, hidden: torch.Tensor) -> bool:
    """Whether a matrix product may add its result to `x` itself; in half precision it would round twice."""
    return x.dtype == hidden.dtype and x.dtype not in HALF_DTYPES
