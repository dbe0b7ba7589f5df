"""Paired tests of the study, as its plan has them: over seeds, and over test cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap, ttest_rel

NUM_RESAMPLES = 10_000
SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Difference:
    """One method minus another, in area under the ROC curve.

    Attributes:
        mean: Over seeds.
        seeds: 95 % interval of the mean by Student's t over seeds; None of a single seed, which decides nothing.
        cells: 95 % interval by the bootstrap over test cells.
        p_value: The greater one of both tests, two-sided, of this comparison alone.
        ahead: Seeds in which the difference is positive.
        count: Seeds.
    """

    mean: float
    seeds: tuple[float, float] | None
    cells: tuple[float, float]
    p_value: float
    ahead: int
    count: int


def auc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns the area under the ROC curve of weighted cells.

    Args:
        labels: (N,), 0 or 1.
        scores: (N,), of which hardly two are equal.
        weights: (R, N), how often each cell counts.

    Returns:
        (R,).
    """
    order = np.argsort(scores, kind="stable")
    defective, weights = labels[order] == 1, weights[:, order]
    positive, negative = weights * defective, weights * ~defective
    below = np.cumsum(negative, axis=1)
    return (positive * below).sum(1) / (positive.sum(1) * negative.sum(1))


def difference(labels: np.ndarray, mine: Sequence[np.ndarray], its: Sequence[np.ndarray]) -> Difference:
    """Compares two methods.

    Args:
        labels: (N,), of the test cells.
        mine: Scores of the test cells, (N,) a seed.
        its: The other method's, in the same order of seeds.
    """
    every = np.ones((1, len(labels)))
    values = [np.array([auc(labels, scores, every)[0] for scores in method]) for method in (mine, its)]
    within = values[0] - values[1]
    over_seeds, p_seeds = None, 1.0
    if len(within) > 1:
        test = ttest_rel(*values)
        interval = test.confidence_interval(1 - SIGNIFICANCE)
        over_seeds, p_seeds = (float(interval.low), float(interval.high)), test.pvalue

    def mean_difference(cells: np.ndarray, axis: int = -1) -> np.ndarray:
        drawn = np.atleast_2d(cells).astype(int)
        weights = np.stack([np.bincount(row, minlength=len(labels)) for row in drawn]).astype(float)
        pairs = zip(mine, its, strict=True)
        means = np.mean([auc(labels, one, weights) - auc(labels, other, weights) for one, other in pairs], axis=0)
        return means if cells.ndim > 1 else means[0]

    over_cells = bootstrap(
        (np.arange(len(labels)),),
        mean_difference,
        n_resamples=NUM_RESAMPLES,
        batch=1000,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    drawn = over_cells.bootstrap_distribution
    p_cells = 2 * min(np.mean(drawn <= 0), np.mean(drawn >= 0)) + 1 / NUM_RESAMPLES
    return Difference(
        mean=float(within.mean()),
        seeds=over_seeds,
        cells=(float(over_cells.confidence_interval.low), float(over_cells.confidence_interval.high)),
        p_value=float(min(1, max(p_cells, p_seeds))),
        ahead=int((within > 0).sum()),
        count=len(within),
    )


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Returns p-values corrected for their number by Holm's method."""
    corrected, largest = {}, 0.0
    for place, (name, p_value) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, p_value * (len(p_values) - place)))
        corrected[name] = largest
    return corrected
