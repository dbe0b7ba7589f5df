"""The one mechanism: a residual block that runs with adapters, which are all in one child of it.

An adapted block runs the stock `forward` on a view of itself in which a few children are replaced by taps, which change
what the child receives or returns. Where the taps are and what they do is the method's place (`host/placement.py`).

View and taps live for one call: nothing is remembered on the modules, so recomputation in the backward pass, threads
and `torch.compile` see a pure function.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from torch import nn

from mona_peft.blocks import PATCH_GRID, BlockAnatomy, Layout, is_dense
from mona_peft.functional.dispatch import is_transformed, trains_compiled
from mona_peft.host.class_swap import is_own_forward
from mona_peft.host.per_sample import rows_by_adapter
from mona_peft.host.recompute import recomputed_branch


class ResidualAdapter(nn.Module):
    """What an adapter is to the block that hosts it: `forward(hidden_states, grid) -> delta`.

    One that needs less memory when it adds `delta` itself says so in `adds_in_place`; its `forward` then takes a third
    argument, `in_place`, and adds `delta` to `hidden_states`, which may then be a map (B, C, H, W), channels last in
    memory. One with `sees_time` is given the frames of a video together, with the grid (T, H, W), others one by one.
    Tokens that a block holds in windows or mask units are put in order, row by row, but for one that `takes_any_order`:
    it is given them as they are, with a `ReorderedGrid`.
    """

    adds_in_place = False
    sees_time = False
    takes_any_order = False


def initialises(reset_parameters: Callable[..., None]) -> Callable[..., None]:
    """Decorate `reset_parameters`: no gradients, and on the meta device, where there is nothing to set, no work.

    PyTorch takes a millisecond there for a normal distribution, and adapters are made there to be checked.
    """

    @wraps(reset_parameters)
    def run(adapter: nn.Module, *args: Any, **kwargs: Any) -> None:
        if not next(adapter.parameters()).is_meta:
            with torch.no_grad():
                reset_parameters(adapter, *args, **kwargs)

    return run


def may_be_overwritten(hidden_states: torch.Tensor) -> bool:
    """Whether an adapter may write `hidden_states + delta` into `hidden_states`, a residual sum inside a block.

    It may if nothing else needs them as they are. A sum that autograd has just made is such a tensor: addition does
    not keep its result. Recorded and transformed operations should be plain ones.
    """
    if torch.compiler.is_compiling():
        return trains_compiled(hidden_states)  # whose graph has a new tensor wherever one is changed
    if torch.jit.is_tracing() or is_transformed():
        return False
    if hidden_states.numel() == 0:
        return False
    try:
        whole = hidden_states._base if hidden_states._is_view() else hidden_states
    except AttributeError:  # no public names
        return False
    if whole.numel() != hidden_states.numel() or not is_dense(hidden_states):
        return False
    producer = whole.grad_fn
    return not whole.requires_grad if producer is None else producer.name() == "AddBackward0"


def _by_rows(block: nn.Module, anatomy: BlockAnatomy, hidden_states: torch.Tensor) -> torch.Tensor:
    """Return the input of a block token by token in memory.

    A patch projection without a class token leaves tokens channel by channel, for no good: all residual sums behind
    them would lie so too, and no adapter could add to one in place.
    """
    inside = anatomy.mlp_entry_layout or anatomy.layout
    is_map = anatomy.layout is Layout.BCHW
    # Not by `torch.channels_last`, which `torch.func.vmap` can't follow.
    rows = hidden_states.permute(0, 2, 3, 1) if is_map else hidden_states
    if inside not in (Layout.BNC, Layout.BHWC) or rows.is_contiguous():
        return hidden_states
    # A norm that is put together of single operations (RMSNorm), and a convolution behind the last map (SAM), round
    # otherwise then: only where memory is at stake.
    is_same = inside is Layout.BNC and isinstance(block.get_submodule(anatomy.norm), nn.LayerNorm)
    if not is_same and not torch.is_grad_enabled():
        return hidden_states
    return rows.contiguous().permute(0, 3, 1, 2) if is_map else rows.contiguous()


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_watched(module: nn.Module) -> bool:
    """Whether hooks, or a `forward` of its own, see or change what goes into a module and what comes out of it.

    What such a module writes into its input may be lost: hooks may have given it another tensor in its place, or change
    the result, and autograd forbids to write into what backward hooks watch.
    """
    if any(getattr(module, name, None) for name in HOOKS):
        return True
    if any(getattr(nn.modules.module, f"_global{name}", None) for name in HOOKS):
        return True
    return "forward" in vars(module) and not is_own_forward(module, vars(module)["forward"])


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


class _ViewOfSubclass(_BlockView):
    """View of a block whose `forward` calls that of a parent: `super()` asks `self` for its class.

    Apart from the plain view, since `torch.compile` does not follow such an answer.
    """

    @property
    def __class__(self) -> type:
        """The class of the block."""
        return type(vars(self)["_block"])


def _calls_parent(block_class: type[nn.Module]) -> bool:
    code = getattr(inspect.unwrap(block_class.forward), "__code__", None)
    return code is not None and "super" in code.co_names


def change_first(outputs: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Change the hidden states in what a module returns: them alone, or them first in a tuple."""
    return (change(outputs[0]), *outputs[1:]) if isinstance(outputs, tuple) else change(outputs)


class AdaptedBlock:
    """Mixin in front of a block's class; the adapters are in the child named `child_name`."""

    child_name: str
    stock_class: type[nn.Module]
    view_class: type[_BlockView] = _BlockView

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if hasattr(cls, "stock_class") and _calls_parent(cls.stock_class):
            cls.view_class = _ViewOfSubclass

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the block; the grid of the patches enters here, outside of gradient checkpointing."""
        adapter_layer = getattr(self, self.child_name)
        if not adapter_layer.disable_adapters:
            hidden_states = args[0] if args else kwargs["hidden_states"]
            kwargs |= adapter_layer.token_map.source.keywords(hidden_states)
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
        adapter_layer = getattr(self, self.child_name)
        if not adapter_layer.is_active(adapter_names):
            kwargs.pop(PATCH_GRID, None)
            return self.stock_class.forward(self, hidden_states, *args, **kwargs)

        if adapter_names is not None:  # raises unless there is a name for each sample
            rows_by_adapter(adapter_names, adapter_layer.token_map.batch_size(hidden_states))
        anatomy = adapter_layer.anatomy
        hidden_states = _by_rows(self, anatomy, hidden_states)
        grid = adapter_layer.token_map.source.read(hidden_states, args, kwargs)
        placement = adapter_layer.config_cls.placement(adapter_layer, grid, adapter_names)
        stand_ins = {}
        for site in adapter_layer.recomputed_sites():
            stand_ins |= recomputed_branch(self, anatomy.branch(site))
        taps = {name: tap(stand_ins.get(name, getattr(self, name))) for name, tap in placement.taps().items()}
        outputs = self.stock_class.forward(self.view_class(self, stand_ins | taps), hidden_states, *args, **kwargs)
        missed = [name for name, tap in taps.items() if not tap.reached]
        if missed:
            raise RuntimeError(
                f"{self.stock_class.__name__} did not call its {missed}, so its anatomy in `mona_peft.blocks` is "
                "wrong for this version. Register the right one with `mona_peft.register_block`."
            )
        return outputs if anatomy.mlp_exit is not None else change_first(outputs, placement.at_end)

    def _get_name(self) -> str:
        return f"{self.child_name.capitalize()}{self.stock_class.__name__}"
