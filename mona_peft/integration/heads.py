"""Task heads: what `modules_to_save` means for a model, a warning when a head stays frozen, how a trained head runs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from peft.utils import ModulesToSaveWrapper
from torch import nn

from mona_peft.config import TASK_HEAD, MethodConfig
from mona_peft.host.class_swap import swap_class
from mona_peft.host.per_sample import run_per_sample
from mona_peft.integration.selection import (
    backbone_of,
    modules_outside,
    nested_matches,
    parameters_outside,
    without_nested,
)

RESOLVED = "_task_head"
"""Attribute of a configuration that asked for the task head: the names of its modules in the model it was used for."""


def resolve_modules_to_save(model: nn.Module, config: MethodConfig) -> list[str] | None:
    """Return `config.modules_to_save` as names of modules.

    Raises:
        ValueError: If `"task-head"` is asked for and nothing stands outside the backbone, a name matches nothing, or
            `config` has been used for a model with another head.
    """
    if config.modules_to_save is None:
        _warn_of_frozen_head(model, config)
        return None
    heads = head_names(model, config)
    if config.modules_to_save != TASK_HEAD:
        return heads
    bare = parameters_outside(model, backbone_of(model), heads)
    if bare:
        warnings.warn(
            f"modules_to_save='task-head' trains {heads}, but {bare} stay frozen: they lie directly in a larger "
            "module, or in one whose name is the ending of another's in the backbone. PEFT saves whole modules only, "
            "by the endings of their names.",
            stacklevel=2,
        )
    setattr(config, RESOLVED, heads)
    return heads


def head_names(model: nn.Module, config: MethodConfig) -> list[str]:
    """Return the names of the modules of a model, or their endings, that `config.modules_to_save` means.

    Raises:
        ValueError: As `resolve_modules_to_save` does.
    """
    if config.modules_to_save is None:
        return []
    if config.modules_to_save != TASK_HEAD:
        names = _unambiguous(model, config.modules_to_save)
        _check_names(model, names)
        _check_same_head(model, config)
        return names
    heads = modules_outside(model, backbone_of(model))
    if not heads:
        raise ValueError(
            f"modules_to_save='task-head', but no head of {type(model).__name__} can be told from its backbone: it has "
            "none, or the adapted blocks are those of several backbones. Leave modules_to_save out, add a head to the "
            "model first, or name what is to be trained: modules_to_save=['name', ...]."
        )
    return heads


def _check_same_head(model: nn.Module, config: MethodConfig) -> None:
    # The configuration has the names of the head of the model that it was first used for, and PEFT keeps no copy.
    if config.modules_to_save != getattr(config, RESOLVED, None):
        return
    heads = modules_outside(model, backbone_of(model))
    if heads != config.modules_to_save:
        raise ValueError(
            f"This {type(config).__name__} has been used for another model, where modules_to_save={TASK_HEAD!r} means "
            f"{config.modules_to_save}; in {type(model).__name__} it means {heads}. Make one for each model."
        )


def is_list(module: nn.Module) -> bool:
    """Whether a module is a mere list of others: never called, so that PEFT cannot wrap it, and without parameters."""
    if not isinstance(module, (nn.ModuleList, nn.ModuleDict)) or module._parameters:
        return False
    return type(module).forward is nn.Module.forward  # parametrisations have one of their own


def modules_that_end(model: nn.Module, endings: Sequence[str]) -> dict[str, nn.Module]:
    """Return the modules that PEFT takes for `modules_to_save`, by name: those whose name ends so, compared as text.

    `"embeddings"` is also an ending of `"embeddings.patch_embeddings"`. Lists are none: see `without_lists`.
    """
    return {
        name: module
        for name, module in model.named_modules(remove_duplicate=False)
        if name.endswith(tuple(endings)) and not is_list(module)
    }


def _unambiguous(model: nn.Module, modules_to_save: list[str]) -> list[str]:
    """Give the full name of a module that is also the ending of one inside it by its members.

    DPT's `head` is `head.head` then: names of tensors in a file are the same. Where a parameter would be left out, the
    name stays as it is.
    """
    settled = []
    modules = modules_that_end(model, modules_to_save)
    for wanted in modules_to_save:
        is_ambiguous = wanted in modules and nested_matches([wanted], [wanted], modules)
        members = without_nested(model, [wanted]) if is_ambiguous else [wanted]
        covered = tuple(f"{name}." for name in members)
        parameters = [f"{wanted}.{key}" for key, _ in modules[wanted].named_parameters()] if is_ambiguous else []
        settled += members if all(name.startswith(covered) for name in parameters) else [wanted]
    return settled


@contextmanager
def without_lists(model: nn.Module) -> Iterator[None]:
    """Hide the lists of a model from PEFT, while it looks for the modules that it is to train and save.

    It takes a list whose name merely ends as that of a module in `modules_to_save`, and then refuses it: RF-DETR has
    both `class_embed` and the list `model.enc_out_class_embed`. What lists hold is found by its own name.
    """
    before, named_modules = vars(model).get("named_modules"), model.named_modules

    def named_without_lists(*args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Module]]:
        return ((name, module) for name, module in named_modules(*args, **kwargs) if not is_list(module))

    model.named_modules = named_without_lists
    try:
        yield
    finally:
        del model.named_modules
        if before is not None:
            model.named_modules = before


def _check_names(model: nn.Module, modules_to_save: list[str]) -> None:
    matched = {wanted: list(modules_that_end(model, [wanted])) for wanted in modules_to_save}
    unmatched = [wanted for wanted, names in matched.items() if not names]
    if unmatched:
        raise ValueError(
            f"modules_to_save: {unmatched} matches no module of {type(model).__name__} that can be saved whole; of a "
            f"list name the members. Outside its backbone stand {modules_outside(model, backbone_of(model))}; "
            f"{TASK_HEAD!r} stands for all of them."
        )
    groups = list(matched.values())
    if any(isinstance(module, ModulesToSaveWrapper) for module in model.modules()):
        # Beside an adapter with heads, PEFT would wrap one within another, whichever name means them.
        groups = [[name for names in groups for name in names]]
    nested = [(outer, inner) for names in groups for outer in names for inner in names if inner.startswith(f"{outer}.")]
    if nested:
        raise ValueError(
            f"modules_to_save={modules_to_save!r} means {nested[0][0]!r} and, inside it, {nested[0][1]!r}: PEFT takes "
            "every module whose name ends so, and cannot save one inside another. Give longer endings that mean one."
        )


def _warn_of_frozen_head(model: nn.Module, config: MethodConfig) -> None:
    heads = modules_outside(model, backbone_of(model))
    if heads and not config.inference_mode:
        warnings.warn(
            f"Only the {config.trains} will be trained: {heads} outside the backbone stay frozen. To train and save "
            f"them too, write {type(config).__name__}(modules_to_save={TASK_HEAD!r}); if this is what you want, "
            "modules_to_save=[] says so.",
            stacklevel=2,
        )


class TrainedHead:
    """Mixin in front of `ModulesToSaveWrapper`.

    PEFT's own forward takes a head for each sample only if the heads are one linear layer or convolution, and
    transformers activates an adapter in all heads, also in those that it has not trained. When an adapter without a
    head is deleted, PEFT leaves the head of the one that becomes active switched off.
    """

    def set_adapter(self, adapter_names: str | list[str], *args: Any, **kwargs: Any) -> None:
        """Make the head of an adapter active, or the frozen head if the adapter has none."""
        names = [adapter_names] if isinstance(adapter_names, str) else adapter_names
        super().set_adapter([name for name in names if name in self.modules_to_save], *args, **kwargs)

    def delete_adapter(self, adapter_name: str, new_active_adapters: Sequence[str] | None) -> None:
        """Delete the head of an adapter, if it has one, and make that of the adapter active that is active then."""
        names = [name for name in new_active_adapters or [] if name in self.modules_to_save and name != adapter_name]
        if names != self.active_adapters:
            self.set_adapter(names)
        super().delete_adapter(adapter_name, names)

    def forward(self, *args: Any, adapter_names: Sequence[str] | None = None, **kwargs: Any) -> Any:
        """Call the head of the active adapter, or of each sample's adapter."""
        if adapter_names is None or self.disable_adapters:
            names = [] if self.disable_adapters else self.active_adapters
            return self._head_of(*names)(*args, **kwargs)
        return run_per_sample({name: self._head_of(name) for name in adapter_names}, adapter_names, args, kwargs)

    def _head_of(self, *adapter_names: str) -> nn.Module:
        trained = [self.modules_to_save[name] for name in adapter_names if name in self.modules_to_save]
        return trained[0] if trained else self.original_module


def trained_heads(model: nn.Module) -> list[nn.Module]:
    """Return the heads of a model that PEFT wraps to train and save them, each a `TrainedHead`."""
    heads = [module for module in model.modules() if isinstance(module, ModulesToSaveWrapper)]
    for head in heads:
        swap_class(head, TrainedHead)
    return heads
