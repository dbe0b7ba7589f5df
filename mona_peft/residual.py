"""The one mechanism: a residual adapter after the attention residual and after the MLP residual of a block.

No submodule of a block sees the tensor `h` after the attention residual as its output, so no single child can be
wrapped. But one child receives it: the module where the MLP branch enters. An adapted block therefore runs the stock
`forward` on a view of itself in which that child is replaced by a tap. The tap receives `h`, lets the adapter compute
`d1 = f1(h)`, hands `h + d1` to the child and remembers `d1`, which is then added to the block's output:
`(h + d1) + mlp(norm(h + d1))`, exactly the block with `h + d1` in the place of `h`. The second adapter follows.
An adapter that can writes `h + d1` into the tensor `h` itself: the stock `forward` then goes on with it by itself.

View and tap live for one call: nothing is remembered on the modules, so recomputation in the backward pass, threads and
`torch.compile` see a pure function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from mona_peft.functional.dispatch import is_transformed
from mona_peft.recompute import recomputed_branch

ATTENTION, MLP = "attention", "mlp"
SITES = (ATTENTION, MLP)
"""Where in a block an adapter may stand: after the attention residual, after the MLP residual."""


class ResidualAdapter(nn.Module):
    """What an adapter is to the block that hosts it: `forward(hidden_states, grid) -> delta`.

    An adapter that needs less memory when it adds `delta` itself says so in `adds_in_place` and has
    `add_(hidden_states, grid)`, which writes `hidden_states + delta` into `hidden_states` and returns them.
    """

    adds_in_place = False


def may_be_overwritten(hidden_states: torch.Tensor) -> bool:
    """Whether an adapter may write `hidden_states + delta` into `hidden_states`, a residual sum inside a block.

    It may if nothing else needs them as they are. A sum that autograd has just made is such a tensor: addition does
    not keep its result. Recorded and transformed operations should be plain ones.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or is_transformed():
        return False
    if hidden_states.numel() == 0:
        return False
    whole = hidden_states._base if hidden_states._is_view() else hidden_states
    if whole.numel() != hidden_states.numel() or not hidden_states.is_contiguous():
        return False
    producer = whole.grad_fn
    return not whole.requires_grad if producer is None else producer.name() == "AddBackward0"


class _Tap:
    """Stands for the module where the MLP branch enters, for one call of the block."""

    def __init__(
        self,
        mlp_entry: Callable[[torch.Tensor], torch.Tensor],
        adapter: Callable[[torch.Tensor], torch.Tensor | None],
    ) -> None:
        self.mlp_entry = mlp_entry
        self.adapter = adapter
        self.delta: torch.Tensor | None = None
        self.reached = False

    def __call__(self, hidden_states: torch.Tensor) -> torch.Tensor:
        self.reached = True
        self.delta = self.adapter(hidden_states)
        if self.delta is not None:
            hidden_states = hidden_states + self.delta
        return self.mlp_entry(hidden_states)


class _BlockView:
    """A block as its own stock `forward` sees it for one call: itself, but for a few children.

    Reads and writes go to the block (Swin blocks change their own shift and window), except for the children that the
    stand-ins stand for.
    """

    # transformers asks `type(self).forward` whether this is the outermost forward, the one that checkpoints.
    forward = None

    def __init__(self, block: nn.Module, stand_ins: dict[str, Callable]) -> None:
        vars(self).update({"_block": block, **stand_ins})

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_block"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(vars(self)["_block"], name, value)


class AdaptedBlock:
    """Mixin in front of a block's class; the adapters are in the child named `adapter_layer_name`."""

    adapter_layer_name: str
    stock_class: type[nn.Module]

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Run the block with its adapters; arguments and result are those of the stock block."""
        adapter_layer = getattr(self, self.adapter_layer_name)
        if not adapter_layer.is_active:
            return self.stock_class.forward(self, hidden_states, *args, **kwargs)

        grid = adapter_layer.grid_arguments.read(args, kwargs)
        anatomy = adapter_layer.anatomy
        stand_ins = recomputed_branch(self, anatomy.mlp_branch) if adapter_layer.recomputes_mlp else {}
        mlp_entry = stand_ins.get(anatomy.mlp_entry, getattr(self, anatomy.mlp_entry))
        tap = _Tap(mlp_entry, lambda hidden: adapter_layer(hidden, grid, ATTENTION, may_be_overwritten(hidden)))
        view = _BlockView(self, stand_ins | {anatomy.mlp_entry: tap})
        outputs = self.stock_class.forward(view, hidden_states, *args, **kwargs)
        if not tap.reached:
            raise RuntimeError(
                f"{self.stock_class.__name__} did not call its {anatomy.mlp_entry!r}, so its anatomy in "
                "`mona_peft.blocks` is wrong for this version. Register the right one with `mona_peft.register_block`."
            )

        hidden_states = outputs[0] if isinstance(outputs, tuple) else outputs
        if tap.delta is not None:
            hidden_states = hidden_states + tap.delta
        delta = adapter_layer(hidden_states, grid, MLP, may_be_overwritten(hidden_states))
        if delta is not None:
            hidden_states = hidden_states + delta
        return (hidden_states, *outputs[1:]) if isinstance(outputs, tuple) else hidden_states

    def _get_name(self) -> str:
        return f"{self.adapter_layer_name.capitalize()}{self.stock_class.__name__}"
