"""What the study compares, as data, decided before its runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mona_peft.tasks.comparison.experiments import best_rate, rates_to_try

RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
"""The grid of learning rates, one for all."""

SEEDS = (0, 1, 2, 3, 4)
"""The first one chooses the rate. A seed draws the training cells, the head's and adapter's weights and the order."""

SPLIT_SEED = 2026
"""Draws the 656 test cells. Not the one of the trials in which size, blocks and epochs were chosen."""

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
        settings: Of `MethodArguments`, where they are not the defaults.
        first_block: The blocks before it are frozen.
        weight_decay: Of AdamW; spares norms and biases.
    """

    name: str
    title: str
    method: str
    start: float
    settings: Mapping[str, Any] = field(default_factory=dict)
    first_block: int = 8
    weight_decay: float = 0.05


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
    Row("mona-16", "Mona, 16 channels", "mona", 1e-3, {"bottleneck_dim": 16}),
    Row("full-12", "Full fine-tuning, all twelve blocks", "full", 1e-4, first_block=0),
)
BY_NAME = {row.name: row for row in (*ROWS, *VARIANTS)}


@dataclass(frozen=True)
class Run:
    """One training."""

    row: Row
    rate: float
    seed: int

    @property
    def key(self) -> tuple[str, float, int]:
        """What tells it from others."""
        return self.row.name, self.rate, self.seed


def key_of(record: Record) -> tuple[str, float, int]:
    """Returns the key of a record's run."""
    return record["row"], record["learning_rate"], record["seed"]


def rates_of(row: Row) -> Sequence[float]:
    """Returns the part of the grid around a row's start that is as long on both sides."""
    middle = RATES.index(row.start)
    reach = min(middle, len(RATES) - 1 - middle)
    return RATES[middle - reach : middle + reach + 1]


def scores_of(row: Row, records: Mapping[tuple, Record]) -> dict[float, tuple[float, float]]:
    """Returns the validation scores of a row with the first seed: area under the curve, among equals minus the loss."""
    found = {}
    for rate in rates_of(row):
        record = records.get((row.name, rate, SEEDS[0]))
        if record is not None:
            results = record["results"]["validation"]
            found[rate] = (results["auc"], -results["loss"])
    return found


def chosen_rate(row: Row, records: Mapping[tuple, Record]) -> float | None:
    """Returns the chosen rate of a row, None while it is searched for."""
    scores = scores_of(row, records)
    return None if rates_to_try(rates_of(row), scores) else best_rate(scores)


def missing(records: Mapping[tuple, Record]) -> Iterator[Run]:
    """Returns the runs that are still wanted, the most wanted first.

    All rows are searched, then run with two more seeds; then the variants, then the last two seeds of all.
    """
    for rows, seeds in ((ROWS, SEEDS[:3]), (VARIANTS, SEEDS[:3]), ((*ROWS, *VARIANTS), SEEDS)):
        wanted = [Run(row, rate, SEEDS[0]) for row in rows for rate in sorted(_open_rates(row, records))]
        chosen = [(row, chosen_rate(row, records)) for row in rows]
        wanted += [Run(row, rate, seed) for seed in seeds[1:] for row, rate in chosen if rate is not None]
        yield from (run for run in wanted if run.key not in records)


def _open_rates(row: Row, records: Mapping[tuple, Record]) -> set[float]:
    return rates_to_try(rates_of(row), scores_of(row, records))
