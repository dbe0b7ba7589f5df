"""`Trainer` that restores whole models from its checkpoints, and knows how losses are to be averaged."""

from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel, Trainer, TrainingArguments

from mona_peft.tasks.training.losses import counted_over_processes


class WholeModelTrainer(Trainer):
    """`Trainer` for models that are trained whole, and for all others.

    `save_pretrained` writes the names of the hub, which for Swin and others are not those of the modules. `Trainer`
    reads its checkpoints with `load_state_dict(strict=False)`, restores the tensors whose names happen to agree, and
    only warns (transformers issues 43701 and 40187). `from_pretrained` translates the names. A `PeftModel` has a reader
    of its own and is not affected.

    Losses are means over a batch of one process: `Trainer` averages them over accumulated batches and processes. For
    models whose `forward` takes any keyword it would leave that to their loss, which SwinV2, BEiT, UPerNet and others
    do not tell of the number of labels (transformers 47688).

    Raises:
        ValueError: There are several GPUs and one process.
    """

    def __init__(self, model: nn.Module, args: TrainingArguments, **keyword_arguments: Any) -> None:
        if args.n_gpu > 1:
            raise ValueError(
                f"One process and {args.n_gpu} GPUs: between them labels of images would be shared out wrongly. Start "
                f"with `torchrun --nproc_per_node {args.n_gpu} -m ...`, or set CUDA_VISIBLE_DEVICES=0."
            )
        super().__init__(model, args, **keyword_arguments)
        self.model_accepts_loss_kwargs = False

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


def _restore(model: PreTrainedModel, checkpoint: str | Path) -> None:
    saved = type(model).from_pretrained(checkpoint, config=model.config, dtype=model.dtype)
    model.load_state_dict(saved.state_dict())
