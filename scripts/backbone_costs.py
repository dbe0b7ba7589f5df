"""Measure what is adapted in each backbone and what that costs beside LoRA: docs/backbones.json, for the page of them.

Models are built in the size that a row of the tests names, with tensors without data: shapes are exact, nothing is
downloaded and little is computed. So bytes that are kept for the backward pass, and multiplications of a step, are
those of the real model; the time of a step follows from the multiplications only roughly.

    python -m scripts.backbone_costs [NAME ...]

About five minutes of processor time for all rows and composed models. A name is that of a row in `tests/backbones`,
or of a model in `tests/composed.py`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from torch._subclasses import FakeTensorMode
from transformers import PreTrainedModel

from mona_peft import MonaConfig
from mona_peft.blocks import Grid, ReorderedGrid
from mona_peft.host.block import AdaptedBlock
from mona_peft.integration.selection import known_blocks
from mona_peft.tasks.comparison.memory import kept_bytes
from mona_peft.tasks.models.methods import QUERY_AND_VALUE
from scripts.benchmark.measure import multiplications
from tests.backbones import BACKBONES, Backbone
from tests.composed import COMPOSED
from tests.composed import build as build_composed

COSTS = Path(__file__).parents[1] / "docs" / "backbones.json"
FAMILIES, MODELS = "families", "composed"
"""The two parts of the file: by name of a row, and by name of a composed model."""

RANK = 64
"""Of LoRA, as wide as Mona's bottleneck."""

FUSED = ("qkv",)
"""Name of the layer that LoRA adapts where query and value are no layers of their own."""


def blocks_of(model: nn.Module) -> list[AdaptedBlock]:
    """Return the adapted blocks of a model."""
    return [module for module in model.modules() if isinstance(module, AdaptedBlock)]


def describe(row: Backbone) -> dict[str, Any]:
    """Return what the page says of the blocks and parameters of a row."""
    model = adapted(row, "Mona")
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


def describe_composed(name: str) -> dict[str, Any]:
    """Return what the page says of a composed model."""
    with torch.device("meta"):
        model = build_composed(name)
        blocks = blocks_of(get_peft_model(model, MonaConfig(modules_to_save=[])))
    return {"model": type(model).__name__, "classes": list(dict.fromkeys(type(block).__name__ for block in blocks))}


def beside_lora(row: Backbone) -> dict[str, float]:
    """Return what Mona keeps, and multiplies in a step, as shares of what LoRA does, and how much LoRA multiplies."""
    ours, theirs = (step_costs(adapted(row, method)) for method in ("Mona", "LoRA"))
    return {
        "kept": round(ours[0] / theirs[0], 4),
        "multiplications": round(ours[1] / theirs[1], 4),
        "multiplications_of_lora": theirs[1],
    }


def measure(name: str) -> dict[str, Any]:
    """Return all that is known of a row."""
    return {**describe(BACKBONES[name]), **beside_lora(BACKBONES[name])}


def _mona(model: PreTrainedModel) -> PeftModel:
    return get_peft_model(model, MonaConfig(modules_to_save=[]))


def _lora(model: PreTrainedModel) -> PeftModel:
    inside = tuple(f"{name}." for name in known_blocks(model))
    layers = {
        name: name.rpartition(".")[2]
        for name, module in model.named_modules()
        if name.startswith(inside) and (isinstance(module, nn.Linear) or getattr(module, "groups", None) == 1)
    }
    # Where there is no attention: all linear layers, and all convolutions but the depthwise and grouped ones.
    kinds = next((kinds for kinds in (QUERY_AND_VALUE, FUSED) if {*kinds} & {*layers.values()}), layers.values())
    targets = [name for name, kind in layers.items() if kind in kinds]
    return get_peft_model(model, LoraConfig(r=RANK, target_modules=targets))


ADAPTED: dict[str, Callable[[PreTrainedModel], PeftModel]] = {"LoRA": _lora, "Mona": _mona}
"""What adapts a model, by the method's name."""


def adapted(row: Backbone, method: str, device: str = "meta") -> PeftModel:
    """Return the model of a row in its standard size, adapted by a method of `ADAPTED`, in evaluation mode."""
    with torch.device(device):
        return ADAPTED[method](row.standard[1]().to(device)).eval()


def train_blocks(model: PeftModel) -> PeftModel:
    """Put the blocks of a model into training mode.

    Not the whole: while it trains, EoMT looks at the masks that it finds, which have no values where tensors have none.
    """
    for name in known_blocks(model):
        model.get_submodule(name).train()
    return model


def image_for(model: PeftModel) -> torch.Tensor:
    """Return one image, without values, of the size that a model is made for."""
    size = getattr(model.base_model.model.config, "image_size", 224)
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return torch.empty(1, 3, height, width)


def _prefix_tokens(model: PeftModel) -> list[int]:
    """Run an image through an adapted model, which is of no use then; return each block's number of prefix tokens."""
    counts = []

    def count(tokens: torch.Tensor, grid: Grid | ReorderedGrid, **kwargs: Any) -> torch.Tensor:
        whole, grid = (grid.row_by_row(tokens), grid.grid) if isinstance(grid, ReorderedGrid) else (tokens, grid)
        counts.append(whole.shape[1] - grid[0] * grid[1])
        return torch.zeros_like(tokens)

    for block in blocks_of(model):
        # In place of what Mona computes, which would take most of the time.
        block.mona.mona_mlp["default"].forward = count
        for adapter in block.mona.mona_attn.values():
            adapter.forward = lambda tokens, grid, **kwargs: torch.zeros_like(tokens)
    with torch.no_grad(), torch.device("meta"):
        model(image_for(model))
    return counts


def step_costs(model: PeftModel) -> tuple[int, int]:
    """Return bytes that the forward pass keeps, and multiplications of forward and backward pass, for one image."""
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            image = image_for(train_blocks(model.to_empty(device="cpu").eval()))
            kept = kept_bytes(model, image)
            return kept, multiplications(partial(step, model, image))
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwrite)


def step(model: nn.Module, image: torch.Tensor) -> None:
    """Forward and backward pass of a training step; gradients are dropped, nothing is updated."""
    # Not the sum of the outputs: behind a LayerNorm that has no gradient but rounding errors, of which products are
    # numbers so small that a processor takes ten times as long for each.
    sum(output.float().sin().sum() for output in _tensors(model(image)) if output.requires_grad).backward()
    model.zero_grad(set_to_none=True)


def _tensors(outputs: Any) -> list[torch.Tensor]:
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    parts = outputs.values() if isinstance(outputs, dict) else outputs if isinstance(outputs, (list, tuple)) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def main(names: Sequence[str]) -> None:
    """Measure the rows and composed models that are named, or all, and write the file."""
    known = json.loads(COSTS.read_text()) if names and COSTS.exists() else {FAMILIES: {}, MODELS: {}}
    for name in names or [*BACKBONES, *COMPOSED]:
        if name in BACKBONES:
            known[FAMILIES][name] = measure(name)
        if name in COMPOSED:
            known[MODELS][name] = describe_composed(name)
        print(name, flush=True)
        costs = {
            part: {name: known[part][name] for name in rows if name in known[part]}
            for part, rows in ((FAMILIES, BACKBONES), (MODELS, COMPOSED))
        }
        COSTS.write_text(json.dumps(costs, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
