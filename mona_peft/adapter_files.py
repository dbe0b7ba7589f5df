"""Saved adapters: whether a file is whole, and whether its tensors fit the model, before anything is loaded."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from peft import PeftConfig
from peft.utils import SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME
from safetensors import SafetensorError, safe_open
from torch import nn


def check_weight_file(folder: str | Path, subfolder: str | None, config: PeftConfig) -> None:
    """Check the weights that belong to a configuration loaded from a local folder; does nothing for a hub name.

    Raises:
        ValueError: If they are missing though an adapter was saved there, pickled, or damaged.
    """
    path = Path(folder, subfolder or "", SAFETENSORS_WEIGHTS_NAME)
    if not path.parent.is_dir():
        return
    if not path.is_file():
        if path.with_name(WEIGHTS_NAME).is_file():
            raise ValueError(
                f"{path.parent} holds pickled weights, {WEIGHTS_NAME}, and they are not read: unpickling a file of "
                f"others can run their code. Ask for {SAFETENSORS_WEIGHTS_NAME}."
            )
        # PEFT saves the configuration of an adapter for inference; one saved by itself has no weights to miss.
        if config.inference_mode:
            raise ValueError(
                f"{path} is missing: {path.parent} holds an adapter's configuration without its weights, only "
                f"{sorted(file.name for file in path.parent.iterdir())}."
            )
        return
    try:
        with safe_open(path, framework="pt"):
            pass
    except SafetensorError as error:
        raise ValueError(
            f"{path} cannot be read ({error}). It is {path.stat().st_size} bytes long and probably truncated or "
            "damaged: copy or download it again."
        ) from error


def check_adapter_state(tuner: nn.Module, state_dict: dict[str, torch.Tensor], prefix: str) -> None:
    """Refuse adapter weights that do not fit the adapters of a tuner, before any is loaded.

    PEFT loads adapters with `strict=False`, so that of an adapter for another backbone it would load what happens to
    fit and leave the rest untrained.

    Raises:
        ValueError: If adapter weights are missing, have no place, or have another shape.
    """
    layer_name, parameter_prefix = tuner.block_mixin.adapter_layer_name, re.escape(tuner.prefix)
    pattern = re.compile(rf"(?:^|.*\.){layer_name}\.{parameter_prefix}[^.]+\.(?:(?P<adapter>[^.]+)\.)?[^.]+$")
    given = {
        key.removeprefix(prefix): (tuple(tensor.shape), match["adapter"])
        for key, tensor in state_dict.items()
        if (match := pattern.match(key))
    }
    adapter_names = {adapter for _, adapter in given.values()}
    expected = {
        name: tuple(parameter.shape)
        for name, parameter in tuner.named_parameters()
        if (match := pattern.match(name)) and match["adapter"] in adapter_names
    }
    if not given:
        return
    complaints = {
        "have another shape": [
            f"{key} {given[key][0]}, here {shape}"
            for key, shape in expected.items()
            if key in given and given[key][0] != shape
        ],
        "are missing": sorted(expected.keys() - given.keys()),
        "have no place in this model": sorted(given.keys() - expected.keys()),
    }
    if any(complaints.values()):
        found = "; ".join(
            f"{len(names)} {complaint}, such as {names[0].removeprefix('model.')}"
            for complaint, names in complaints.items()
            if names
        )
        raise ValueError(
            f"The adapter does not fit this model, and nothing was loaded. Of its {len(given)} tensors: {found}. "
            "Load it onto the backbone it was trained on, with the configuration it was saved with."
        )
