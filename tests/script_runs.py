"""Training scripts run as a user runs them, interrupted, and compared by what they have saved."""

import itertools
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import Trainer

ROOT = Path(__file__).parents[1]
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m")
"""Of Python: a module on two processes."""

ACCELERATE = ("-m", "accelerate.commands.launch", "--cpu", "-m")
"""Of Python: a module by `accelerate launch`."""


def saved_folder(method: str) -> str:
    """Name of the folder, in the output directory, of what a method has trained."""
    return "model" if method == "full" else "adapter"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


def equal_weights(actual: Path, expected: Path) -> bool:
    actual, expected = weights(actual), weights(expected)
    assert actual.keys() == expected.keys()
    return all(torch.equal(actual[name], expected[name]) for name in expected)


def run_python(*args: str) -> str:
    result = run_command(*args)
    assert result.returncode == 0, result.stderr
    return result.stdout


def run_command(*args: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *args], cwd=ROOT, capture_output=True, text=True)


def interrupt(monkeypatch, steps: int) -> None:
    """Makes Trainer stop as on Ctrl-C when `steps` steps are done."""
    original, counter = Trainer.training_step, itertools.count()

    def training_step(self, *args, **kwargs):
        if next(counter) == steps:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "training_step", training_step)
