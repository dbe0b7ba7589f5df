"""What the demonstration compares on each task, as data."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mona_peft.tasks.comparison.rows import BACKBONE_ROWS, ROWS
from mona_peft.tasks.comparison.study import METRICS, Study
from mona_peft.tasks.task import (
    IMAGE_CLASSIFICATION,
    INSTANCE_SEGMENTATION,
    OBJECT_DETECTION,
    SEMANTIC_SEGMENTATION,
)
from mona_peft.tasks.training.run import TrainingRun

DOCS = Path("docs")
QUICK_ON_CPUS = ("--bf16", "true", "--attn_implementation", "eager")


@dataclass(frozen=True)
class DemonstrationStudy(Study):
    """The defaults of the comparison on one task of the demonstration.

    Attributes:
        page: Markdown that tells of it; its pictures, and the records, lie in the folder of the same name.
        preset: Defaults of all runs.
        options: Arguments of the training beside the preset, where that is meant for more than comparisons.
    """

    rows: tuple[str, ...] = tuple(row.name for row in BACKBONE_ROWS)
    rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
    page: Path = DOCS / "comparison.md"
    preset: str = "comparison"
    options: tuple[str, ...] = QUICK_ON_CPUS

    @property
    def results(self) -> Path:
        """Folder of the records."""
        return self.page.with_suffix("") / "runs"

    def parse(self, argv: Sequence[str]) -> tuple[Any, ...]:
        """Parses arguments of the training script: model, data, method, and all else."""
        return self._script().parse(argv)

    def train(self, *arguments: Any, **callbacks: Any) -> TrainingRun:
        """Trains with the training script."""
        return self._script().train(*arguments, **callbacks)

    def _script(self) -> Any:
        return importlib.import_module(f"scripts.train_{self.name}")  # when needed: others may want more packages


_STUDIES = (
    DemonstrationStudy(
        task=IMAGE_CLASSIFICATION,
        page=DOCS / "comparison.md",
        preset="comparison",
        metrics=METRICS[IMAGE_CLASSIFICATION.command],
        options=(),
        rows=tuple(ROWS),
        rates=(1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    ),
    DemonstrationStudy(
        task=SEMANTIC_SEGMENTATION,
        page=DOCS / "comparison" / "semantic_segmentation.md",
        preset="digit_scenes_semantic",
        metrics=METRICS[SEMANTIC_SEGMENTATION.command],
    ),
    DemonstrationStudy(
        task=OBJECT_DETECTION,
        page=DOCS / "comparison" / "object_detection.md",
        preset="digit_detection",
        metrics=METRICS[OBJECT_DETECTION.command],
    ),
    DemonstrationStudy(
        task=INSTANCE_SEGMENTATION,
        page=DOCS / "comparison" / "instance_segmentation.md",
        preset="digit_instances",
        metrics=METRICS[INSTANCE_SEGMENTATION.command],
    ),
)
STUDIES = {study.name: study for study in _STUDIES}
"""By the names of their tasks; the first one where none is given."""
