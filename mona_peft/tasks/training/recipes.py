"""Recipes: what a training starts from for a task and a method, stored as data, and the settings of this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from mona_peft.tasks.task import Task

RECIPES = Path(__file__).parent / "recipes"
MAX_WORKERS = 8
AMPERE = 8
"""From this compute capability on, GPUs of NVIDIA know bfloat16 and TF32."""


@dataclass(frozen=True)
class Recipe:
    """Defaults of the arguments for a task and a method.

    Attributes:
        name: `TASK/METHOD`.
        settings: Values by the names of arguments.
        source: Where the learning rate comes from.
    """

    name: str
    settings: dict[str, Any]
    source: str


def find_recipe(task: Task, method: str) -> Recipe:
    """Returns the recipe for a task and a method.

    A variant of a method without a learning rate of its own, such as `mona-v1`, takes the method's.
    """
    content = yaml.safe_load((RECIPES / f"{task.command}.yaml").read_text(encoding="utf-8"))
    rates = content["learning_rates"]
    name = next(name for name in (method, method.partition("-")[0], "default") if name in rates)
    rate, source = rates[name]
    return Recipe(f"{task.command}/{method}", {**content["settings"], "learning_rate": rate}, source)


def machine_settings(on_cpu: bool) -> dict[str, Any]:
    """Returns what suits this machine: precision and number of workers that load images.

    Args:
        on_cpu: Whether the training runs on the processor. It then takes all its cores, and workers would slow it.
    """
    settings: dict[str, Any] = {"use_cpu": on_cpu}
    if on_cpu:
        return settings
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    settings["dataloader_num_workers"] = min(MAX_WORKERS, num_cores() // processes)
    if torch.cuda.is_available() and torch.cuda.get_device_capability()[0] >= AMPERE:
        settings |= {"bf16": True, "tf32": True}
    return settings


def num_cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
