"""What a run was: settings, versions, sizes and results, as JSON."""

import json
import platform
import subprocess
import sys
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from mona_peft.integration.selection import in_backbone
from mona_peft.tasks.training.run_directory import replace_file
from mona_peft.version import __version__

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "datasets", "evaluate")


def software() -> dict[str, str | None]:
    """Returns the versions of Python, of the libraries and of this project, and its commit where git knows it."""
    git = partial(subprocess.run, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    try:
        git(["git", "ls-files", "--error-unmatch", Path(__file__).name])  # an installed package may lie in another's
        commit = git(["git", "describe", "--always", "--dirty", "--abbrev=40"]).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = None
    versions = {name: version(name) for name in LIBRARIES}
    return {"python": platform.python_version(), **versions, "mona_peft": __version__, "commit": commit}


def hardware(device: torch.device, num_processes: int = 1) -> dict[str, str | int]:
    """Returns the name of the device of a run, and on how many of them, or threads of a processor, it ran."""
    if device.type == "cuda":
        return {"device": torch.cuda.get_device_name(device), "num_devices": num_processes}
    return {"device": _processor(), "num_threads": torch.get_num_threads()}


def peak_memory(device: torch.device) -> int | None:
    """Returns the most bytes that this process has had: on its GPU, or of the machine's memory; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource  # not there on Windows
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _processor() -> str:
    """Returns the name of the processor, as far as the system tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def parameter_counts(model: PeftModel | PreTrainedModel) -> dict[str, int | float]:
    """Counts parameters.

    Returns:
        `base`, the model before the method; `trainable`, what the method trains; `adapter`, that without what stands
        outside the backbone (the head); `trainable_share`, trainable / base.
    """
    trained = {name: parameter.numel() for name, parameter in model.named_parameters() if parameter.requires_grad}
    trainable, inside = sum(trained.values()), in_backbone(model)
    base = sum(parameter.numel() for parameter in model.parameters())
    if isinstance(model, PeftModel):
        base -= trainable  # PEFT trains additions and copies, and keeps what the base has itself, frozen
    return {
        "base": base,
        "trainable": trainable,
        "adapter": sum(size for name, size in trained.items() if inside(name)),
        "trainable_share": trainable / base,
    }


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Writes a record, whole or not at all."""
    with replace_file(path) as new:
        new.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
