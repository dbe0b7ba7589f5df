"""What older supported PEFT versions lack; each part goes when the oldest supported version has it."""

from __future__ import annotations

import inspect
from typing import Any

from peft.utils import ModulesToSaveWrapper
from torch import nn

from mona_peft.class_swap import swap_class


class KeywordForward:
    """Mixin in front of `ModulesToSaveWrapper`: heads called by keyword alone, as Mask2Former's (PEFT < 0.20)."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the head that is active."""
        if args or "adapter_names" in kwargs:
            return super().forward(*args, **kwargs)
        trained = [name for name in self.active_adapters if name in self.modules_to_save]
        head = self.original_module if self.disable_adapters or not trained else self.modules_to_save[trained[0]]
        return head(**kwargs)


def accept_keyword_calls(model: nn.Module) -> None:
    """Let heads in `modules_to_save` be called without positional arguments; does nothing where PEFT does so itself."""
    if "x" not in inspect.signature(ModulesToSaveWrapper.forward).parameters:
        return
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            swap_class(module, KeywordForward)
