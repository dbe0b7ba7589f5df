"""Mona as one node of autograd's graph, which keeps only what the backward pass cannot do without.

The plain formula keeps for the backward pass three maps of C channels (the input, its norm, the scaled norm) and five
of n channels. This function keeps one of n channels, `p`, two numbers a token, and one map of C channels that costs
nothing: where it adds delta to its input in place, that is its output, which the LayerNorm that follows keeps anyway.
The backward pass computes delta again from `p`, takes it off the output, and so has the input back, to one rounding of
the output. In half precision that is too coarse where delta is much larger than the input; there the input is kept.
The dropout mask is drawn again from its seed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from mona_peft.blocks import Grid, ReorderedGrid, shaped_like, tokens_of
from mona_peft.functional import steps
from mona_peft.functional.batched_gradients import for_each_gradient
from mona_peft.functional.depthwise import depthwise_input_grad, depthwise_kernel_grad
from mona_peft.functional.dropout import draw_seed, keep_mask, keep_probability
from mona_peft.functional.folding import HALF_DTYPES, FoldedWeights


class Call(NamedTuple):
    """What a call is besides its tensors.

    Attributes:
        grid: (H, W).
        dropout: Probability.
        seed: Of the dropout mask.
        scale: By which dropout multiplies what it keeps.
        in_place: Whether delta is added to the input, in place, or returned.
        engine: What computes.
        order: How the tokens lie, if not row by row; maps of the bottleneck from `p` on do.
    """

    grid: Grid
    dropout: float
    seed: int
    scale: float
    in_place: bool
    engine: Engine
    order: ReorderedGrid | None = None

    def row_by_row(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return tokens of the bottleneck in the order of an image."""
        return tokens if self.order is None else self.order.row_by_row(tokens)

    def as_given(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return them in the order of the input."""
        return tokens if self.order is None else self.order.as_in_block(tokens)


class Engine(NamedTuple):
    """A way to compute both passes: `PLAIN` here, or another with the same interface that keeps the same tensors.

    Attributes:
        forward: As `forward`.
        backward: As `Backward`.
    """

    forward: Callable
    backward: Callable


def mona_fast(
    hidden_states: torch.Tensor,
    grid: Grid | ReorderedGrid,
    weights: FoldedWeights,
    dropout: float,
    in_place: bool,
    engine: Engine | None = None,
) -> torch.Tensor:
    """Compute delta, or add it to the tokens in place.

    Args:
        hidden_states: Tokens of shape (B, P + H * W, C). If `in_place`, they are contiguous, or a map (B, C, H, W) that
            is channels last in memory.
        grid: (H, W), or how the tokens lie, which `PLAIN` alone can do.
        weights: The folded weights.
        dropout: Probability, 0 outside training.
        in_place: Whether to write `hidden_states + delta` into `hidden_states`.
        engine: What computes; by default PyTorch's operations.

    Returns:
        `delta`, or `hidden_states`.
    """
    seed, scale = (draw_seed(), 1 / keep_probability(dropout, hidden_states.device)) if dropout else (0, 1.0)
    order = grid if isinstance(grid, ReorderedGrid) else None
    call = Call(grid if order is None else order.grid, dropout, seed, scale, in_place, engine or PLAIN, order)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (hidden_states, *weights)):
        return _Mona.apply(hidden_states, call, *weights)
    with steps.without_autocast(hidden_states.device.type):
        result = call.engine.forward(tokens_of(hidden_states), call, weights)[0]
    return hidden_states if in_place else result


class _Mona(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, call: Call, *weights: torch.Tensor | None) -> torch.Tensor:
        in_half = call.in_place and x.dtype in HALF_DTYPES
        before = x.clone() if in_half else x
        # Autocast had its say when the weights were folded; the norm is none of its business.
        with steps.without_autocast(x.device.type):
            result, p, statistics = call.engine.forward(tokens_of(x), call, FoldedWeights(*weights))
        ctx.call = call
        # A tensor among those kept: what gradient checkpointing makes again replaces all of them or none.
        keeps_input = torch.tensor(steps.loses_input(tokens_of(before), result, statistics)) if in_half else None
        if call.in_place:
            ctx.mark_dirty(x)
            result = x
        kept = before if in_half and keeps_input else x  # which is the result by now, if in place
        ctx.save_for_backward(kept, keeps_input, p, *(statistics or (None, None)), *weights)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return for_each_gradient(partial(_Mona.gradients, ctx), grad)

    @staticmethod
    def gradients(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        kept, keeps_input, p, mean, rstd, *weights = _saved(ctx)
        statistics = None if mean is None else (mean, rstd)
        needs_x, _, *needs = ctx.needs_input_grad
        has_input = keeps_input is not None and bool(keeps_input)
        call = ctx.call._replace(in_place=False) if has_input else ctx.call
        with steps.without_autocast(grad.device.type):
            backward = call.engine.backward(call, FoldedWeights(*weights), FoldedWeights(*needs), needs_x)
            tokens_grad = tokens_of(grad).contiguous()
            x_grad = backward(tokens_grad, tokens_of(kept).contiguous(), p, statistics)
        if needs_x and has_input:
            x_grad = x_grad + tokens_grad  # the residual's, which the engine leaves out
        return (
            None if x_grad is None else shaped_like(x_grad, grad),
            None,
            *(backward.grads[name] for name in FoldedWeights._fields),
        )


def _saved(ctx: Any) -> tuple[torch.Tensor | None, ...]:
    try:
        return ctx.saved_tensors
    except RuntimeError as error:
        if ctx.call.in_place and "inplace operation" in str(error):
            raise RuntimeError(
                "The output of an adapted block was edited in place (`hidden_states += ...`) before the backward pass, "
                "which needs it as it was: Mona keeps its output instead of its input. Write `hidden_states = "
                "hidden_states + ...` there."
            ) from error
        raise


def forward(
    x: torch.Tensor, call: Call, w: FoldedWeights
) -> tuple[torch.Tensor, torch.Tensor, steps.Statistics | None]:
    """Return the result (B, N, C), p (B, N, n) and the statistics (B * N, 1)."""
    tokens = x.contiguous().flatten(0, 1)
    u, statistics = steps.scaled_norm(tokens, w)
    p = call.row_by_row(steps.project_down(u, w).unflatten(0, x.shape[:2]))
    del u
    hidden = call.as_given(steps.bottleneck(p, call.grid, w, _mask(p, call))).flatten(0, 1)
    if call.in_place:
        steps.add_delta_(tokens, hidden, call.scale, w)
        result = x
    else:
        delta = hidden.new_empty(x.shape)  # whole: autograd forbids to edit views that a function returns
        steps.project_up(hidden, call.scale, w, out=delta.flatten(0, 1))
        result = delta.to(x.dtype)
    return result, p, statistics


def _mask(p: torch.Tensor, call: Call) -> torch.Tensor | None:
    return keep_mask(p, call.dropout, call.seed) if call.dropout else None


class Backward:
    """One backward pass.

    Args:
        call: The call.
        w: The weights.
        needs: Which weights need a gradient.
        needs_x: Whether the input does.

    Attributes:
        grads: The gradients of the weights by name; None where none is needed.
    """

    def __init__(self, call: Call, w: FoldedWeights, needs: FoldedWeights, needs_x: bool) -> None:
        self.call, self.w, self.needs, self.needs_x = call, w, needs, needs_x
        self.grads: dict[str, torch.Tensor | None] = dict.fromkeys(FoldedWeights._fields)

    def __call__(
        self, grad: torch.Tensor, kept: torch.Tensor, p: torch.Tensor, statistics: steps.Statistics | None
    ) -> torch.Tensor | None:
        """Return the gradient to the input, (B, N, C)."""
        mask = _mask(p, self.call)
        hidden, q, r = steps.bottleneck_again(p, self.call.grid, self.w, mask)
        hidden = self.call.as_given(hidden)
        hidden_grad = self.call.row_by_row(self.through_up(grad.to(p.dtype), hidden))
        r_grad = torch.ops.aten.gelu_backward(hidden_grad if mask is None else hidden_grad.mul_(mask), r)
        del mask, hidden_grad, r
        p_grad = self.call.as_given(self.through_filters(r_grad, p, q))
        del q, r_grad
        tokens = (tensor.flatten(0, 1) for tensor in (grad, kept, hidden, p_grad))
        x_grad = self._through_slices(*tokens, statistics)
        return None if x_grad is None else x_grad.view(grad.shape)

    def through_up(self, grad: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Up projection; (B, N, C) to (B, N, n)."""
        scale = self.call.scale
        if self.needs.up_weight:
            self._add("up_weight", _product(grad, hidden).mul_(scale))
        if self.needs.up_bias:
            self._add_sum("up_bias", grad)
        return grad.matmul(self.w.up_weight if scale == 1 else self.w.up_weight * scale)

    def through_filters(self, r_grad: torch.Tensor, p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        """1x1 convolution and filters, of the grid's tokens alone, and the bias before them; (B, N, n) to (B, N, n)."""
        num_prefix_tokens = p.shape[1] - q.shape[1]
        mixed_grad = r_grad[:, num_prefix_tokens:].contiguous()
        if self.needs.mix_weight:
            self._add("mix_weight", _product(mixed_grad, q))
        if self.needs.mix_bias:
            self._add_sum("mix_bias", mixed_grad)
        q_grad = mixed_grad.matmul(self.w.mix_weight)
        if self.needs.kernel:
            tokens = p[:, num_prefix_tokens:].contiguous()
            self._add("kernel", depthwise_kernel_grad(tokens, q_grad, self.call.grid, self.w.kernel.shape[-1]))
        if self.needs.kernel_bias:
            self._add_sum("kernel_bias", q_grad)
        p_grad = depthwise_input_grad(q_grad, self.call.grid, self.w.kernel)
        if num_prefix_tokens:
            p_grad = torch.cat([r_grad[:, :num_prefix_tokens], p_grad], dim=1)
        if self.needs.down_bias:
            self._add_sum("down_bias", p_grad)
        return p_grad

    def _through_slices(
        self,
        grad: torch.Tensor,
        kept: torch.Tensor,
        hidden: torch.Tensor,
        p_grad: torch.Tensor,
        statistics: steps.Statistics | None,
    ) -> torch.Tensor | None:
        """Down projection, scaled norm and residual, from (T, n) to (T, C), slice by slice."""
        x_grad = torch.empty_like(grad) if self.needs_x else None
        for rows in steps.chunks(grad):
            x = kept[rows]
            if self.call.in_place:
                x = steps.without_delta(x, hidden[rows], self.call.scale, self.w)
            chunk_statistics = None if statistics is None else tuple(tensor[rows] for tensor in statistics)
            chunk_grad = self.through_norm_and_down(x, p_grad[rows], chunk_statistics)
            if self.call.in_place and self.needs_x:
                torch.add(chunk_grad, grad[rows], out=x_grad[rows])
            elif self.needs_x:
                x_grad[rows] = chunk_grad
        return x_grad

    def through_norm_and_down(
        self, x: torch.Tensor, p_grad: torch.Tensor, statistics: steps.Statistics | None
    ) -> torch.Tensor | None:
        """Down projection and scaled norm, from (T, n) to (T, C)."""
        w, needs = self.w, self.needs
        if statistics is None:
            if needs.down_weight:
                self._add("down_weight", _product(p_grad, x.to(p_grad.dtype)))
            return p_grad.matmul(w.down_weight) if self.needs_x else None
        x = x.to(w.norm_scale.dtype)
        if needs.down_weight:
            u = steps.scaled_norm_again(x, statistics, w)
            self._add("down_weight", _product(p_grad, u.to(p_grad.dtype)))
        if not (self.needs_x or needs.norm_scale or needs.norm_shift or needs.skip_scale):
            return None
        u_grad = p_grad.matmul(w.down_weight).to(x.dtype)
        if needs.skip_scale:
            self._add_sum("skip_scale", u_grad * x)
        x_grad, scale_grad, shift_grad = torch.ops.aten.native_layer_norm_backward(
            u_grad,
            x,
            x.shape[-1:],
            *statistics,
            w.norm_scale,
            w.norm_shift,
            [self.needs_x, needs.norm_scale, needs.norm_shift],
        )
        if needs.norm_scale:
            self._add("norm_scale", scale_grad)
        if needs.norm_shift:
            self._add("norm_shift", shift_grad)
        return x_grad.addcmul_(u_grad, w.skip_scale) if self.needs_x else None

    def _add(self, name: str, grad: torch.Tensor) -> None:
        self.grads[name] = grad if self.grads[name] is None else self.grads[name].add_(grad)

    def _add_sum(self, name: str, grad: torch.Tensor) -> None:
        """Add the sum over all dimensions but the last."""
        self._add(name, grad.flatten(0, -2).sum(0))


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return left^T right of (..., a) and (..., b): (a, b), the gradient of a weight."""
    return left.flatten(0, -2).t() @ right.flatten(0, -2)


PLAIN = Engine(forward, Backward)
