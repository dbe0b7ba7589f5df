"""Mona as one operator, into which compilers do not look.

A compiler that sees Mona's operations chooses for itself what to keep for the backward pass, and keeps more than twice
what `fast` does: it can't know that the output gives the input back. So `torch.compile` gets two operators that compute
what `fast` computes and keep the same; and fewer operations compile sooner. They change nothing in place, as the
compiler asks of operators with a gradient.

That is for training. In inference nothing is kept, and an exported graph should hold operations that run anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mona_peft.blocks import Grid
from mona_peft.functional import steps
from mona_peft.functional.dropout import keep_probability
from mona_peft.functional.fast import PLAIN, Call
from mona_peft.functional.folding import HALF_DTYPES, FoldedWeights

_NUM_WEIGHTS = len(FoldedWeights._fields)
_WEIGHTS = ", ".join(f"Tensor? {name}" for name in FoldedWeights._fields)
_CALL = "SymInt height, SymInt width, float dropout, Tensor? seed, bool with_input"
# A captured CUDA graph would repeat one dropout mask for ever. The tag is there from PyTorch 2.9 on, and `custom_op` of
# the oldest supported takes none.
_TAGS = {"tags": (torch.Tag.cudagraph_unsafe,)} if hasattr(torch.Tag, "cudagraph_unsafe") else {}


def mona_opaque(
    hidden_states: torch.Tensor, grid: Grid, weights: FoldedWeights, dropout: float, with_input: bool
) -> torch.Tensor:
    """Compute `delta`, or `hidden_states + delta`, as one operator.

    Args:
        hidden_states: Tokens of shape (B, P + H * W, C), any but none.
        grid: (H, W).
        weights: The folded weights.
        dropout: Probability, 0 outside training.
        with_input: Whether to return the sum. Then it is the sum that is kept and not `hidden_states`, but in half
            precision, where only values tell whether they can be had back from it (see `fast`).

    Returns:
        A new tensor of the shape and dtype of `hidden_states`.
    """
    # Drawn outside of the operator, by PyTorch: so a compiler that computes the operator again can have the seed again.
    seed = torch.randint(2**63 - 1, ()) if dropout else None
    return torch.ops.mona_peft.mona(hidden_states, *weights, *grid, dropout, seed, with_input)[0]


@torch.library.custom_op(
    "mona_peft::mona",
    mutates_args=(),
    schema=f"(Tensor x, {_WEIGHTS}, {_CALL}) -> (Tensor, Tensor, Tensor, Tensor)",
    **_TAGS,
)
def _mona(x: torch.Tensor, *args: Any) -> tuple[torch.Tensor, ...]:
    """Return the result (B, N, C), p (B, N, n), and mean and deviation (B * N, 1), empty where there is no norm."""
    weights, call = _parse(x, args)
    with steps.without_autocast(x.device.type):
        source = x.clone(memory_format=torch.contiguous_format) if call.in_place else x
        result, p, statistics = call.engine.forward(source, call, weights)
    return result, p, *(statistics or (p.new_empty(0), p.new_empty(0)))


@_mona.register_fake
def _(x: torch.Tensor, *args: Any) -> tuple[torch.Tensor, ...]:
    w = FoldedWeights(*args[:_NUM_WEIGHTS])
    p = w.down_weight.new_empty(*x.shape[:2], len(w.down_weight))
    if w.norm_scale is None:
        return x.new_empty(x.shape), p, p.new_empty(0), p.new_empty(0)
    statistics = (w.norm_scale.new_empty(x.shape[0] * x.shape[1], 1) for _ in range(2))
    return x.new_empty(x.shape), p, *statistics


@torch.library.custom_op(
    "mona_peft::mona_backward",
    mutates_args=(),
    schema=(
        f"(Tensor grad, Tensor kept, bool keeps_input, Tensor p, Tensor mean, Tensor rstd, {_WEIGHTS}, {_CALL}, "
        "bool[] needs) -> Tensor[]"
    ),
    **_TAGS,
)
def _mona_backward(
    grad: torch.Tensor,
    kept: torch.Tensor,
    keeps_input: bool,
    p: torch.Tensor,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    *args: Any,
) -> list[torch.Tensor]:
    """Return those gradients, of x and the weights in their order, that `needs` asks for."""
    *args, (needs_x, *needs) = args
    weights, call = _parse(kept, args)
    with steps.without_autocast(grad.device.type):
        call_of_kept = call._replace(in_place=not keeps_input)
        backward = call.engine.backward(call_of_kept, weights, FoldedWeights(*needs), needs_x)
        statistics = None if weights.norm_scale is None else (mean, rstd)
        x_grad = backward(grad.contiguous(), kept.contiguous(), p, statistics)
    if needs_x and call.in_place and keeps_input:
        x_grad = x_grad + grad  # the residual's, which the engine leaves out
    gradients = [x_grad, *(backward.grads[name] for name in FoldedWeights._fields)]
    return [gradient for gradient in gradients if gradient is not None]


@_mona_backward.register_fake
def _(grad: torch.Tensor, kept: torch.Tensor, *args: Any) -> list[torch.Tensor]:
    *args, needs = args
    inputs = (kept, *args[4 : 4 + _NUM_WEIGHTS])
    return [tensor.new_empty(tensor.shape) for tensor, needed in zip(inputs, needs, strict=True) if needed]


def _keep(ctx: Any, inputs: tuple, output: tuple[torch.Tensor, ...]) -> None:
    x, *weights = inputs[: 1 + _NUM_WEIGHTS]
    ctx.height, ctx.width, ctx.dropout, seed, ctx.with_input = inputs[1 + _NUM_WEIGHTS :]
    result, *others = output
    ctx.keeps_input = not ctx.with_input or x.dtype in HALF_DTYPES
    ctx.save_for_backward(x if ctx.keeps_input else result, *others, seed, *weights)


def _differentiate(ctx: Any, grad: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
    kept, p, mean, rstd, seed, *weights = ctx.saved_tensors
    call = (ctx.height, ctx.width, ctx.dropout, seed, ctx.with_input)
    needs = list(ctx.needs_input_grad[: 1 + _NUM_WEIGHTS])
    gradients = iter(
        torch.ops.mona_peft.mona_backward(grad, kept, ctx.keeps_input, p, mean, rstd, *weights, *call, needs)
    )
    return *(next(gradients) if needed else None for needed in needs), *(None for _ in call)


_mona.register_autograd(_differentiate, setup_context=_keep)


def _parse(x: torch.Tensor, args: Sequence[Any]) -> tuple[FoldedWeights, Call]:
    weights, (height, width, dropout, seed, with_input) = FoldedWeights(*args[:_NUM_WEIGHTS]), args[_NUM_WEIGHTS:]
    scale = 1 / keep_probability(dropout, x.device) if dropout else 1.0
    return weights, Call((height, width), dropout, 0 if seed is None else int(seed), scale, with_input, PLAIN)
