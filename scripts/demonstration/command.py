"""The command line of a training that has a demonstration: without data it trains on the demonstration's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mona_peft.tasks.training import presets
from mona_peft.tasks.training.arguments import parse_arguments
from mona_peft.tasks.training.run import TrainingRun, run_script
from mona_peft.tasks.training.setup import TaskTraining

presets.PRESETS.append(Path(__file__).resolve().parents[1] / "presets")


@dataclass(frozen=True)
class Command:
    """The command line of a script that trains.

    Attributes:
        training: How the task is trained; its arguments are those of the script.
        train: Takes the arguments and trains.
        preset: That of the demonstration, where there are no other data.
    """

    training: TaskTraining
    train: Callable[..., TrainingRun]
    preset: str

    def parse(self, argv: Sequence[str] | None = None) -> tuple[Any, ...]:
        """Parses arguments, or those of the command line: about model, data and method, and `TrainingArguments`."""
        name = self.training.task.name.replace(" ", "_")
        return parse_arguments(
            self.training,
            argv,
            prog=f"python -m scripts.train_{name}",
            output_dir=f"outputs/{name}",
            default_preset=self.preset,
        )

    def main(self, argv: Sequence[str] | None = None) -> None:
        """Runs the script with the given arguments, or those of the command line."""
        run_script(self.train, self.parse(argv))
