"""Hooks that tell a record when a module begins and ends a call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import nn


class CallRecord(Protocol):
    """What is told."""

    def enter(self, module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Begin a call of `module`, in this thread."""

    def leave(self) -> None:
        """End the innermost call of this thread."""


class EnterCall:
    """Forward pre-hook."""

    def __init__(self, record: CallRecord) -> None:
        self.record = record

    def __call__(self, module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Tell of a call that begins."""
        self.record.enter(module, args, kwargs)


class LeaveCall:
    """Forward hook of the same module; it is called after an exception too."""

    def __init__(self, record: CallRecord) -> None:
        self.record = record

    def __call__(self, module: nn.Module, args: Sequence[Any], output: object) -> None:
        """Tell of a call that ends."""
        self.record.leave()


def watch_calls(module: nn.Module, record: CallRecord) -> None:
    """Tell `record` of the calls of `module`, once each."""
    entered = [hook.record for hook in module._forward_pre_hooks.values() if isinstance(hook, EnterCall)]
    if not any(other is record for other in entered):
        module.register_forward_pre_hook(EnterCall(record), prepend=True, with_kwargs=True)
        module.register_forward_hook(LeaveCall(record), always_call=True)


def forget_hooks(model: nn.Module, kinds: tuple[type, ...]) -> None:
    """Take all forward hooks and pre-hooks of these kinds off a model."""
    for module in model.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key, hook in list(hooks.items()):
                if isinstance(hook, kinds):
                    del hooks[key]
                    module._forward_hooks_always_called.pop(key, None)
                    module._forward_pre_hooks_with_kwargs.pop(key, None)
