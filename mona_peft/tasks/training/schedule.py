"""A learning rate that falls in steps, as detectors are trained on COCO: the common schedule that `Trainer` lacks."""

from bisect import bisect_right
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import Trainer, TrainingArguments

FACTOR = 0.1
CONSTANT = ("constant", "constant_with_warmup")


class MultiStepTrainer(Trainer):
    """`Trainer` that knows `milestones` in `lr_scheduler_kwargs`: epochs at which the learning rate falls to a tenth.

    Up to the first, the rate is constant, after a warm-up if the schedule has one. Where `max_steps` ends the training,
    it counts as `num_train_epochs` all the same, so that milestones are shares of the whole.

    Raises:
        ValueError: Milestones are out of order or outside of the training, or the schedule is not a constant one.
    """

    def __init__(self, model: nn.Module, args: TrainingArguments, **kwargs: Any) -> None:
        self.milestones = (args.lr_scheduler_kwargs or {}).get("milestones", [])
        if self.milestones:
            _check(args, self.milestones)
        super().__init__(model, args, **kwargs)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        """Sets the schedule up, unless there is one."""
        if not self.milestones or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        falls = [num_training_steps * epoch / self.args.num_train_epochs for epoch in self.milestones]
        warms_up = self.args.lr_scheduler_type == "constant_with_warmup"
        warmup_steps = max(1, self.args.get_warmup_steps(num_training_steps)) if warms_up else 1

        def factor(step: int) -> float:
            return min(1.0, (step + 1) / warmup_steps) * FACTOR ** bisect_right(falls, step)

        self.lr_scheduler = LambdaLR(self.optimizer if optimizer is None else optimizer, factor)
        self._created_lr_scheduler = True
        return self.lr_scheduler


def _check(args: TrainingArguments, milestones: list[float]) -> None:
    if args.lr_scheduler_type not in CONSTANT:
        raise ValueError(
            f"--lr_scheduler_type {args.lr_scheduler_type.value}: with milestones the learning rate is constant "
            f"between them; give {' or '.join(CONSTANT)}."
        )
    if any(later <= earlier for earlier, later in pairwise([0, *milestones, args.num_train_epochs])):
        raise ValueError(
            f"--lr_scheduler_kwargs: the milestones {milestones} must be ascending epochs between 0 and "
            f"--num_train_epochs {args.num_train_epochs:g}."
        )
