"""Recompute a block's frozen branches in the backward pass instead of keeping what is inside them.

An MLP branch needs one thing alone from within: the input of the activation function, four times as wide as the block.
That is a third to a half of all that a block keeps, and the first half of the branch gives it back from the block's
`h`, which is kept anyway. An attention branch needs queries, keys, values and its output; all of it is computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
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
            return checkpoint(branch, hidden_states, *args, use_reentrant=False, **kwargs)
        return branch(hidden_states, *args, **kwargs)

    return dict.fromkeys(names, _pass_on) | {names[-1]: recomputed}


def _pass_on(hidden_states: torch.Tensor) -> torch.Tensor:
    return hidden_states
