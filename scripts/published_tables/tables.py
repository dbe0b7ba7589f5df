"""The tables as data, and the arguments of `mona-peft compare` that each of their datasets comes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).parent / "tables.yaml"


@dataclass(frozen=True)
class Archive:
    """A file of a dataset of the hub that holds all datasets of a table."""

    repository: str
    file: str


@dataclass(frozen=True)
class Part:
    """A dataset of a table.

    Attributes:
        name: Of its folder of results.
        task: As on the command line of `mona-peft`.
        preset: Name or file of the settings.
        model: Name on the hub.
        rows: What is compared.
        rates: Grid of learning rates.
        seeds: The first one chooses the rate.
        images: Images to train on, those to validate among them, and images to test.
        dataset: Name on the hub, or where a user has it; None where the table's archive has it.
        options: Further arguments.
    """

    name: str
    task: str
    preset: str
    model: str
    rows: Sequence[str]
    rates: Sequence[float]
    seeds: Sequence[int]
    images: tuple[int, int]
    dataset: str | None = None
    options: Sequence[str] = ()

    def arguments(self, dataset: str, output_dir: Path) -> list[str]:
        """Returns the arguments of `mona-peft compare`."""
        return [
            *(self.task, "--preset", self.preset, "--dataset", dataset, "--model", self.model),
            *("--rows", *self.rows, "--rates", *(f"{rate:g}" for rate in self.rates)),
            *("--seeds", *map(str, self.seeds), *self.options, "--output_dir", str(output_dir / self.name)),
        ]


@dataclass(frozen=True)
class Table:
    """A published table.

    Attributes:
        name: On the command line.
        title: As a person reads it.
        parts: Its datasets by name.
        archive: That holds them; None where each has its own place.
    """

    name: str
    title: str
    parts: dict[str, Part]
    archive: Archive | None = None


def read_tables(file: Path = FILE) -> dict[str, Table]:
    """Returns the tables by name."""
    entries: dict[str, dict[str, Any]] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return {name: _table(name, **entry) for name, entry in entries.items()}


def _table(
    name: str, title: str, datasets: dict[str, dict[str, Any]], archive: dict[str, str] | None = None, **shared: Any
) -> Table:
    parts = {part: Part(part, **{**shared, **own}) for part, own in datasets.items()}
    return Table(name, title, parts, Archive(**archive) if archive else None)
