"""Adapters saved where the same blocks had other names: another version of transformers, or another model around them.

Where modules were renamed (`vit.encoder.layer.0` became `vit.layers.0`), blocks are still the same ones in the same
order, and so is their number. PEFT converts names for LoRA alone.
"""

from __future__ import annotations

import re
import warnings

import torch
from torch import nn


def rename_blocks(
    tuner: nn.Module, state_dict: dict[str, torch.Tensor], prefix: str, adapter_name: str, is_named: bool = True
) -> None:
    """Give the weights of an adapter, in place, the names of the adapted blocks, if none of its blocks is there.

    Does nothing if their numbers differ: the adapter is then one for another backbone.

    Args:
        tuner: Tuner that holds the adapter.
        state_dict: Weights that are about to be loaded.
        prefix: What stands before the model's own names in the keys of `state_dict`.
        adapter_name: Name of the adapter.
        is_named: Whether the new keys hold that name, as the model's do, or not, as those of a file.
    """
    layer = re.escape(f"{tuner.block_mixin.adapter_layer_name}.{tuner.prefix}")
    pattern = re.compile(
        rf"(?P<block>.*)\.(?P<site>{layer}[^.]+)(?:\.{re.escape(adapter_name)})?\.(?P<parameter>[^.]+)"
    )
    matches = {key: match for key in state_dict if (match := pattern.fullmatch(key))}
    saved = sorted({match["block"] for match in matches.values()}, key=_natural_order)
    here = [
        f"{prefix}{name}"
        for name, block in tuner.model.named_modules()
        if isinstance(block, tuner.block_mixin) and _has_adapter(block, adapter_name)
    ]
    if set(saved) & set(here) or len(saved) != len(here):
        return
    names = dict(zip(saved, here, strict=True))
    for key, match in matches.items():
        path = [names[match["block"]], match["site"], *([adapter_name] if is_named else []), match["parameter"]]
        state_dict[".".join(path)] = state_dict.pop(key)
    warnings.warn(
        f"The adapter was saved for blocks of other names, such as {saved[0].removeprefix(prefix)}; its "
        f"{len(saved)} blocks were taken in their order for {here[0].removeprefix(prefix)} and so on.",
        stacklevel=2,
    )


def _has_adapter(block: nn.Module, adapter_name: str) -> bool:
    layer = getattr(block, block.adapter_layer_name)
    return any(adapter_name in getattr(layer, site) for site in layer.adapter_layer_names)


def _natural_order(name: str) -> list[str | int]:
    """Sort `layers.10` behind `layers.9`."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
