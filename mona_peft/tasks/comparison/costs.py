"""What a training costs, measured while it runs."""

import time

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mona_peft.tasks.comparison.memory import kept_bytes

TOTAL = "seconds"
"""Key in Trainer's log: seconds since the training began, interruptions left out."""


class CostCallback(TrainerCallback):
    """Measures the time of steps and the bytes that a step keeps for its backward pass.

    Attributes:
        step_seconds: Of every step in this process, optimiser included: on a CPU the time of the processor, which other
            processes disturb less than that of the clock.
        kept_bytes: By the forward pass of one batch of training images, at the end of training.
        seconds_before: Of the trainings that this one goes on from.
        has_begun: Whether training has begun.
    """

    def __init__(self) -> None:
        self.step_seconds: list[float] = []
        self.kept_bytes: int | None = None
        self.seconds_before = 0.0
        self.has_begun = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Starts the clock where an interrupted training left it."""
        self.seconds_before = max((entry.get(TOTAL, 0.0) for entry in state.log_history), default=0.0)
        self._started = time.monotonic()
        self.has_begun = True

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Adds the time to what was logged, so that a checkpoint holds it."""
        state.log_history[-1][TOTAL] = self.seconds_before + time.monotonic() - self._started

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Notes when a step begins."""
        self._step_started = _now(args.device)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Notes how long it took."""
        self.step_seconds.append(_now(args.device) - self._step_started)

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module,
        train_dataloader: torch.utils.data.DataLoader,
        **kwargs: object,
    ) -> None:
        """Measures what a step keeps, and leaves all as it was."""
        # Not a batch of the loader, which would draw random numbers.
        images = train_dataloader.dataset
        batch = train_dataloader.collate_fn([images[index] for index in range(min(args.train_batch_size, len(images)))])
        pixel_values = batch["pixel_values"].to(args.device)
        autocast = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
        was_training = model.training
        statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}  # such as batch norm's
        with torch.random.fork_rng():
            self.kept_bytes = kept_bytes(model.train(), pixel_values, autocast)
        for name, buffer in model.named_buffers():
            buffer.copy_(statistics[name])
        model.train(was_training)


def _now(device: torch.device) -> float:
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()
