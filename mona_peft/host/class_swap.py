"""Give one module instance another behaviour without another module: swap its class for a subclass, in place.

PyTorch's own `parametrize` and `fully_shard` do the same. Names, parameters, hooks, `isinstance` and whatever matches
modules by class or class name (output capture, FSDP's wrap policies, `_no_split_modules`) keep working, which a
wrapper module around the instance would break.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import nn


@cache
def _subclass(mixin: type, stock_class: type[nn.Module]) -> type[nn.Module]:
    namespace = {
        "stock_class": stock_class,
        "__module__": stock_class.__module__,
        "__qualname__": stock_class.__qualname__,
        "__doc__": stock_class.__doc__,
        "__reduce_ex__": _reduce,
    }
    return type(stock_class.__name__, (mixin, stock_class), namespace)


def _rebuild(mixin: type, stock_class: type[nn.Module]) -> nn.Module:
    swapped_class = _subclass(mixin, stock_class)
    return swapped_class.__new__(swapped_class)


def _reduce(module: nn.Module, protocol: int) -> tuple[Any, ...]:
    # Pickle finds classes by name, and the name of a swapped class leads to the stock class.
    swapped_class = type(module)
    return _rebuild, (swapped_class.__mro__[1], swapped_class.stock_class), module.__dict__


def swap_class(module: nn.Module, mixin: type) -> None:
    """Put `mixin` in front of the class of `module`; does nothing when it is there already.

    Args:
        module: Module to change in place.
        mixin: Class whose methods take precedence. It finds the stock class as `self.stock_class`.

    Raises:
        ValueError: If something replaced the `forward` of this very instance, so that no method of its class runs.
    """
    if isinstance(module, mixin):
        return
    _set_class(module, _subclass(mixin, type(module)))


def restore_class(module: nn.Module, mixin: type) -> None:
    """Undo `swap_class`."""
    if isinstance(module, mixin):
        _set_class(module, module.stock_class)


def _set_class(module: nn.Module, new_class: type[nn.Module]) -> None:
    instance_attributes = vars(module)
    hooked = "_old_forward" in instance_attributes
    if not hooked and is_own_forward(module, instance_attributes.get("forward")):
        del instance_attributes["forward"]
    if "forward" in instance_attributes and not hooked:
        raise ValueError(
            f"The forward of this {type(module).__name__} was replaced on the instance, so the adapter could not run. "
            "Undo that replacement before the adapter is attached."
        )
    module.__class__ = new_class
    # accelerate's hooks call the forward that they found, bound to the class of that time.
    if hooked:
        module._old_forward = new_class.forward.__get__(module)


def is_own_forward(module: nn.Module, forward: Any) -> bool:
    """Whether a `forward` on the instance is that of its class, bound: what accelerate's hooks leave when they go."""
    own = [cls.__dict__["forward"] for cls in type(module).__mro__ if "forward" in cls.__dict__]
    return getattr(forward, "__self__", None) is module and getattr(forward, "__func__", None) in own
