"""Task heads: what `modules_to_save` means for a model, and a warning when a head stays frozen."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from torch import nn

from mona_peft.selection import TASK_HEAD, backbone_of, modules_outside, parameters_outside

if TYPE_CHECKING:
    from mona_peft.tuner import ResidualAdapterConfig

REMEDY = "MonaConfig(modules_to_save='task-head')"


def resolve_modules_to_save(model: nn.Module, config: ResidualAdapterConfig) -> list[str] | None:
    """Return `config.modules_to_save` as names of modules.

    Raises:
        ValueError: If `"task-head"` is asked for and nothing stands outside the backbone, or a name matches nothing.
    """
    if config.modules_to_save is None:
        _warn_of_frozen_head(model, config)
        return None
    if config.modules_to_save != TASK_HEAD:
        _check_names(model, config.modules_to_save)
        return config.modules_to_save

    backbone = backbone_of(model)
    heads = modules_outside(model, backbone)
    if not heads:
        raise ValueError(
            f"modules_to_save='task-head', but nothing with parameters stands outside the backbone of "
            f"{type(model).__name__}. Leave modules_to_save out, or add a head to the model first."
        )
    bare = parameters_outside(model, backbone, heads)
    if bare:
        warnings.warn(
            f"modules_to_save='task-head' trains {heads}, but {bare} stay frozen: they lie directly in a larger "
            "module, and PEFT saves whole modules only.",
            stacklevel=2,
        )
    return heads


def _check_names(model: nn.Module, modules_to_save: list[str]) -> None:
    names = [name for name, _ in model.named_modules()]
    unmatched = [wanted for wanted in modules_to_save if not any(name.endswith(wanted) for name in names)]
    if unmatched:
        raise ValueError(
            f"modules_to_save: {unmatched} matches no module of {type(model).__name__}. Outside its backbone stand "
            f"{modules_outside(model, backbone_of(model))}; {TASK_HEAD!r} stands for all of them."
        )


def _warn_of_frozen_head(model: nn.Module, config: ResidualAdapterConfig) -> None:
    heads = modules_outside(model, backbone_of(model))
    if heads and not config.inference_mode:
        warnings.warn(
            f"Only the adapters will be trained: {heads} outside the backbone stay frozen. To train and save them too, "
            f"write {REMEDY}; if this is what you want, modules_to_save=[] says so.",
            stacklevel=2,
        )
