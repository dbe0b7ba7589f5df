"""The one mechanism: a residual adapter after the attention residual and after the MLP residual of a block.

No submodule of a block sees the tensor `h` after the attention residual as its output, so no single child can be
wrapped. But one child receives it: the module where the MLP branch enters. An adapted block therefore runs the stock
`forward` on a view of itself in which that child is replaced by a tap. The tap receives `h`, lets the adapter compute
`d1 = f1(h)`, hands `h + d1` to the child and remembers `d1`, which is then added to the block's output:
`(h + d1) + mlp(norm(h + d1))`, exactly the block with `h + d1` in the place of `h`. The second adapter follows. A block
that goes on behind its MLP residual (ViTDet) is tapped there too, and one with a single residual (ConvNeXt) has the
second adapter alone. An adapter that can writes `h + d1` into the tensor `h` itself: the stock `forward` then goes on
with it by itself.

View and tap live for one call: nothing is remembered on the modules, so recomputation in the backward pass, threads and
`torch.compile` see a pure function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from mona_peft.blocks import ATTENTION, MLP, PATCH_GRID, Grid
from mona_peft.functional.dispatch import is_transformed
from mona_peft.recompute import recomputed_branch


class ResidualAdapter(nn.Module):
    """What an adapter is to the block that hosts it: `forward(hidden_states, grid) -> delta`.

    One that needs less memory when it adds `delta` itself says so in `adds_in_place`; its `forward` then takes a third
    argument, `in_place`, and adds `delta` to `hidden_states`.
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
    """Stands for a child of a block, for one call of the block: changes what the child receives."""

    def __init__(self, child: Callable[..., Any], change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.child = child
        self.change = change
        self.reached = False

    def __call__(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        self.reached = True
        return self.child(self.change(hidden_states), *args, **kwargs)


class _BlockView:
    """A block as its own stock `forward` sees it for one call: itself, but for a few children.

    Reads and writes go to the block (Swin blocks change their own shift and window), except for the children that the
    stand-ins stand for.
    """

    # transformers asks `type(self).forward` whether this is the outermost forward, the one that checkpoints.
    forward = None

    def __init__(self, block: nn.Module, stand_ins: dict[str, Callable[..., Any]]) -> None:
        vars(self).update({"_block": block, **stand_ins})

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_block"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(vars(self)["_block"], name, value)


class _Adapters:
    """The adapters of a block for one call: what they add after either residual, in the layout that is there."""

    def __init__(self, adapter_layer: nn.Module, grid: Grid, adapter_names: Sequence[str] | None) -> None:
        self.adapter_layer = adapter_layer
        self.adapter_names = adapter_names
        self.anatomy = adapter_layer.anatomy
        self.token_map = adapter_layer.token_map
        self.grid = grid
        self.attention_delta: torch.Tensor | None = None  # d1, as tokens

    def after_attention(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return `h + d1`."""
        layout = self.token_map.mlp_entry_layout
        self.attention_delta = self._delta(hidden_states, layout, ATTENTION)
        return self._add(hidden_states, self.attention_delta, layout)

    def after_mlp(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return the stock block's `h + mlp(norm(h + d1))`, to which d1 is still to be added, with d1 and d2."""
        layout = self.token_map.layout
        hidden_states = self._add(hidden_states, self.attention_delta, layout)
        return self._add(hidden_states, self._delta(hidden_states, layout, MLP), layout)

    def _delta(self, hidden_states: torch.Tensor, layout: str, site: str) -> torch.Tensor | None:
        """Return what is still to be added as tokens; None if nothing is, or all has been added in place."""
        tokens = self.token_map.to_tokens(hidden_states, layout, self.grid)
        # Only into the very tensor that the block goes on with: `tokens` may be a copy of it in another order.
        in_place = tokens is hidden_states and self.anatomy.fresh_sums and may_be_overwritten(hidden_states)
        return self.adapter_layer(tokens, self.grid, site, adapter_names=self.adapter_names, in_place=in_place)

    def _add(self, hidden_states: torch.Tensor, delta: torch.Tensor | None, layout: str) -> torch.Tensor:
        if delta is None:
            return hidden_states
        return hidden_states + self.token_map.from_tokens(delta, layout, self.grid)


class AdaptedBlock:
    """Mixin in front of a block's class; the adapters are in the child named `adapter_layer_name`."""

    adapter_layer_name: str
    stock_class: type[nn.Module]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the block; the grid of the patches enters here, outside of gradient checkpointing."""
        adapter_layer = getattr(self, self.adapter_layer_name)
        if not adapter_layer.disable_adapters:
            kwargs |= adapter_layer.token_map.source.keywords()
        return super().__call__(*args, **kwargs)

    def forward(
        self, hidden_states: torch.Tensor, *args: Any, adapter_names: Sequence[str] | None = None, **kwargs: Any
    ) -> Any:
        """Run the block with its adapters; arguments and result are those of the stock block.

        Args:
            hidden_states: As the stock block takes them.
            args: Further arguments of the stock block.
            adapter_names: Names of the adapters of each sample; without them the active adapters take part.
            kwargs: Further arguments of the stock block.
        """
        adapter_layer = getattr(self, self.adapter_layer_name)
        if not adapter_layer.is_active(adapter_names):
            kwargs.pop(PATCH_GRID, None)
            return self.stock_class.forward(self, hidden_states, *args, **kwargs)

        anatomy = adapter_layer.anatomy
        grid = adapter_layer.token_map.source.read(hidden_states, args, kwargs)
        adapters = _Adapters(adapter_layer, grid, adapter_names)
        changes = {anatomy.mlp_entry: adapters.after_attention, anatomy.mlp_exit: adapters.after_mlp}
        stand_ins = recomputed_branch(self, anatomy.mlp_branch) if adapter_layer.recomputes_mlp else {}
        taps = {
            name: _Tap(stand_ins.get(name, getattr(self, name)), change)
            for name, change in changes.items()
            if name is not None
        }
        outputs = self.stock_class.forward(_BlockView(self, stand_ins | taps), hidden_states, *args, **kwargs)
        missed = [name for name, tap in taps.items() if not tap.reached]
        if missed:
            raise RuntimeError(
                f"{self.stock_class.__name__} did not call its {missed}, so its anatomy in `mona_peft.blocks` is "
                "wrong for this version. Register the right one with `mona_peft.register_block`."
            )
        if anatomy.mlp_exit is not None:
            return outputs
        if isinstance(outputs, tuple):
            return (adapters.after_mlp(outputs[0]), *outputs[1:])
        return adapters.after_mlp(outputs)

    def _get_name(self) -> str:
        return f"{self.adapter_layer_name.capitalize()}{self.stock_class.__name__}"
