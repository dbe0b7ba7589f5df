"""Recompute a block's frozen branches in the backward pass instead of keeping what is inside them.

An MLP branch needs one thing alone from within: the input of the activation function, four times as wide as the block.
That is a third to a half of all that a block keeps, and the first half of the branch gives it back from the block's
`h`, which is kept anyway. An attention branch needs queries, keys, values and its output; the projection of the output
is not computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint


def recomputed_branch(block: nn.Module, names: Sequence[str]) -> dict[str, Callable[..., torch.Tensor]]:
    """Return stand-ins for the submodules of a branch: the last does the work of all, the others pass on.

    Args:
        block: The block.
        names: Names of its submodules, in the order in which the branch goes through them.
    """
    *modules, last = [getattr(block, name) for name in names]

    def branch(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        for module in modules:
            hidden_states = module(hidden_states)
        return last(hidden_states, *args, **kwargs)

    # Attention is given masks besides, SegFormer's last submodule the grid, that of ViTPose the dataset's number.
    def recomputed(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if torch.is_grad_enabled() and hidden_states.requires_grad:
            # Compilers see for themselves what is needed.
            options = {} if torch.compiler.is_compiling() else {"context_fn": _sparing_weights}
            return checkpoint(branch, hidden_states, *args, use_reentrant=False, **options, **kwargs)
        return branch(hidden_states, *args, **kwargs)

    return dict.fromkeys(names, _pass_on) | {names[-1]: recomputed}


def _pass_on(hidden_states: torch.Tensor) -> torch.Tensor:
    return hidden_states


def _sparing_weights() -> tuple[AbstractContextManager, AbstractContextManager]:
    """Return contexts, for a checkpoint's forward pass and for its repetition, in which weights stay where they are.

    The repetition stops as soon as it has all that the forward pass would have kept. By itself the checkpoint counts
    the weights of the last layers among that, though they are there anyway, and so computes these layers for nothing:
    the activation function, and where a scale follows (DINOv2) the second linear layer, a tenth of a step.
    """
    return _SparedWeights(), _SparedWeights()


class _SparedWeights:
    """Keeps parameters themselves, and leaves all else to the hooks of the checkpoint around it."""

    def __enter__(self) -> None:
        # Not public: without it (before PyTorch 2.8) weights are counted as ever.
        find = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
        around = None if find is None else find(False)
        self.hooks = nullcontext() if around is None else saved_tensors_hooks(*_sparing(*around))
        self.hooks.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.hooks.__exit__(*error)


def _sparing(
    pack: Callable[[torch.Tensor], Any], unpack: Callable[[Any], torch.Tensor]
) -> tuple[Callable[[torch.Tensor], Any], Callable[[Any], torch.Tensor]]:
    def spare(tensor: torch.Tensor) -> Any:
        return tensor if _is_parameter(tensor) else pack(tensor)

    def unpack_spared(kept: Any) -> torch.Tensor:
        return kept if isinstance(kept, torch.Tensor) else unpack(kept)

    return spare, unpack_spared


def _is_parameter(tensor: torch.Tensor) -> bool:
    """Whether it is a parameter, or a view of one: a linear layer keeps its weight turned."""
    return isinstance(tensor._base if tensor._is_view() else tensor, nn.Parameter)
