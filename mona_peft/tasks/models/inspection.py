"""What a method would train in a model, told from the model's config alone: no weights are read, nothing runs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import transformers
from transformers import AutoConfig, AutoModel, PreTrainedModel

from mona_peft.blocks.lookup import width_of
from mona_peft.integration.selection import in_backbone, known_blocks
from mona_peft.tasks.models.arguments import MethodArguments
from mona_peft.tasks.models.methods import METHODS

SITES = {"attn": "attention", "mlp": "mlp"}
"""Halves of a block, by the ends of the names of adapters that stand there."""


@dataclass(frozen=True)
class BlockCost:
    """What is trained in a block.

    Attributes:
        name: Of the block in the model.
        kind: Its class.
        channels: Its width.
        places: Where something is trained: sites of adapters, or layers by their names in the block.
        parameters: How many are trained.
    """

    name: str
    kind: str
    channels: int
    places: tuple[str, ...]
    parameters: int


@dataclass(frozen=True)
class Inspection:
    """What a method would train in a model.

    Attributes:
        model_class: Name of the model's class.
        base_parameters: How many the model has before the method.
        blocks: Of the backbone, in order, those without anything trained included.
        elsewhere: Parameters trained in the backbone outside of its blocks.
        head: Parameters trained outside of the backbone, by the names of modules.
    """

    model_class: str
    base_parameters: int
    blocks: list[BlockCost]
    elsewhere: int
    head: dict[str, int]

    @property
    def trained(self) -> int:
        """How many parameters would be trained in all."""
        return sum(block.parameters for block in self.blocks) + self.elsewhere + sum(self.head.values())


def empty_model(name: str) -> PreTrainedModel:
    """Returns a model without weights, as its config describes it.

    Args:
        name: On the hub, or folder.

    Raises:
        ValueError: There is no such config, or transformers knows no such model.
    """
    try:
        config = AutoConfig.from_pretrained(name)
    except OSError as error:
        raise ValueError(
            f"{name}: neither a folder with a model nor one that the hub returns. Check the name, and the connection "
            f"if it is on the hub. ({error})"
        ) from error
    (architecture, *_) = config.architectures or [None]
    model_class = getattr(transformers, architecture or "", None)
    with torch.device("meta"):
        return (AutoModel.from_config(config) if model_class is None else model_class(config)).eval()


def inspect_method(model: PreTrainedModel, args: MethodArguments) -> Inspection:
    """Adapts a model and returns what would be trained.

    Args:
        model: As `empty_model` returns it; it is adapted in place.
        args: The method and its settings.

    Raises:
        ValueError: The method can't be put into this model; says why.
    """
    base_parameters = sum(parameter.numel() for parameter in model.parameters())
    blocks = {name: model.get_submodule(name) for name in known_blocks(model)}
    kinds = {name: type(block).__name__ for name, block in blocks.items()}
    widths = {name: width_of(block) for name, block in blocks.items()}
    with torch.device("meta"):
        adapted = METHODS[args.method](model, args)
    inside = in_backbone(adapted)
    outer = "base_model.model." if adapted is not model else ""
    costs: dict[str, dict[str, int]] = {name: {} for name in blocks}
    head: dict[str, int] = {}
    elsewhere = 0
    for path, parameter in adapted.named_parameters():
        if not parameter.requires_grad:
            continue
        name = path.removeprefix(outer)
        block = next((block for block in blocks if name.startswith(f"{block}.")), None)
        if block is not None:
            place = _place(name.removeprefix(f"{block}."))
            costs[block][place] = costs[block].get(place, 0) + parameter.numel()
        elif inside(path):
            elsewhere += parameter.numel()
        else:
            module = _place(name)
            head[module] = head.get(module, 0) + parameter.numel()
    rows = [
        BlockCost(name, kinds[name], widths[name], tuple(places), sum(places.values()))
        for name, places in costs.items()
    ]
    return Inspection(type(model).__name__, base_parameters, rows, elsewhere, head)


def _place(path: str) -> str:
    """Returns the layer that a trained tensor belongs to, or the site of its adapter."""
    parts = path.split(".")
    for mark in ("modules_to_save", "parametrizations", "ln_tuning_layers"):
        if mark in parts:
            return ".".join(parts[: parts.index(mark)]) or "all of it"
    if "default" in parts:
        parts = parts[: parts.index("default")]
        site = SITES.get(parts[-1].rpartition("_")[2])
        return site or ".".join(parts[:-1])  # without lora_A and the like
    return ".".join(parts[:-1])
