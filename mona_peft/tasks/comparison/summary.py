"""What the records of a row come to: the chosen rate, means and spreads over seeds, and differences within seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.stats import t as student

from mona_peft.tasks.comparison.experiments import Record, Score, best_rate, validation_score

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (None of a single value)."""

    mean: float
    deviation: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Returns those of one or more values."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))

    @property
    def interval(self) -> float | None:
        """Half the width of Student's confidence interval of the mean."""
        if self.deviation is None:
            return None
        return float(student.ppf((1 + CONFIDENCE) / 2, self.count - 1)) * self.deviation / math.sqrt(self.count)


@dataclass(frozen=True)
class Summary:
    """The records of one row on one backbone.

    Attributes:
        scores: On the validation images, with the seed that chooses, by learning rate.
        rate: The chosen learning rate.
        runs: Records at that rate by seed, the one that chose among them.
    """

    scores: Mapping[float, Score]
    rate: float
    runs: Mapping[int, Record]

    @property
    def first(self) -> Record:
        """Any of the records, for what is the same in all."""
        return next(iter(self.runs.values()))

    def result(self, split: str, metric: str | None = None) -> Spread:
        """Returns mean and spread of a metric on a split, over seeds: of the deciding one where none is given."""
        return Spread.of([run["results"][split][metric or run["metric"]] for run in self.runs.values()])

    def difference(self, other: Summary, split: str) -> Spread | None:
        """Returns mean and spread of this minus the other's metric, within seeds; None where no seed is shared."""
        mine, its = self._results(split), other._results(split)
        differences = [mine[seed] - its[seed] for seed in mine if seed in its]
        return Spread.of(differences) if differences else None

    def _results(self, split: str) -> dict[int, float]:
        return {seed: run["results"][split][run["metric"]] for seed, run in self.runs.items()}


def summarise(records: Sequence[Record]) -> Summary:
    """Chooses the rate of a row from its records on one backbone.

    The seed that chooses is the one with the most rates. Only validation results are looked at.
    """
    by_seed: dict[int, dict[float, Record]] = {}
    for record in records:
        by_seed.setdefault(record["seed"], {})[record["learning_rate"]] = record
    search = max(by_seed.values(), key=len)
    scores = {rate: validation_score(record) for rate, record in sorted(search.items())}
    rate = best_rate(scores)
    return Summary(scores, rate, {seed: runs[rate] for seed, runs in sorted(by_seed.items()) if rate in runs})


def evaluated_splits(summaries: Mapping[str, Summary]) -> tuple[str, ...]:
    """Returns the splits that all rows have results on: validation and, where there are test images, test.

    Results are reported on the last one.
    """
    runs = [run["results"] for summary in summaries.values() for run in summary.runs.values()]
    return tuple(split for split in runs[0] if all(split in results for results in runs))
