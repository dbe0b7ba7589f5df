"""Whether an exported file gives what PyTorch gives, and how fast each is."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

Run = Callable[[torch.Tensor], Sequence[np.ndarray]]
"""From images, (B, 3, H, W), to outputs in the order of their names."""

LIMITS = {"fp32": 1e-3, "fp16": 5e-2, "int8": 0.15}
"""Largest difference at which two outputs agree, as a share of the largest number in them, by precision."""

ROUNDS = 5


@dataclass
class Verification:
    """What came out of a comparison.

    Attributes:
        difference: Largest absolute difference of each output, by its name.
        relative: The largest of these as shares of the largest number in the output.
        limit: What `relative` may be at most.
        seconds: Of one image, in the file and in PyTorch; medians.
    """

    difference: dict[str, float]
    relative: float
    limit: float
    seconds: dict[str, float]

    @property
    def agrees(self) -> bool:
        """Whether the file may be used."""
        return self.relative <= self.limit  # a difference that is no number does not

    def as_record(self) -> dict[str, Any]:
        """Returns it for JSON."""
        return asdict(self)


def verify(names: Sequence[str], exported: Run, original: Run, images: torch.Tensor, limit: float) -> Verification:
    """Compares an exported file with its model, on all images together and on one.

    Args:
        names: Of the outputs.
        exported: Runs the file.
        original: Runs the model in PyTorch, in float32.
        images: (B, 3, H, W), B at least 2.
        limit: Largest relative difference.
    """
    differences, relative = dict.fromkeys(names, 0.0), 0.0
    for some in (images, images[:1]):
        ours, theirs = exported(some), original(some)
        if "pred_boxes" in names:
            ours, theirs = _same_order(ours, theirs)
        for name, one, other in zip(names, ours, theirs, strict=True):
            known = np.isfinite(other)  # what is no number must be none in both
            same = np.array_equal(known, np.isfinite(one))
            difference = float(np.abs(one[known] - other[known]).max(initial=0.0)) if same else float("inf")
            differences[name] = max(differences[name], difference)
            scale = float(np.abs(other[known]).max(initial=0.0))
            relative = max(relative, difference / scale if scale else difference)
    seconds = {"file": _seconds(exported, images[:1]), "pytorch": _seconds(original, images[:1])}
    return Verification(differences, relative, limit, seconds)


def _same_order(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Brings the queries of a detector into the same order, the surer half of them.

    Many detectors take the most promising places of an image for queries: where two are as good as each other, the
    least difference changes their order, and the last of them may be others.
    """
    ours, theirs = list(ours), list(theirs)
    orders: list[tuple[np.ndarray, np.ndarray]] = []
    for image in range(len(ours[0])):
        one, other = (np.concatenate([output[image] for output in side], -1) for side in (ours, theirs))
        cost = np.abs(np.nan_to_num(one[:, None] - other[None], posinf=1e3, neginf=1e3)).sum(-1)
        rows, columns = linear_sum_assignment(cost)
        sure = np.argsort(-theirs[0][image][columns].max(-1), kind="stable")[: -(-len(rows) // 2)]
        orders.append((rows[sure], columns[sure]))
    return (
        [np.stack([output[image][rows] for image, (rows, _) in enumerate(orders)]) for output in ours],
        [np.stack([output[image][columns] for image, (_, columns) in enumerate(orders)]) for output in theirs],
    )


def _seconds(run: Run, images: torch.Tensor) -> float:
    run(images)
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        run(images)
        times.append(time.perf_counter() - start)
    return statistics.median(times)
