"""The recorded tensors of the authors' code."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors.torch import load_file

from mona_peft.interop.official_names import MONA_PARAMETERS, MONA_SITES

FOLDER = Path(__file__).parent / "parity"


def recorded(name: str) -> dict[str, torch.Tensor]:
    return load_file(FOLDER / f"{name}.safetensors")


def our_name(official: str) -> str | None:
    """Translate `layers.0.blocks.1.my_module_2.gamma`; None for a key that is not of a Mona."""
    match = re.fullmatch(r"(layers\.\d+\.blocks\.\d+)\.(my_module_[12])\.(.+)", official)
    if match is None:
        return None
    block, site, parameter = match.groups()
    return f"base_model.model.swin.encoder.{block}.mona.{MONA_SITES[site]}.default.{MONA_PARAMETERS[parameter]}"
