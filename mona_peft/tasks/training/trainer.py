"""`Trainer` as all tasks need it: whole models in checkpoints, losses and their averages, weight decay, rates."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import EarlyStoppingCallback, PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from mona_peft.integration.selection import in_backbone
from mona_peft.tasks.data.dataset import EpochCallback, ImageDataset
from mona_peft.tasks.messages import first_of
from mona_peft.tasks.models.backbones import checkpoint_backbone
from mona_peft.tasks.training.losses import counted_over_processes
from mona_peft.tasks.training.run_directory import complete_checkpoints

NUMBERS = "image_numbers"
"""Key, in a batch to train on, of the numbers of its images in the dataset."""


class WholeModelTrainer(Trainer):
    """`Trainer` for models that are trained whole, and for all others.

    `save_pretrained` writes the names of the hub, which for Swin and others are not those of the modules. `Trainer`
    reads its checkpoints with `load_state_dict(strict=False)`, restores the tensors whose names happen to agree, and
    only warns (transformers issues 43701 and 40187). `from_pretrained` translates the names. A `PeftModel` has a reader
    of its own and is not affected.

    Losses are means over a batch of one process: `Trainer` averages them over accumulated batches and processes. For
    models whose `forward` takes any keyword it would leave that to their loss, which SwinV2, BEiT, UPerNet and others
    do not tell of the number of labels (transformers 47688).

    Weight decay spares norms, biases and whatever else has a single axis: a rule of ours, which Trainer's by names is
    not, as the gammas and norms of adapters have names of their own. The authors' logs have no decay for norms either.

    Training images are told which epoch it is, `early_stopping_patience` stops the training, and
    `gradient_checkpointing` means the backbone.

    Raises:
        ValueError: There are several GPUs and one process, or checkpointing is of a kind that frozen backbones refuse.
    """

    def __init__(self, model: nn.Module, args: TrainingArguments, **keyword_arguments: Any) -> None:
        if args.n_gpu > 1:
            raise ValueError(
                f"One process and {args.n_gpu} GPUs: between them labels of images would be shared out wrongly. Start "
                f"with `torchrun --nproc_per_node {args.n_gpu} -m ...`, or set CUDA_VISIBLE_DEVICES=0."
            )
        images, callbacks = keyword_arguments.get("train_dataset"), list(keyword_arguments.pop("callbacks", None) or [])
        if isinstance(images, ImageDataset):
            callbacks.insert(0, EpochCallback(images))
        if images is not None:
            keyword_arguments["train_dataset"] = NumberedImages(images)
            keyword_arguments["data_collator"] = NumberedBatches(keyword_arguments["data_collator"])
        patience = getattr(args, "early_stopping_patience", None)
        if patience is not None:
            callbacks.append(EarlyStoppingCallback(patience))
        checkpoint_backbone(model, args)
        super().__init__(model, args, callbacks=callbacks, **keyword_arguments)
        self.model_accepts_loss_kwargs = False

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Returns the names of the parameters that weight decay is for."""
        several_axes = {name for name, parameter in model.named_parameters() if parameter.ndim > 1}
        return [name for name in super().get_decay_parameter_names(model) if name in several_axes]

    def create_optimizer(self, *arguments: Any, **keyword_arguments: Any) -> torch.optim.Optimizer:
        """Sets the optimiser up, with a learning rate of its own for the head where one is given."""
        made_now = self.optimizer is None
        optimizer = super().create_optimizer(*arguments, **keyword_arguments)
        rate = getattr(self.args, "head_learning_rate", None)
        if rate is not None and made_now:
            inside = in_backbone(self.model)
            head = {id(value) for name, value in self.model.named_parameters() if not inside(name)}
            _give_own_rate(optimizer, head, rate)
        return optimizer

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *arguments: Any, **more: Any) -> torch.Tensor:
        """Trains on a batch.

        Raises:
            NonFiniteLossError: The loss is no number; names step, images and the last checkpoint.
        """
        numbers = inputs.pop(NUMBERS, None)
        loss = super().training_step(model, inputs, *arguments, **more)
        if getattr(self.args, "stop_on_non_finite_loss", False) and not torch.isfinite(loss):
            images = self.train_dataset.images
            names = [images.name(number) for number in numbers.tolist()]
            raise NonFiniteLossError(loss.item(), self.state.global_step + 1, names, self.args)
        return loss

    last_output: EvalLoopOutput | None = None
    """Of the last evaluation."""

    def evaluation_loop(self, *arguments: Any, **keyword_arguments: Any) -> EvalLoopOutput:
        """Evaluates, and keeps what came out for the report."""
        self.last_output = super().evaluation_loop(*arguments, **keyword_arguments)
        return self.last_output

    def compute_loss(self, *arguments: Any, **keyword_arguments: Any) -> Any:
        """Computes the loss as `Trainer` does, boxes and masks weighted the same on any number of processes."""
        with counted_over_processes():
            return super().compute_loss(*arguments, **keyword_arguments)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        model = model or self.model
        if isinstance(model, PreTrainedModel) and not self.is_fsdp_enabled:
            _restore(model, resume_from_checkpoint)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if isinstance(self.model, PreTrainedModel) and not self.is_fsdp_enabled:
            _restore(self.model, self.state.best_model_checkpoint)
        else:
            super()._load_best_model()


class NonFiniteLossError(ValueError):
    """A loss that is no number: nothing good comes after it.

    Args:
        loss: The loss.
        step: Of the training, counted from 1.
        images: Names of the images of the batch.
        args: Of the training.
    """

    def __init__(self, loss: float, step: int, images: Sequence[str], args: TrainingArguments) -> None:
        checkpoints = complete_checkpoints(Path(args.output_dir))
        good = f"The last good checkpoint is {checkpoints[-1]}." if checkpoints else "There is no checkpoint yet."
        precision = " or in full precision, by --bf16 false --fp16 false" if args.bf16 or args.fp16 else ""
        super().__init__(
            f"The loss is {loss} in step {step}, on {first_of(images, count=16)}. {good} Look at the images and their "
            f"annotation. If they are right, train with a lower --learning_rate than {args.learning_rate:g}"
            f"{precision}."
        )


class NumberedImages(Dataset):
    """Images to train on, each with its number in the dataset.

    Args:
        images: The images.
    """

    def __init__(self, images: Dataset) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {NUMBERS: index, **self.images[index]}


class NumberedBatches:
    """Collator that makes a batch of `NumberedImages` as another does of images, and adds the numbers (B,).

    Args:
        collate: Makes a batch of images.
    """

    def __init__(self, collate: Callable[[list[dict[str, Any]]], dict[str, Any]]) -> None:
        self.collate = collate

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        numbers = [row[NUMBERS] for row in rows if NUMBERS in row]
        batch = self.collate([{name: value for name, value in row.items() if name != NUMBERS} for row in rows])
        # Last: accelerate takes the length of a batch from its first tensor, and so does Trainer.
        return {**batch, NUMBERS: torch.tensor(numbers)} if numbers else batch


def _give_own_rate(optimizer: torch.optim.Optimizer, parameters: set[int], rate: float) -> None:
    """Moves parameters, given by their identity, into groups with another learning rate."""
    for group in list(optimizer.param_groups):
        moved = [parameter for parameter in group["params"] if id(parameter) in parameters]
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in parameters]
        optimizer.add_param_group({**group, "params": moved, "lr": rate})


def _restore(model: PreTrainedModel, checkpoint: str | Path) -> None:
    saved = type(model).from_pretrained(checkpoint, config=model.config, dtype=model.dtype)
    model.load_state_dict(saved.state_dict())
