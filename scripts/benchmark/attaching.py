"""Times `get_peft_model` and `PeftModel.from_pretrained`, of the methods that PEFT attaches."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from scripts.benchmark.measure import Clock, interleaved, ratios
from scripts.benchmark.models import METHODS, copy_of

ATTACHED = ("LoRA", "Mona")


def time_attaching(base: PreTrainedModel, rounds: int, warmup: int, reference: str) -> dict[str, dict[str, Any]]:
    """Time both on copies of a model, which are made outside of the clock.

    Returns:
        For each of `ATTACHED`, by `"attach"` and `"load"`, what `ratios` returns.
    """
    clock = Clock(torch.device("cpu"))
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        folders = {name: Path(place, name) for name in ATTACHED}
        for name, folder in folders.items():
            METHODS[name](copy_of(base)).save_pretrained(folder)

        def times(ways: dict[str, Callable[[nn.Module], object]]) -> dict[str, dict[str, Any]]:
            models = {name: [copy_of(base) for _ in range(warmup + rounds)] for name in ways}
            work = {name: lambda name=name: ways[name](models[name].pop()) for name in ways}
            return ratios(interleaved(work, clock, rounds, warmup), reference)

        attach = times({name: METHODS[name] for name in ATTACHED})
        load = times({name: _loads(folder) for name, folder in folders.items()})
    return {name: {"attach": attach[name], "load": load[name]} for name in ATTACHED}


def _loads(folder: Path) -> Callable[[nn.Module], object]:
    return lambda model: PeftModel.from_pretrained(model, folder)
