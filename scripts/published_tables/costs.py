"""What a table takes: operations, counted as `scripts.paper_settings` counts them, and hours of a GPU."""

from __future__ import annotations

from functools import cache

import yaml
from torch import nn
from transformers import Dinov2Config, Dinov2ForImageClassification, ViTConfig, ViTForImageClassification

from mona_peft.tasks.comparison.experiments import NUM_FIRST_RATES
from mona_peft.tasks.training.presets import find_preset
from scripts.paper_settings import PAPER, TFLOPS_SUSTAINED, Setting, cost_of, swin_backbone
from scripts.parameter_table import STAGES
from scripts.published_tables.tables import Part, Table

CLASSIFIED = (224, 224)


def _vit() -> nn.Module:
    return ViTForImageClassification(ViTConfig(attn_implementation="eager"))


def _dinov2() -> nn.Module:
    return Dinov2ForImageClassification(Dinov2Config(attn_implementation="eager"))


def _swin() -> nn.Module:
    return swin_backbone("Swin-L", STAGES)


MODELS = {"google/vit-base-patch16-224-in21k": _vit, "facebook/dinov2-base": _dinov2}
"""What builds a model to classify, by its name on the hub, in the size that transformers' configs have."""

COUNTED = {True: "full", False: "mona"}
"""The method whose operations stand for a row's, by whether that is full fine-tuning."""

DENSE = {setting.preset: setting for setting in PAPER}


def _setting(part: Part) -> Setting:
    build = MODELS.get(part.model, _swin)
    return DENSE.get(part.preset) or Setting(part.name, part.model, part.preset, build, CLASSIFIED)


@cache
def _operations(setting: Setting, method: str) -> int:
    return cost_of(setting, method).operations


def hours(part: Part) -> float:
    """Returns the hours of one GPU that a dataset takes with all rows, the fewest rates that decide, and all seeds.

    A training image is counted forward and backward; an image that is evaluated, a third of full fine-tuning's.
    """
    preset = yaml.safe_load(find_preset(part.preset).read_text(encoding="utf-8"))
    epochs = preset.get("num_train_epochs", 1)
    batch = preset["per_device_train_batch_size"]
    trained = preset["max_steps"] * batch if "max_steps" in preset else epochs * part.images[0]
    # Of the training images, about a tenth is held out and evaluated after every epoch.
    evaluated = 0.1 * part.images[0] * epochs + part.images[1]
    setting = _setting(part)
    forward = _operations(setting, "full") / 3
    runs = min(NUM_FIRST_RATES, len(part.rates)) + len(part.seeds) - 1
    total = sum(trained * _operations(setting, COUNTED[row == "full"]) + evaluated * forward for row in part.rows)
    return runs * total / (TFLOPS_SUSTAINED * 1e12) / 3600


def table_hours(table: Table) -> float:
    """Returns the hours of all datasets of a table."""
    return sum(hours(part) for part in table.parts.values())
