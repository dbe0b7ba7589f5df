"""What the study compares, as data, decided before its runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mona_peft.tasks.comparison.experiments import best_rate, rates_to_try

RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
"""The grid of learning rates, one for all."""

SEEDS = (0, 1, 2, 3, 4)
"""The first one chooses the rate. A seed draws the training cells, the head's and adapter's weights and the order."""

NUM_EPOCHS = {400: 8, 100: 16, 1468: 3}
"""By the number of training cells. All rates are searched for with the first; the others start from what it chose."""

CELLS = next(iter(NUM_EPOCHS))

REFERENCE = "mona"

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """A way of fine-tuning.

    Attributes:
        name: In records.
        title: As a person reads it.
        method: Key of `mona_peft.tasks.models.methods.METHODS`.
        start: The learning rate around which the search begins.
        rate_of: Name of a row whose chosen rate is this one's too; without it the rate is searched for.
        settings: Of `MethodArguments`, where they are not the defaults.
        backbone: Key of `scripts.demonstration.cell_inputs.BACKBONES`.
        first_block: The blocks before it are frozen.
        weight_decay: Of AdamW; spares norms and biases of the backbone.
        has_levels: Whether it is trained on the experts' four levels, and not on two classes.
        is_sparing: Whether it spares whatever has a single axis, as `mona-peft train` does: norms and gammas of Mona.
    """

    name: str
    title: str
    method: str
    start: float
    settings: Mapping[str, Any] = field(default_factory=dict)
    backbone: str = "dinov2"
    first_block: int = 8
    weight_decay: float = 0.05
    rate_of: str | None = None
    is_sparing: bool = False
    has_levels: bool = False


ROWS = (
    Row("fixed", "Task head alone", "fixed", 1e-2),
    Row("full", "All weights of the four blocks", "full", 1e-4),
    Row("bitfit", "BitFit", "bitfit", 3e-3),
    Row("norm-tuning", "Norm tuning", "norm-tuning", 3e-3),
    Row("lora", "LoRA", "lora", 1e-2),
    Row("adapter", "Adapter", "adapter", 1e-3),
    Row("adaptformer", "AdaptFormer", "adaptformer", 1e-3),
    Row("mona", "Mona", "mona", 1e-3),
)
VARIANTS = (
    Row("mona-spared", "Mona, its norms and gammas not decayed", "mona", 1e-3, rate_of=REFERENCE, is_sparing=True),
    Row("mona-kernel-3", "Mona, filters of 3 x 3 alone", "mona", 1e-3, {"kernel_sizes": [3]}, rate_of=REFERENCE),
    Row("mona-mlp", "Mona at the MLPs alone", "mona", 1e-3, {"sites": ["mlp"]}, rate_of=REFERENCE),
    Row("mona-16", "Mona, 16 channels", "mona", 1e-3, {"bottleneck_dim": 16}),
    Row("full-12", "Full fine-tuning, all twelve blocks", "full", 1e-4, first_block=0),
)
COMPARED = ("fixed", "full", "lora", "adaptformer", "mona")
"""Names of the rows that are run on other numbers of cells, and on four levels, too."""

LEVELS = {
    row.name: replace(row, name=f"{row.name}-levels", rate_of=row.name, has_levels=True)
    for row in ROWS
    if row.name in COMPARED
}
"""By the row that is trained on two classes, the same trained on the experts' four levels, at the same rate."""

SWIN = {
    row.name: replace(
        row,
        name=f"{row.name}-swin",
        title="All weights" if row.name == "full" else row.title,
        backbone="swin",
        first_block=0,
    )
    for row in ROWS
    if row.name in COMPARED
}
"""By the row that is trained on DINOv2-small, the same on the distilled Swin, all of it, at a rate of its own."""

BY_NAME = {row.name: row for row in (*ROWS, *VARIANTS, *LEVELS.values(), *SWIN.values())}


@dataclass(frozen=True)
class Stage:
    """A part of the study.

    Attributes:
        cells: Training cells.
        rows: What is run.
        seeds: Of each row, the first one with every rate that the search asks for.
    """

    cells: int
    rows: Sequence[Row]
    seeds: Sequence[int]


def _named(*names: str) -> tuple[Row, ...]:
    return tuple(BY_NAME[name] for name in names)


_MAIN = _named(*COMPARED)
STAGES = (
    Stage(400, ROWS, SEEDS[:3]),
    Stage(400, ROWS, SEEDS),
    Stage(400, _named("mona-spared", "mona-mlp", "mona-kernel-3"), SEEDS[:2]),
    Stage(100, _MAIN, SEEDS[:1]),
    Stage(100, _MAIN, SEEDS[:3]),
    Stage(400, VARIANTS[:-1], SEEDS[:3]),
    Stage(1468, _MAIN, SEEDS[:1]),
    Stage(400, tuple(LEVELS.values()), SEEDS[:3]),
    Stage(400, VARIANTS, SEEDS[:2]),
    Stage(400, tuple(SWIN.values()), SEEDS[:3]),
    Stage(1468, _MAIN, SEEDS[:3]),
    Stage(400, VARIANTS, SEEDS),
    Stage(100, ROWS, SEEDS),
)
"""The most wanted first."""

Key = tuple[str, int, float, int]
"""Row, training cells, rate, seed."""


@dataclass(frozen=True)
class Run:
    """One training."""

    row: Row
    cells: int
    rate: float
    seed: int

    @property
    def key(self) -> Key:
        """What tells it from others."""
        return self.row.name, self.cells, self.rate, self.seed


def key_of(record: Record) -> Key:
    """Returns the key of a record's run."""
    return record["row"], record["num_images"]["train"], record["learning_rate"], record["seed"]


def rates_of(row: Row, cells: int, records: Mapping[Key, Record]) -> Sequence[float]:
    """Returns the part of the grid around a row's start that is as long on both sides; its start, if no more."""
    start = row.start if cells == CELLS else chosen_rate(row, CELLS, records)
    if start is None:
        return ()
    middle = min(max(RATES.index(start), 1), len(RATES) - 2)
    reach = min(middle, len(RATES) - 1 - middle)
    return RATES[middle - reach : middle + reach + 1]


def scores_of(row: Row, cells: int, records: Mapping[Key, Record]) -> dict[float, tuple[float, float]]:
    """Returns the validation scores of a row with the first seed: area under the curve, among equals minus the loss."""
    found = {}
    for rate in rates_of(row, cells, records):
        record = records.get((row.name, cells, rate, SEEDS[0]))
        if record is not None:
            results = record["results"]["validation"]
            found[rate] = (results["auc"], -results["loss"])
    return found


def chosen_rate(row: Row, cells: int, records: Mapping[Key, Record]) -> float | None:
    """Returns the chosen rate of a row, None while it is searched for."""
    if row.rate_of:
        return chosen_rate(BY_NAME[row.rate_of], cells, records)
    scores = scores_of(row, cells, records)
    return best_rate(scores) if scores and not rates_to_try(rates_of(row, cells, records), scores) else None


def missing(records: Mapping[Key, Record]) -> Iterator[Run]:
    """Returns the runs that are still wanted, the most wanted first: stage by stage, rates before seeds."""
    for stage in STAGES:
        searched = [row for row in stage.rows if not row.rate_of]
        wanted = [Run(row, stage.cells, rate, SEEDS[0]) for row in searched for rate in _open(row, stage, records)]
        chosen = [(row, chosen_rate(row, stage.cells, records)) for row in stage.rows]
        wanted += [Run(row, stage.cells, rate, seed) for seed in stage.seeds for row, rate in chosen if rate]
        yield from (run for run in wanted if run.key not in records)


def _open(row: Row, stage: Stage, records: Mapping[Key, Record]) -> list[float]:
    rates = rates_of(row, stage.cells, records)
    return sorted(rates_to_try(rates, scores_of(row, stage.cells, records))) if rates else []
