"""The recorded tensors of the authors' code, and their names for Mona's parameters."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors.torch import load_file

FOLDER = Path(__file__).parent / "parity"

PARAMETERS = {
    "norm.weight": "norm_weight",
    "norm.bias": "norm_bias",
    "gamma": "gamma",
    "gammax": "gammax",
    "project1.weight": "down_weight",
    "project1.bias": "down_bias",
    "adapter_conv.conv1.weight": "dw3_weight",
    "adapter_conv.conv1.bias": "dw3_bias",
    "adapter_conv.conv2.weight": "dw5_weight",
    "adapter_conv.conv2.bias": "dw5_bias",
    "adapter_conv.conv3.weight": "dw7_weight",
    "adapter_conv.conv3.bias": "dw7_bias",
    "adapter_conv.projector.weight": "pw_weight",
    "adapter_conv.projector.bias": "pw_bias",
    "project2.weight": "up_weight",
    "project2.bias": "up_bias",
}
"""Our name of each parameter by the authors'."""

SITES = {"my_module_1": "mona_attn", "my_module_2": "mona_mlp"}


def recorded(name: str) -> dict[str, torch.Tensor]:
    return load_file(FOLDER / f"{name}.safetensors")


def our_name(official: str) -> str | None:
    """Translate `layers.0.blocks.1.my_module_2.gamma`; None for a key that is not of a Mona."""
    match = re.fullmatch(r"(layers\.\d+\.blocks\.\d+)\.(my_module_[12])\.(.+)", official)
    if match is None:
        return None
    block, site, parameter = match.groups()
    return f"base_model.model.swin.encoder.{block}.mona.{SITES[site]}.default.{PARAMETERS[parameter]}"
