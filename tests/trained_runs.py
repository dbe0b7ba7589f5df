"""Output directories as `mona-peft train` leaves them, of tiny models with random weights: there without a training."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from torch import nn
from transformers import (
    BaseImageProcessor,
    Mask2FormerImageProcessorPil,
    RTDetrImageProcessorPil,
    ViTImageProcessorPil,
)
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from mona_peft import MonaConfig
from tests import models
from tests.test_tuner import detector

LABELS = ["blue", "green", "red"]
SQUARE = {"size": {"height": 64, "width": 64}}


@dataclass(frozen=True)
class Kind:
    """A model of a task.

    Attributes:
        build: Makes it, with as many classes as `labels`.
        image_processor: Of the model.
        labels: Names of the classes.
        data: Arguments about data of its training.
    """

    build: Callable[[], nn.Module]
    image_processor: Callable[[], BaseImageProcessor]
    labels: list[str] = field(default_factory=lambda: list(LABELS))
    data: dict[str, Any] = field(default_factory=dict)


def classifier() -> nn.Module:
    config = models.SwinConfig(**models.TWO_STAGES | {"num_labels": len(LABELS)})
    return models.SwinForImageClassification(config)


KINDS = {
    "image-classification": Kind(classifier, lambda: ViTImageProcessorPil(**SQUARE)),
    "semantic-segmentation": Kind(
        models.upernet,
        lambda: SegformerImageProcessorPil(**SQUARE),
        ["background", "green", "red"],
        {"image_size": 64, "eval_mode": "whole", "crop_size": 64},
    ),
    "object-detection": Kind(detector, lambda: RTDetrImageProcessorPil(**SQUARE)),
    "instance-segmentation": Kind(models.mask2former, lambda: Mask2FormerImageProcessorPil(**SQUARE)),
}
"""By the names of the tasks on the command line."""


def randomize(model: nn.Module) -> None:
    """Makes what is trained as large as keeps numbers alike from layer to layer; new detectors see no differences."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dim() > 1:  # not the norms
            parameter.data += torch.randn(parameter.shape, generator=generator) * parameter[0].numel() ** -0.5
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.train().momentum = None  # statistics are those of the images below
        norm.reset_running_stats()
    with torch.no_grad():
        model(pixel_values=torch.randn(4, 3, 64, 64, generator=generator))
    for norm in norms:
        norm.eval().momentum = 0.1


def write_run(folder: Path, task: str, kind: Kind | None = None, **config: Any) -> Path:
    """Writes a pre-trained model to FOLDER/base and what was trained to FOLDER/run, which is returned.

    Args:
        folder: To write to.
        task: Name of the task on the command line.
        kind: The model; without it the one of `KINDS`.
        config: Settings of the model's config that are changed.
    """
    kind, base, run = kind or KINDS[task], folder / "base", folder / "run"
    torch.manual_seed(0)
    model = kind.build().eval()
    names = dict(enumerate(kind.labels))
    model.config.update({"id2label": names, "label2id": {name: number for number, name in names.items()}, **config})
    image_processor = kind.image_processor()
    randomize(model)
    model.save_pretrained(base)
    image_processor.save_pretrained(base)
    model = get_peft_model(model, MonaConfig(bottleneck_dim=4, modules_to_save="task-head"))
    randomize(model)
    model.save_pretrained(run / "adapter")
    image_processor.save_pretrained(run / "adapter")
    record = {
        "task": task.replace("-", " "),
        "classes": kind.labels,
        "method": {"method": "mona"},
        "base_model": str(base),
        "model": {"model_name_or_path": str(base)},
        "data": {"dataset": None, **kind.data},
        "results": {},
    }
    (run / "adapter" / "run.json").write_text(json.dumps(record))
    return run
