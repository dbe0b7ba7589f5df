"""Whether the tensors of an adapter are those that a model needs for it, found out without touching the model.

`fit` is what every way of loading asks first: it returns the tensors under the names that the model's modules have, or
refuses. Attaching and loading follow, and have nothing left to find out.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping

import torch
from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import ModulesToSaveWrapper
from torch import nn

from mona_peft.config import TASK_HEAD
from mona_peft.integration.heads import head_names, modules_that_end

SAVED_PREFIX = "base_model.model."
"""What the names of tensors in a file begin with: the modules of a `PeftModel` around the model."""


def fit(model: nn.Module, config: PeftConfig, saved: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of a saved adapter under the names that they have in the file of an adapter of this model.

    Args:
        model: The model without PEFT's wrapper, adapted already or not; it stays as it is.
        config: Configuration of the adapter.
        saved: Tensors of the adapter by name, as they stand in its file.

    Raises:
        ValueError: If the configuration does not fit the model, or the tensors are not exactly those that an adapter of
            this configuration has in this model, trained heads included.
    """
    tuner_cls = PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type]
    adapters = tuner_cls.adapter_tensors(model, config)
    given = {name.removeprefix(SAVED_PREFIX): tensor for name, tensor in saved.items()}
    if pattern := tuner_cls.block_pattern():
        given = _with_names_of(adapters, given, pattern)
    heads = head_names(model, config)
    check_tensors(adapters | _head_tensors(model, heads), given)
    renamed = set(config.modules_to_save or ()) - set(heads) if config.modules_to_save != TASK_HEAD else None
    if renamed:
        # PEFT made two copies of such a head, one in the other, trained the outer one and saved the inner one.
        warnings.warn(
            f"modules_to_save={config.modules_to_save!r}, as earlier snapshots wrote it for this model: what they "
            f"saved of {sorted(renamed)} is as it was before the training. Train it again; the adapter is whole.",
            stacklevel=2,
        )
    return {f"{SAVED_PREFIX}{name}": tensor for name, tensor in given.items()}


def _head_tensors(model: nn.Module, heads: Iterable[str]) -> dict[str, torch.Tensor]:
    """Return the tensors of the modules that PEFT saves whole, by their names in a file."""
    tensors = {}
    for name, module in modules_that_end(model, list(heads)).items():
        if not re.search(r"\.(original_module|modules_to_save)\b", name):
            head = module.original_module if isinstance(module, ModulesToSaveWrapper) else module
            tensors |= {f"{name}.{key}": tensor for key, tensor in head.state_dict(keep_vars=True).items()}
    return tensors


def _with_names_of(
    adapters: Mapping[str, torch.Tensor], given: dict[str, torch.Tensor], pattern: re.Pattern[str]
) -> dict[str, torch.Tensor]:
    """Give the weights of blocks the names that the same blocks have here, if none of the saved names is here.

    Where modules were renamed between versions of transformers (`vit.encoder.layer.0` became `vit.layers.0`), blocks
    are still the same ones in the same order, and so is their number. PEFT converts names for LoRA alone. Nothing is
    renamed if the numbers differ: the adapter is then one for another backbone.
    """
    here = list(dict.fromkeys(match["block"] for name in adapters if (match := pattern.fullmatch(name))))
    matches = {name: pattern.fullmatch(name) for name in given}
    saved = sorted({match["block"] for match in matches.values() if match}, key=_natural_order)
    if set(saved) & set(here) or len(saved) != len(here) or not here:
        return given
    names = dict(zip(saved, here, strict=True))
    warnings.warn(
        f"The adapter was saved for blocks of other names, such as {saved[0]}; its {len(saved)} blocks were taken in "
        f"their order for {here[0]} and so on.",
        stacklevel=2,
    )
    return {
        f"{names[match['block']]}.{match['rest']}" if (match := matches[name]) else name: tensor
        for name, tensor in given.items()
    }


def _natural_order(name: str) -> list[str | int]:
    """Sort `layers.10` behind `layers.9`."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def check_loaded_state(tuner: nn.Module, state_dict: Mapping[str, torch.Tensor], prefix: str) -> None:
    """Refuse the adapter weights in a state dict of a whole model that are not whole adapters of it.

    `load_state_dict(strict=False)` would load what happens to fit and leave the rest untrained.

    Args:
        tuner: The tuner that is about to load.
        state_dict: What it is about to load; it may hold anything else besides adapters.
        prefix: What stands before the tuner's own names in the keys of `state_dict`.

    Raises:
        ValueError: If weights of an adapter are missing, have no place, or have another shape or kind of numbers.
    """
    adapters = tuner.weight_names
    given = {name: tensor for key, tensor in state_dict.items() if adapters.match(name := key.removeprefix(prefix))}
    if not given:
        return
    names = {adapters.match(name)["adapter"] for name in given}
    expected = {
        name: tensor
        for name, tensor in tuner.state_dict(keep_vars=True).items()
        if (match := adapters.match(name)) and match["adapter"] in names
    }
    check_tensors(expected, given)


def check_tensors(expected: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> None:
    """Refuse tensors that are not those of a whole adapter.

    Args:
        expected: Tensors of the model's adapter by name; several names of one tensor hold the same object.
        given: Tensors of the saved adapter, by the same names.

    Raises:
        ValueError: If tensors are missing, have no place, or have another shape or kind of numbers.
    """
    in_both = [key for key in expected if key in given]
    # A detector may have one tensor under several names, of which one is saved.
    loaded = {id(expected[key]) for key in in_both}
    complaints = {
        "have another shape": [
            f"{key} {tuple(given[key].shape)}, here {tuple(expected[key].shape)}"
            for key in in_both
            if given[key].shape != expected[key].shape
        ],
        "hold another kind of numbers": [
            f"{key} {given[key].dtype}, here {expected[key].dtype}"
            for key in in_both
            if given[key].is_floating_point() != expected[key].is_floating_point()
        ],
        "are missing": sorted(key for key, tensor in expected.items() if id(tensor) not in loaded),
        "have no place in this model": sorted(given.keys() - expected.keys()),
    }
    if any(complaints.values()):
        found = "; ".join(
            f"{len(keys)} {complaint}, such as {keys[0].removeprefix('model.')}"
            for complaint, keys in complaints.items()
            if keys
        )
        raise ValueError(
            f"The adapter does not fit this model, and nothing was loaded. Of its {len(given)} tensors: {found}. "
            "Load it onto the backbone it was trained on, with the configuration it was saved with."
        )
