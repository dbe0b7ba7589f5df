"""Training scripts run as a user runs them, interrupted, and compared by what they have saved."""

import itertools
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

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


@cache
def installed() -> Path:
    """A folder with what the project's wheel installs, in which Python finds nothing of this clone."""
    folder = Path(mkdtemp(prefix="mona-peft-wheel-"))
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    options = ["--no-deps", "--no-index", "--disable-pip-version-check", "--target", str(folder / "site")]
    install = [sys.executable, "-m", "pip", "install", *options, *map(str, folder.glob("*.whl"))]
    subprocess.run(install, check=True, capture_output=True)
    return folder / "site"


def run_installed(*args: str) -> subprocess.CompletedProcess:
    """Runs the command `mona-peft` as a user does who has installed the wheel, in a folder that is no clone."""
    site = installed()
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [str(site / "bin" / "mona-peft"), *args]
    result = subprocess.run(command, cwd=site.parent, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result


def interrupt(monkeypatch, steps: int) -> None:
    """Makes Trainer stop as on Ctrl-C when `steps` steps are done."""
    original, counter = Trainer.training_step, itertools.count()

    def training_step(self, *args, **kwargs):
        if next(counter) == steps:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "training_step", training_step)
