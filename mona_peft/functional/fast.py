"""Mona as one node of autograd's graph, which keeps only what the backward pass cannot do without.

The plain formula keeps for the backward pass three maps of C channels (the input, its norm, the scaled norm) and five
of n channels. This function keeps one of n channels, `p`, two numbers a token, and one map of C channels that costs
nothing: where it adds delta to its input in place, that is its output, which the LayerNorm that follows keeps anyway.
The backward pass computes delta again from `p`, takes it off the output, and so has the input back, to one rounding.
The dropout mask is drawn again from its seed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from mona_peft.blocks import Grid
from mona_peft.functional import steps
from mona_peft.functional.depthwise import depthwise_input_grad, depthwise_kernel_grad
from mona_peft.functional.dropout import draw_seed, keep_mask, keep_probability
from mona_peft.functional.folding import FoldedWeights


class _Call(NamedTuple):
    """What a call is besides its tensors.

    Attributes:
        grid: (H, W).
        dropout: Probability.
        seed: Of the dropout mask.
        in_place: Whether delta is added to the input, in place, or returned.
    """

    grid: Grid
    dropout: float
    seed: int
    in_place: bool


def mona_fast(
    hidden_states: torch.Tensor, grid: Grid, weights: FoldedWeights, dropout: float, in_place: bool
) -> torch.Tensor:
    """Compute delta, or add it to the tokens in place.

    Args:
        hidden_states: Tokens of shape (B, P + H * W, C); contiguous if `in_place`.
        grid: (H, W).
        weights: The folded weights.
        dropout: Probability, 0 outside training.
        in_place: Whether to write `hidden_states + delta` into `hidden_states`.

    Returns:
        `delta`, or `hidden_states`.
    """
    call = _Call(grid, dropout, draw_seed() if dropout else 0, in_place)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (hidden_states, *weights)):
        return _Mona.apply(hidden_states, call, *weights)
    return _forward(hidden_states, call, weights)[0]


def _forward(x: torch.Tensor, call: _Call, w: FoldedWeights) -> tuple[torch.Tensor, ...]:
    """Return the result, p and the statistics."""
    u, statistics = steps.scaled_norm(x, w)
    p = steps.project_down(u, w)
    del u
    hidden = F.gelu(steps.filter_tokens(p, call.grid, w)[1])
    if call.dropout:
        hidden.mul_(keep_mask(hidden, call.dropout, call.seed))
    if call.in_place:
        return steps.accumulate_up(x, hidden, _scale(x, call), w, sign=1), p, statistics
    return steps.project_up(hidden, _scale(x, call), w).to(x.dtype), p, statistics


def _scale(x: torch.Tensor, call: _Call) -> float:
    return 1 / keep_probability(call.dropout, x.device) if call.dropout else 1.0


class _Mona(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, call: _Call, *weights: torch.Tensor | None) -> torch.Tensor:
        # Autocast has had its say when the weights were folded; the norm is none of its business.
        with torch.autocast(x.device.type, enabled=False):
            result, p, statistics = _forward(x, call, FoldedWeights(*weights))
        ctx.call = call
        if call.in_place:
            ctx.mark_dirty(x)
        ctx.save_for_backward(result if call.in_place else x, p, *(statistics or (None, None)), *weights)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        kept, p, mean, rstd, *weights = ctx.saved_tensors
        needs_x, _, *needs = ctx.needs_input_grad
        statistics = None if mean is None else (mean, rstd)
        with torch.autocast(grad.device.type, enabled=False):
            x_grad, weight_grads = _backward(
                grad.contiguous(), kept, p, statistics, ctx.call, FoldedWeights(*weights), FoldedWeights(*needs), needs_x
            )
        return x_grad, None, *weight_grads


def _backward(
    grad: torch.Tensor,
    kept: torch.Tensor,
    p: torch.Tensor,
    statistics: steps.Statistics | None,
    call: _Call,
    w: FoldedWeights,
    needs: FoldedWeights,
    needs_x: bool,
) -> tuple[torch.Tensor | None, FoldedWeights]:
    """Return the gradients to x and to the weights; those that are not needed may be None."""
    scale = _scale(p, call)
    q, r = steps.filter_tokens(p, call.grid, w)
    hidden = F.gelu(r)
    mask = keep_mask(hidden, call.dropout, call.seed) if call.dropout else None
    hidden = hidden if mask is None else hidden.mul_(mask)
    x = steps.accumulate_up(_copy(kept), hidden, scale, w, sign=-1) if call.in_place else kept
    grads = dict.fromkeys(FoldedWeights._fields)

    # Up projection, dropout, GELU.
    up_grad = grad.to(p.dtype)
    if needs.up_weight:
        grads["up_weight"] = _product(up_grad, hidden, scale)
    if needs.up_bias:
        grads["up_bias"] = _column_sum(grad, w.up_bias)
    del hidden
    hidden_grad = up_grad.matmul(w.up_weight if scale == 1 else w.up_weight * scale)
    if mask is not None:
        hidden_grad.mul_(mask)
        del mask
    r_grad = torch.ops.aten.gelu_backward(hidden_grad, r)
    del hidden_grad, r, up_grad

    # 1x1 convolution and depthwise filters, of the grid's tokens alone.
    num_prefix_tokens = p.shape[1] - q.shape[1]
    mixed_grad = r_grad[:, num_prefix_tokens:].contiguous()
    if needs.mix_weight:
        grads["mix_weight"] = _product(mixed_grad, q)
    if needs.mix_bias:
        grads["mix_bias"] = _column_sum(mixed_grad, w.mix_bias)
    del q
    q_grad = mixed_grad.matmul(w.mix_weight)
    if needs.kernel:
        tokens = p[:, num_prefix_tokens:].contiguous()
        grads["kernel"] = depthwise_kernel_grad(tokens, q_grad, call.grid, w.kernel.shape[-1])
    if needs.kernel_bias:
        grads["kernel_bias"] = _column_sum(q_grad, w.kernel_bias)
    p_grad = depthwise_input_grad(q_grad, call.grid, w.kernel)
    if num_prefix_tokens:
        p_grad = torch.cat([r_grad[:, :num_prefix_tokens], p_grad], dim=1)
    del mixed_grad, q_grad, r_grad

    # Down projection and scaled norm.
    if needs.down_bias:
        grads["down_bias"] = _column_sum(p_grad, w.down_bias)
    if statistics is None:
        if needs.down_weight:
            grads["down_weight"] = _product(p_grad, x.to(p_grad.dtype))
        x_grad = p_grad.matmul(w.down_weight) if needs_x else None
    else:
        x = x.to(w.norm_scale.dtype)
        if needs.down_weight:
            grads["down_weight"] = _product(p_grad, _scaled_norm_again(x, statistics, w).to(p_grad.dtype))
        u_grad = p_grad.matmul(w.down_weight).to(x.dtype)
        if needs.skip_scale:
            grads["skip_scale"] = _column_sum(u_grad * x, w.skip_scale)
        outputs = [needs_x, needs.norm_scale, needs.norm_shift]
        x_grad, grads["norm_scale"], grads["norm_shift"] = torch.ops.aten.native_layer_norm_backward(
            u_grad, x, x.shape[-1:], *statistics, w.norm_scale, w.norm_shift, outputs
        )
        if needs_x:
            x_grad.addcmul_(u_grad, w.skip_scale)
    if needs_x:
        x_grad = x_grad.add_(grad).to(grad.dtype) if call.in_place else x_grad.to(kept.dtype)
    return x_grad if needs_x else None, FoldedWeights(**grads)


def _copy(kept: torch.Tensor) -> torch.Tensor:
    return kept.clone(memory_format=torch.contiguous_format)


def _scaled_norm_again(x: torch.Tensor, statistics: steps.Statistics, w: FoldedWeights) -> torch.Tensor:
    # Not as a matrix product with x and one with the mean: those cancel, where a token's mean is large.
    mean, rstd = statistics
    normed = torch.sub(x, mean).mul_(rstd)
    return normed.mul_(w.norm_scale).add_(w.norm_shift).addcmul_(x, w.skip_scale)


def _product(left: torch.Tensor, right: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """Return scale * left^T right of (..., a) and (..., b): the gradient of a weight (a, b)."""
    product = left.flatten(0, -2).t() @ right.flatten(0, -2)
    return product if scale == 1 else product.mul_(scale)


def _column_sum(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Sum over all but the last dimension, in the dtype of `like`, the parameter whose gradient it is."""
    return tensor.flatten(0, -2).sum(0, dtype=like.dtype)
