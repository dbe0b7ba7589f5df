"""What evaluations during a training have found, so that none is done twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

Evaluation = tuple[dict[str, float], dict[str, Any], Any]
"""Metrics, as `Trainer.evaluate` returns them, what else the record says of an evaluated split, and what the report
shows of it."""


class KnownEvaluations(TrainerCallback):
    """Keeps what was found on the validation images, by the step: at the best one, and the last time.

    Args:
        details: Returns what record and report say of the last evaluation beside its metrics.
    """

    def __init__(self, details: Callable[[], tuple[dict[str, Any], Any]]) -> None:
        self.details = details
        self.found: dict[int, Evaluation] = {}

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **kwargs: object,
    ) -> None:
        """Notes an evaluation."""
        # Which is the best is determined after this; scores of all images at every step would fill the memory.
        self.found = {step: found for step, found in self.found.items() if step == state.best_global_step}
        self.found[state.global_step] = (dict(metrics), *self.details())

    def of_result(self, args: TrainingArguments, state: TrainerState) -> Evaluation | None:
        """Returns the evaluation of the model that a training has ended with; None if this process has seen none.

        Args:
            args: Of the training.
            state: At its end.
        """
        best = args.load_best_model_at_end and state.best_model_checkpoint is not None
        return self.found.get(state.best_global_step if best else state.global_step)
