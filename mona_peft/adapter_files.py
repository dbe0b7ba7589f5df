"""Saved adapters: whether a file is whole, and whether its tensors fit the model, before anything is loaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open
from torch import nn


def check_weight_file(folder: str | Path, subfolder: str | None = None) -> None:
    """Check the weights of an adapter in a local folder; does nothing for a name on the hub.

    Raises:
        ValueError: If the folder holds no safetensors file of adapter weights, or a damaged one.
    """
    folder = Path(folder, subfolder or "")
    if not folder.is_dir():
        return
    path = folder / SAFETENSORS_WEIGHTS_NAME
    if not path.is_file():
        raise ValueError(
            f"{folder} holds an adapter's configuration but not its weights: {SAFETENSORS_WEIGHTS_NAME} is missing. It "
            f"has {sorted(file.name for file in folder.iterdir())}. Weights are read from safetensors files only."
        )
    try:
        with safe_open(path, framework="pt"):
            pass
    except SafetensorError as error:
        raise ValueError(
            f"{path} cannot be read ({error}). It is {path.stat().st_size} bytes long and probably truncated or "
            "damaged: copy or download it again."
        ) from error


def check_adapter_state(
    tuner: nn.Module, state_dict: dict[str, torch.Tensor], prefix: str, *load_arguments: Any
) -> None:
    """Hook that runs before a tuner loads a state dict: refuses adapter weights that do not fit, all or nothing.

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
