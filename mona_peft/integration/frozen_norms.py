"""Batch norm in frozen parts of a model keeps its running statistics.

A frozen batch norm in training mode would go on updating them. They are not in the adapter's file, so a reloaded
adapter would give other outputs than the one that was trained.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mona_peft.host.class_swap import restore_class, swap_class


class FrozenBatchNorm:
    """Mixin in front of a batch norm's class: in evaluation mode as long as it is frozen."""

    def train(self, mode: bool = True) -> nn.Module:
        """Stay in evaluation mode, unless somebody trains the weights after all."""
        return super().train(mode and any(parameter.requires_grad for parameter in self.parameters()))


def freeze_batch_norms(model: nn.Module) -> None:
    """Keep every batch norm of `model` in evaluation mode, but for those in modules that are trained and saved."""
    for name, batch_norm in _batch_norms(model):
        if ".modules_to_save." in f".{name}.":
            # The copy that PEFT trains was made of a module that may have been frozen already.
            restore_class(batch_norm, FrozenBatchNorm)
        else:
            swap_class(batch_norm, FrozenBatchNorm)
            batch_norm.eval()


def unfreeze_batch_norms(model: nn.Module) -> None:
    """Undo `freeze_batch_norms`; the mode stays as it is until the next `train()` or `eval()`."""
    for _, batch_norm in _batch_norms(model):
        restore_class(batch_norm, FrozenBatchNorm)


def _batch_norms(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((name, module) for name, module in model.named_modules() if isinstance(module, _BatchNorm))
