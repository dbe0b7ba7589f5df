"""Mona as `torch.compile` trains it: `fast` in operations that a compiler fuses, with what it keeps dictated.

A compiler that chooses for itself what to keep for the backward pass keeps more than twice what `fast` does: it can't
know that the output gives the input back. Here the backward pass is written out, and starts from what an operator
computes once more that compilers can't look into (`opaque.mona_again`), so that nothing in between need be kept. To
`torch.compile` a Mona is one operator, which is quick to follow; the compiler behind it sees the norm and the
projections. What lies between these are further opaque operators, as a compiler takes longest over small operations.

That is for training. In inference nothing is kept, and an exported graph should hold operations that run anywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mona_peft.blocks import Grid
from mona_peft.functional import opaque, steps
from mona_peft.functional.fast import PLAIN, Backward, Call
from mona_peft.functional.folding import HALF_DTYPES, FoldedWeights, cast, filter_share, fold_norm
from mona_peft.functional.formula import Settings, Weights

_LISTS = ("filter_weights", "filter_biases")
_WEIGHTS = ", ".join(f"Tensor[] {name}" if name in _LISTS else f"Tensor? {name}" for name in Weights._fields)
_SETTINGS = "str norm_position, str filter_reduction, float dropout"
_CALL = "ScalarType? dtype, SymInt height, SymInt width, bool with_input, str code"
CODE = hashlib.sha256(b"".join(file.read_bytes() for file in sorted(Path(__file__).parent.glob("*.py")))).hexdigest()
"""Digest of what the operator dissolves into, and its last argument.

PyTorch caches compiled graphs on disk by the names and arguments of their operators: after a change of this package
those of the old code would be found again.
"""


def mona_compiled(
    hidden_states: torch.Tensor, grid: Grid, weights: Weights, settings: Settings, with_input: bool
) -> torch.Tensor:
    """Compute `delta`, or `hidden_states + delta`, as one operator.

    Args:
        hidden_states: Tokens of shape (B, P + H * W, C), any but none.
        grid: (H, W).
        weights: The parameters.
        settings: The settings; a norm is in front or nowhere.
        with_input: Whether to return the sum. Then it is the sum that is kept and not `hidden_states`, but in half
            precision, where only values tell whether they can be had back from it (see `fast`).

    Returns:
        A new tensor of the shape and dtype of `hidden_states`.
    """
    dtype = steps.autocast_dtype(hidden_states.device.type)
    return torch.ops.mona_peft.mona(hidden_states, *weights, *settings, dtype, *grid, with_input, CODE)


def _mona(x: torch.Tensor, *args: Any) -> torch.Tensor:
    weights, args = Weights(*args[: len(Weights._fields)]), args[len(Weights._fields) :]
    settings, (dtype, height, width, with_input, _) = Settings(*args[:3]), args[3:]
    # Drawn by PyTorch: so a compiler that computes the operator again can have the seed again. By `random_`, as
    # Inductor would make kernels of their own of `randint`, by the place; and of `empty` for a single number.
    seed = torch.empty(1, dtype=torch.int64).random_() if settings.dropout else None
    call = _Call(settings.dropout, filter_share(settings, len(weights.filter_weights)), (height, width), with_input)
    with steps.without_autocast(x.device.type):
        around = cast((weights.down_weight, weights.down_bias, weights.up_weight, weights.up_bias), dtype)
        inside = *weights.filter_weights, *weights.filter_biases, weights.pw_weight, weights.pw_bias
        return _Mona.apply(x, call, seed, *fold_norm(weights, settings), *around, *inside)


opaque.LIBRARY.define(f"mona(Tensor x, {_WEIGHTS}, {_SETTINGS}, {_CALL}) -> Tensor")
opaque.LIBRARY.impl("mona", _mona, "CompositeImplicitAutograd")


class _Call(NamedTuple):
    dropout: float
    share: float
    grid: Grid
    with_input: bool


_NUM_AROUND = 7  # weights of the norm and of the projections; those inside follow


def _around(weights: Sequence[Any]) -> FoldedWeights:
    return FoldedWeights(*weights[:5], *(None,) * 4, *weights[5:_NUM_AROUND])


class _Mona(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, call: _Call, seed: torch.Tensor | None, *weights: torch.Tensor | None
    ) -> torch.Tensor:
        around, (*filters, pw_weight, pw_bias) = _around(weights), weights[_NUM_AROUND:]
        count = len(filters) // 2
        inside = filters[:count], filters[count:], pw_weight, pw_bias
        u, statistics = steps.scaled_norm(x.flatten(0, 1), around)
        p = steps.project_down(u, around).unflatten(0, x.shape[:2])
        hidden, *folded = opaque.bottleneck(p, *inside, call.share, *call.grid, call.dropout, seed)
        # Not by `linear`: a sum that is no part of the product is fused with what stands around. And not of rows: the
        # result should be what is kept, not a view of it, or a block that is compiled by itself keeps both.
        delta = (hidden @ around.up_weight.t() + around.up_bias).to(x.dtype)
        result = x + delta if call.with_input else delta
        ctx.call, ctx.gives_back = call, call.with_input and x.dtype not in HALF_DTYPES
        ctx.sizes = [weight.shape[-1] for weight in filters[:count]]
        kept = result if ctx.gives_back else x
        ctx.save_for_backward(kept, p, *(statistics or (None, None)), seed, *folded, pw_bias, *weights[:_NUM_AROUND])
        return result

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        kept, p, mean, rstd, seed, kernel, kernel_bias, mix_weight, mix_bias, *weights = ctx.saved_tensors
        (dropout, share, grid, with_input), around = ctx.call, _around(weights)
        needs_x, _, _, *needs = ctx.needs_input_grad
        needs_around, needs_inside = _around(needs), needs[_NUM_AROUND:]
        needs_any = needs_around.down_bias or any(needs_inside)
        backward = Backward(Call(grid, 0.0, 0, 1.0, False, PLAIN), around, needs_around, needs_x)
        with steps.without_autocast(grad.device.type):
            folded = kernel, kernel_bias, mix_weight, mix_bias, around.up_weight, around.up_bias
            again = opaque.mona_again(grad, p, *folded, *grid, dropout, seed, kept if ctx.gives_back else None)
            x = again.pop() if ctx.gives_back else kept
            hidden, q, r, *mask = again
            hidden_grad = backward.through_up(grad.to(p.dtype), hidden)
            maps = p, q, r, mask[0] if mask else None
            how = share, *grid, ctx.sizes, needs_any
            p_grad, *inside_grads = opaque.bottleneck_backward(hidden_grad, *maps, kernel, mix_weight, *how)
            backward.grads["down_bias"] = inside_grads.pop() if needs_any else None
            statistics = None if mean is None else (mean, rstd)
            x_grad = backward.through_norm_and_down(x.flatten(0, 1), p_grad.flatten(0, 1), statistics)
        if needs_x:
            x_grad = x_grad.view(grad.shape) + grad if with_input else x_grad.view(grad.shape)
        grads = FoldedWeights(**backward.grads)
        return x_grad, None, None, *grads[:5], *grads[-2:], *(inside_grads or [None] * len(needs_inside))
