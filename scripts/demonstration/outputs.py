"""The output directory of a demonstration, and the check at its end."""

import shutil
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from safetensors.numpy import load_file

OUTPUTS = {"fixed", "mona", "full", "demo.json", "demo.md", "demo.png", "cells.png"}
"""What demonstrations write."""

MIN_SAME = 0.99
"""Share of predictions that are the same after reloading; on a CPU all are, and a GPU may round a tie otherwise."""


def clear(output_dir: Path, written: Collection[str] = OUTPUTS) -> None:
    """Removes what an earlier demonstration left.

    Raises:
        ValueError: The directory holds something else.
    """
    foreign = sorted({path.name for path in output_dir.glob("*")} - set(written))
    if foreign:
        raise ValueError(
            f"--output_dir {output_dir} holds {', '.join(foreign[:5])}, which no demonstration wrote, so nothing was "
            "removed. Choose another directory."
        )
    shutil.rmtree(output_dir, ignore_errors=True)


def check_reloaded(module: str, arguments: list[str], predicted: np.ndarray) -> None:
    """Runs a module in a fresh process, and compares the predictions that it comes to.

    Args:
        module: Takes `arguments` and a file, to which it writes `scores` of shape (B, C) as safetensors.
        arguments: The first arguments.
        predicted: (B,), the classes that the trained model predicts.

    Raises:
        SystemExit: The predictions are others.
    """
    with TemporaryDirectory() as folder:
        file = Path(folder, "scores.safetensors")
        subprocess.run([sys.executable, "-m", module, *arguments, str(file)], check=True)
        reloaded = load_file(file)["scores"].argmax(-1)
    same = int((reloaded == predicted).sum())
    print(f"Reloaded in a fresh process by the code on its card: {same} of {len(predicted)} predictions are the same.")
    if same < MIN_SAME * len(predicted):
        raise SystemExit("The reloaded adapter predicts otherwise than the trained one: please report this.")
