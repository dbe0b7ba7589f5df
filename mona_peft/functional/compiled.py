"""Mona as `torch.compile` trains it: `fast` in operations that a compiler fuses, with what it keeps dictated.

A compiler that chooses for itself what to keep for the backward pass keeps more than twice what `fast` does: it can't
know that the output gives the input back. Here the backward pass is `fast`'s own, written out, and starts from a copy
of the bottleneck's map (see `opaque.again`), so that nothing in between need be kept. To `torch.compile` a Mona is one
operator, which is quick to follow; the compiler behind it sees the operations inside.

That is for training. In inference nothing is kept, and an exported graph should hold operations that run anywhere.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from mona_peft.blocks import Grid
from mona_peft.functional import opaque, steps
from mona_peft.functional.fast import PLAIN, Backward, Call, forward
from mona_peft.functional.folding import HALF_DTYPES, FoldedWeights, fold
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
_NUM_OTHERS = 4  # arguments of `_Mona.forward` between x and the weights


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
    # Inductor would make kernels of their own of `randint`, by the place.
    seed = torch.empty((), dtype=torch.int64).random_() if settings.dropout else None
    with steps.without_autocast(x.device.type):
        folded = fold(weights, settings, dtype, _fold_filters)
        return _Mona.apply(x, (height, width), settings.dropout, seed, with_input, *folded)


opaque.LIBRARY.define(f"mona(Tensor x, {_WEIGHTS}, {_SETTINGS}, {_CALL}) -> Tensor")
opaque.LIBRARY.impl("mona", _mona, "CompositeImplicitAutograd")


class _Mona(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        grid: Grid,
        dropout: float,
        seed: torch.Tensor | None,
        with_input: bool,
        *weights: torch.Tensor | None,
    ) -> torch.Tensor:
        call = Call(grid, dropout, seed, 1.0, with_input, PLAIN)
        source = x.clone() if with_input else x
        result, p, statistics = forward(source, call, FoldedWeights(*weights), opaque.scaled_mask)
        ctx.with_input, ctx.gives_back = with_input, with_input and x.dtype not in HALF_DTYPES
        ctx.call = call._replace(seed=None, in_place=ctx.gives_back)
        ctx.save_for_backward(result if ctx.gives_back else x, p, *(statistics or (None, None)), seed, *weights)
        return result

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        kept, p, mean, rstd, seed, *weights = ctx.saved_tensors
        needs_x, needs = ctx.needs_input_grad[0], ctx.needs_input_grad[1 + _NUM_OTHERS :]
        with steps.without_autocast(grad.device.type):
            call = ctx.call._replace(seed=seed)
            backward = _Backward(call, FoldedWeights(*weights), FoldedWeights(*needs), needs_x)
            statistics = None if mean is None else (mean, rstd)
            x_grad = backward(grad.contiguous(), kept.contiguous(), opaque.again(p, grad), statistics)
        if needs_x and ctx.with_input and not ctx.gives_back:
            x_grad = x_grad + grad  # the residual's, which is left out for an input that is kept
        return x_grad, *(None,) * _NUM_OTHERS, *(backward.grads[name] for name in FoldedWeights._fields)


class _Backward(Backward):
    """As in eager mode, but for maps of any size: a compiler fuses what is wide, slice or not."""

    draw_mask = staticmethod(opaque.scaled_mask)

    @staticmethod
    def chunks(tokens: torch.Tensor) -> tuple[slice]:
        return (slice(None),)

    @staticmethod
    def kernel_grad(tokens: torch.Tensor, grad: torch.Tensor, grid: Grid, size: int) -> torch.Tensor:
        return opaque.kernel_grad(tokens, grad, *grid, size)


class _Filters(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, count: int, share: float, *tensors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        weights, biases = tensors[:count], tensors[count:]
        ctx.sizes, ctx.share = [weight.shape[-1] for weight in weights], share
        return opaque.folded_filters(weights, biases, share)

    @staticmethod
    def backward(ctx: Any, kernel_grad: torch.Tensor, bias_grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return None, None, *opaque.unfolded_filters(kernel_grad, bias_grad, ctx.sizes, ctx.share)


def _fold_filters(
    weights: tuple[torch.Tensor, ...], biases: tuple[torch.Tensor, ...], share: float
) -> tuple[torch.Tensor, torch.Tensor]:
    return _Filters.apply(len(weights), share, *weights, *biases)
