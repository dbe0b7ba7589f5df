"""Which of the ways to compute a Mona a call takes. They differ in time and memory, not in the result."""

from __future__ import annotations

from functools import partial

import torch
from torch.autograd import forward_ad

from mona_peft.blocks import Grid, ReorderedGrid, is_dense, on_each_map, shaped_like, tokens_of
from mona_peft.functional import steps
from mona_peft.functional.compiled import mona_compiled
from mona_peft.functional.fake_tensors import is_fake
from mona_peft.functional.fast import Engine, mona_fast
from mona_peft.functional.folding import HALF_DTYPES, FoldedWeights, can_fold, fold
from mona_peft.functional.formula import Settings, Weights, mona_formula
from mona_peft.functional.triton import chosen_engine


def mona_delta(
    hidden_states: torch.Tensor,
    grid: Grid | ReorderedGrid,
    weights: Weights,
    settings: Settings,
) -> torch.Tensor:
    """Compute what a Mona adds to a token map.

    Args:
        hidden_states: Tokens of shape (B, P + H * W, C), row by row, or as the grid says.
        grid: (H, W), or how the tokens lie.
        weights: The parameters.
        settings: The settings.

    Returns:
        `delta` of the shape and dtype of `hidden_states`.
    """
    if isinstance(grid, ReorderedGrid) and not _runs_fast(hidden_states, settings):
        return grid.each(partial(mona_delta, weights=weights, settings=settings), hidden_states)
    if not _runs_folded(hidden_states, settings):
        return mona_formula(hidden_states, grid, weights, settings).to(hidden_states.dtype)
    if trains_compiled(hidden_states):
        return mona_compiled(hidden_states, grid, weights, settings, with_input=False)
    folded = _fold(hidden_states, weights, settings)
    if _is_followed(hidden_states):
        with steps.without_autocast(hidden_states.device.type):
            return steps.mona_folded(hidden_states, grid, folded, settings.dropout)
    engine = _engine(hidden_states, grid, folded)
    return mona_fast(hidden_states, grid, folded, settings.dropout, in_place=False, engine=engine)


def add_mona_(
    hidden_states: torch.Tensor,
    grid: Grid | ReorderedGrid,
    weights: Weights,
    settings: Settings,
) -> torch.Tensor:
    """Add `mona_delta` to `hidden_states` in place; arguments as there, or a map (B, C, H, W) for the tokens.

    Returns:
        The sum: `hidden_states`, or while compiling a tensor of the same values. What follows should go on with it, as
        the backward pass needs it and a compiler would keep both.
    """
    if can_fold(settings) and trains_compiled(hidden_states):
        # In half precision the operator keeps its input, which is about to be overwritten.
        before = hidden_states.clone() if hidden_states.dtype in HALF_DTYPES else hidden_states
        compute = partial(mona_compiled, weights=weights, settings=settings, with_input=True)
        total = on_each_map(compute, tokens_of(before), grid)
        total = shaped_like(total, hidden_states)
        hidden_states.copy_(total)
        return total
    if not _runs_fast(hidden_states, settings) or not is_dense(hidden_states):
        # From a copy: what these ways keep is their input.
        delta = mona_delta(tokens_of(hidden_states.clone()), grid, weights, settings)
        return hidden_states.add_(shaped_like(delta, hidden_states))
    folded = _fold(hidden_states, weights, settings)
    engine = _engine(hidden_states, grid, folded)
    return mona_fast(hidden_states, grid, folded, settings.dropout, in_place=True, engine=engine)


def trains_compiled(hidden_states: torch.Tensor) -> bool:
    """Whether `torch.compile` follows what may be part of a training step.

    Exporters, transforms and inference want operations that they can look into.
    """
    return (
        torch.compiler.is_compiling()
        # From PyTorch 2.7 on; before, what is compiled may be exported.
        and not getattr(torch.compiler, "is_exporting", lambda: True)()
        and torch.is_grad_enabled()
        and not is_transformed()
        and hidden_states.numel() > 0
    )


def is_transformed() -> bool:
    """Whether a `torch.func` transform or forward-mode differentiation is at work."""
    # The names are not public and may go with any release. Where one is missing, say yes, which is slower and right.
    are_active = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)
    return are_active() or getattr(forward_ad, "_current_level", 0) >= 0


def _runs_folded(hidden_states: torch.Tensor, settings: Settings) -> bool:
    if not can_fold(settings):
        return False
    return torch.compiler.is_compiling() or not (is_transformed() or hidden_states.numel() == 0)


def _runs_fast(hidden_states: torch.Tensor, settings: Settings) -> bool:
    return _runs_folded(hidden_states, settings) and not _is_followed(hidden_states)


def _is_followed(hidden_states: torch.Tensor) -> bool:
    """True while compiling, tracing, on the meta device or capturing a CUDA graph.

    Use plain operations and the framework's random numbers then.
    """
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or hidden_states.device.type == "meta"
        # In half precision what is kept depends on values, which a fake tensor lacks.
        or (is_fake(hidden_states) and hidden_states.dtype in HALF_DTYPES)
        or (hidden_states.device.type == "cuda" and torch.cuda.is_current_stream_capturing())
    )


def _engine(hidden_states: torch.Tensor, grid: Grid | ReorderedGrid, weights: FoldedWeights) -> Engine | None:
    """Return what computes where it is not the default; the kernels in Triton know of no order but row by row."""
    return None if isinstance(grid, ReorderedGrid) else chosen_engine(hidden_states, weights)


def _fold(hidden_states: torch.Tensor, weights: Weights, settings: Settings) -> FoldedWeights:
    device_type = hidden_states.device.type
    dtype = steps.autocast_dtype(device_type)
    with steps.without_autocast(device_type):
        return fold(weights, settings, dtype)
