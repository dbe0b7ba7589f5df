"""`Trainer` that restores whole models from its checkpoints."""

from pathlib import Path

from torch import nn
from transformers import PreTrainedModel, Trainer


class WholeModelTrainer(Trainer):
    """`Trainer` for models that are trained whole, and for all others.

    `save_pretrained` writes the names of the hub, which for Swin and others are not those of the modules. `Trainer`
    reads its checkpoints with `load_state_dict(strict=False)`, restores the tensors whose names happen to agree, and
    only warns (transformers issues 43701 and 40187). `from_pretrained` translates the names. A `PeftModel` has a reader
    of its own and is not affected.
    """

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        model = model or self.model
        if isinstance(model, PreTrainedModel):
            _restore(model, resume_from_checkpoint)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if isinstance(self.model, PreTrainedModel):
            _restore(self.model, self.state.best_model_checkpoint)
        else:
            super()._load_best_model()


def _restore(model: PreTrainedModel, checkpoint: str | Path) -> None:
    saved = type(model).from_pretrained(checkpoint, config=model.config, dtype=model.dtype)
    model.load_state_dict(saved.state_dict())
