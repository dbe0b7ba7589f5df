"""What is compared on a task, as data, and how its trainings are parsed and run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mona_peft.tasks.comparison.rows import METHOD_ROWS
from mona_peft.tasks.task import TASKS, Task
from mona_peft.tasks.training.arguments import parse_arguments
from mona_peft.tasks.training.run import TrainingRun
from mona_peft.tasks.training.setup import find_training
from mona_peft.tasks.training.train import train

RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)


@dataclass(frozen=True)
class Study:
    """The defaults of the comparison on one task.

    Attributes:
        task: What is trained for.
        metrics: Those of the task that tables show.
        rows: Names of the rows.
        rates: Grid of learning rates, ascending.
        seeds: The first one chooses the rate.
    """

    task: Task = field(compare=False)
    metrics: tuple[str, ...]
    rows: tuple[str, ...] = tuple(row.name for row in METHOD_ROWS)
    rates: tuple[float, ...] = RATES
    seeds: tuple[int, ...] = (0, 1, 2)

    @property
    def name(self) -> str:
        """Of the task, as it stands in names of modules and marks of pages."""
        return self.task.name.replace(" ", "_")

    def parse(self, argv: Sequence[str]) -> tuple[Any, ...]:
        """Parses arguments of the training: model, data, method, and all else."""
        command = self.task.command
        return parse_arguments(find_training(command), argv, prog=f"mona-peft compare {command}", output_dir="outputs")

    def train(self, *arguments: Any, **callbacks: Any) -> TrainingRun:
        """Trains."""
        return train(find_training(self.task.command), *arguments, **callbacks)


METRICS = {
    "image-classification": ("top1",),
    "semantic-segmentation": ("mean_iou", "pixel_accuracy"),
    "object-detection": ("box_ap", "box_ap50"),
    "instance-segmentation": ("mask_ap", "mask_ap50", "box_ap"),
}
STUDIES = {name: Study(task, METRICS[name]) for name, task in TASKS.items()}
"""Of the methods on a user's own images and model, by the names of the tasks on the command line."""
