"""The command line of a training that has a demonstration: without data it trains on the demonstration's."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from mona_peft.tasks.training import presets
from mona_peft.tasks.training.arguments import parse_arguments
from mona_peft.tasks.training.run import TrainingRun, run_script
from mona_peft.tasks.training.setup import TaskTraining
from mona_peft.tasks.training.train import train

presets.PRESETS.append(Path(__file__).resolve().parents[1] / "presets")


@dataclass(frozen=True)
class Script:
    """A script that trains.

    Attributes:
        training: How the task is trained.
        preset: That of the demonstration, where there are no other data.
    """

    training: TaskTraining
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

    def train(self, *arguments: Any, callbacks: Sequence[TrainerCallback] = ()) -> TrainingRun:
        """Trains, evaluates and saves with what `parse` has returned; returns record and predictions."""
        return train(self.training, *arguments, callbacks=callbacks)

    def main(self, argv: Sequence[str] | None = None) -> None:
        """Runs the script with the given arguments, or those of the command line."""
        run_script(self.train, self.parse(argv))
