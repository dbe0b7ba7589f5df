"""The command line of a training that has a demonstration: without data it trains on the demonstration's."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mona_peft.tasks.training import presets
from mona_peft.tasks.training.arguments import parse_arguments
from mona_peft.tasks.training.setup import TaskTraining

presets.PRESETS.append(Path(__file__).resolve().parents[1] / "presets")


def parse_with_demonstration(
    training: TaskTraining, argv: Sequence[str] | None = None, *, preset: str
) -> tuple[Any, ...]:
    """Parses the given arguments, or those of the command line.

    Args:
        training: How the task is trained.
        argv: The arguments without the program's name.
        preset: That of the demonstration.
    """
    name = training.task.name.replace(" ", "_")
    return parse_arguments(
        training,
        argv,
        prog=f"python -m scripts.train_{name}",
        output_dir=f"outputs/{name}",
        default_preset=preset,
    )
