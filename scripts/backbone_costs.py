"""Measure what each backbone costs beside LoRA, for the page of backbones: docs/backbones.json.

Models are built in the size that a row of the tests names, with tensors without data: shapes are exact, nothing is
downloaded and little is computed. So bytes that are kept for the backward pass, and multiplications of a step, are
those of the real model; the time of a step follows from the multiplications only roughly.

    python -m scripts.backbone_costs [NAME ...]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from mona_peft import MonaConfig
from mona_peft.host.block import AdaptedBlock
from mona_peft.integration.selection import known_blocks
from mona_peft.tasks.comparison.memory import kept_bytes
from mona_peft.tasks.models.methods import QUERY_AND_VALUE
from tests.backbones import BACKBONES, Backbone

COSTS = Path(__file__).parents[1] / "docs" / "backbones.json"
RANK = 64
"""Of LoRA, as wide as Mona's bottleneck."""

FUSED = "qkv"
"""Name of the layer that LoRA adapts where query and value are no layers of their own."""

UNKNOWN = (RuntimeError, AssertionError, NotImplementedError)
"""What tensors without data raise where a model asks for a value."""


def blocks_of(model: nn.Module) -> list[AdaptedBlock]:
    """Return the adapted blocks of a model."""
    return [module for module in model.modules() if isinstance(module, AdaptedBlock)]


def describe(row: Backbone) -> dict[str, Any]:
    """Return what the page says of the blocks and parameters of a row."""
    model = _adapted(row, _mona)
    blocks = blocks_of(model)
    trainable, total = model.get_nb_trainable_parameters()
    return {
        "model_type": model.base_model.model.config.model_type,
        "classes": list(dict.fromkeys(type(block).__name__ for block in blocks)),
        "blocks": len(blocks),
        "trainable": trainable,
        "share": trainable / total,
        "prefix_tokens": sorted(set(_prefix_tokens(model))),
    }


def beside_lora(row: Backbone) -> dict[str, float]:
    """Return what Mona keeps, and multiplies in a step, as shares of what LoRA does; nothing where it is not known."""
    try:
        ours, theirs = (_step(_adapted(row, adapt)) for adapt in (_mona, _lora))
    except (ValueError, *UNKNOWN):  # LoRA finds no such layer, or a value is asked for
        return {}
    return {"kept": ours[0] / theirs[0], "multiplications": ours[1] / theirs[1]}


def _mona(model: PreTrainedModel) -> PeftModel:
    return get_peft_model(model, MonaConfig(modules_to_save=[]))


def _lora(model: PreTrainedModel) -> PeftModel:
    inside = tuple(f"{name}." for name in known_blocks(model))
    layers = {
        name: name.rpartition(".")[2]
        for name, module in model.named_modules()
        if name.startswith(inside) and isinstance(module, nn.Linear)
    }
    kinds = QUERY_AND_VALUE if set(QUERY_AND_VALUE) & set(layers.values()) else (FUSED,)
    targets = [name for name, kind in layers.items() if kind in kinds]
    return get_peft_model(model, LoraConfig(r=RANK, target_modules=targets))


def _adapted(row: Backbone, adapt: Any) -> PeftModel:
    with torch.device("meta"):
        return adapt(row.standard[1]()).eval()


def _image(model: PeftModel) -> torch.Tensor:
    size = getattr(model.base_model.model.config, "image_size", 224)
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return torch.empty(1, 3, height, width)


def _prefix_tokens(model: PeftModel) -> list[int]:
    """Run an image through an adapted model, which is of no use then; return each block's number of prefix tokens."""
    counts = []

    def count(tokens: torch.Tensor, grid: tuple[int, int], **kwargs: Any) -> torch.Tensor:
        counts.append(tokens.shape[1] - grid[0] * grid[1])
        return torch.zeros_like(tokens)

    for block in blocks_of(model):
        # In place of what Mona computes, which would take most of the time.
        block.mona.mona_mlp["default"].forward = count
        for adapter in block.mona.mona_attn.values():
            adapter.forward = lambda tokens, grid, **kwargs: torch.zeros_like(tokens)
    with torch.no_grad(), torch.device("meta"):
        model(_image(model))
    return counts


def _step(model: PeftModel) -> tuple[int, int]:
    """Return bytes that the forward pass keeps, and multiplications of forward and backward pass, for one image."""
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            image = _image(model.to_empty(device="cpu").train())
            kept = kept_bytes(model, image)
            with FlopCounterMode(display=False) as counter:
                sum(output.float().sum() for output in _tensors(model(image)) if output.requires_grad).backward()
        return kept, counter.get_total_flops()
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwrite)


def _tensors(outputs: Any) -> list[torch.Tensor]:
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    parts = outputs.values() if isinstance(outputs, dict) else outputs if isinstance(outputs, (list, tuple)) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def main(names: Sequence[str]) -> None:
    """Measure the rows that are named, or all, and write the file."""
    known = json.loads(COSTS.read_text()) if names and COSTS.exists() else {}
    for name in names or BACKBONES:
        known[name] = beside_lora(BACKBONES[name])
        print(name, known[name], flush=True)
    costs = {name: known[name] for name in BACKBONES if name in known}
    COSTS.write_text(json.dumps(costs, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
