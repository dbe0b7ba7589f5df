"""Pre-trains the demonstration backbone, a small Swin, on printed symbols over photographs.

    python -m scripts.demonstration.pretrain_backbone

`--embed_dim 16` makes a narrower one. About an hour on one CPU core that computes bfloat16; `--resume_from_checkpoint
last` goes on after an interruption. All arguments of `transformers.TrainingArguments` work. The result, as stored in
`scripts/demonstration/backbone`, is written to `backbone/` in the output directory: weights in float16, the image
processor, and a card.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import (
    SwinConfig,
    SwinForImageClassification,
    TrainingArguments,
    ViTImageProcessorPil,
    default_data_collator,
)

from mona_peft.tasks.task import IMAGE_CLASSIFICATION
from mona_peft.tasks.training.metrics import classification_metrics
from mona_peft.tasks.training.trainer import WholeModelTrainer
from scripts.demonstration.pretraining import Stopwatch, num_pictures, pretrain
from scripts.demonstration.symbols import CLASSES, PrintedSymbols

IMAGE_SIZE = 64
NUM_EVALUATION_PICTURES = 4000
RAMP = (0.1, 0.45)
"""Shares of the training between which pictures grow harder."""

DEFAULTS: dict[str, Any] = {
    "output_dir": "outputs/demonstration_backbone",
    "max_steps": 5500,
    "per_device_train_batch_size": 64,
    "per_device_eval_batch_size": 250,
    "learning_rate": 1.5e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 200,
    "eval_strategy": "steps",
    "eval_steps": 1100,
}

CARD = """---
library_name: transformers
license: apache-2.0
pipeline_tag: image-classification
tags: [swin, image-classification]
---

# Demonstration backbone

A Swin of {parameters:,} parameters for pictures of 64 x 64 pixels, patches of 2 x 2, four stages, {args.embed_dim}
channels in the first. It knows printed letters and symbols, no digits, and exists to be adapted: by the demonstration,
the tests and the comparisons of mona-peft.

- **Data**: {num_classes} characters (`{classes}`) in {num_fonts} fonts that ship with matplotlib, enlarged, sheared,
  tinted and turned, over crops of {num_photographs} photographs that ship with scikit-image ({photographs}). Every
  picture is drawn anew: {num_pictures:,} in all, the first ones large and on even grounds.
- **Accuracy** on 4,000 pictures drawn with another seed, from the same fonts and photographs:
  {top1:.2%}.
- **Training**: {steps:,} steps of {batch_size}, seed {seed}, {minutes:.0f} minutes on {num_threads} thread(s) of a CPU
  that other work shared. Command: `python -m scripts.demonstration.pretrain_backbone --embed_dim
  {args.embed_dim}`; settings and versions are in `training.json`.
- **Files**: the weights are stored in float16 and loaded in float32.
"""


@dataclass
class BackboneArguments(TrainingArguments):
    """Arguments of this pre-training."""

    embed_dim: int = field(default=32, metadata={"help": "Channels of the first stage; the second has twice as many."})


class SymbolDataset(Dataset):
    """A range of `PrintedSymbols`, as a classifier takes them."""

    def __init__(self, symbols: PrintedSymbols, length: int, image_processor: ViTImageProcessorPil) -> None:
        self.symbols = symbols
        self.length = length
        self.image_processor = image_processor

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor | int]:
        picture, label = self.symbols.picture(index)
        pixel_values = self.image_processor(picture, return_tensors="pt")["pixel_values"][0]  # (3, H, W)
        return {"pixel_values": pixel_values, "labels": label}


def build_model(embed_dim: int) -> SwinForImageClassification:
    """Returns the model with random weights; its first stage has `embed_dim` channels."""
    config = SwinConfig(
        image_size=IMAGE_SIZE,
        patch_size=2,
        embed_dim=embed_dim,
        depths=[2, 2, 4, 2],
        num_heads=[1, 2, 4, 8],
        window_size=4,
        initializer_range=0.05,  # 0.02 suits 96 channels and more; narrow layers would hardly pass a signal
        drop_path_rate=0.05,
        id2label=dict(enumerate(CLASSES)),
        label2id={name: number for number, name in enumerate(CLASSES)},
    )
    return SwinForImageClassification(config)


def make_trainer(args: BackboneArguments, model: SwinForImageClassification | None = None) -> WholeModelTrainer:
    """Returns the trainer of a model; without one, of a new one."""
    model = model or build_model(args.embed_dim)
    image_processor = ViTImageProcessorPil(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})
    ramp = tuple(round(share * num_pictures(args)) for share in RAMP)
    training, evaluation = PrintedSymbols(IMAGE_SIZE, args.seed, ramp=ramp), PrintedSymbols(IMAGE_SIZE, args.seed + 1)
    return WholeModelTrainer(
        model=model,
        args=args,
        train_dataset=SymbolDataset(training, num_pictures(args), image_processor),
        eval_dataset=SymbolDataset(evaluation, NUM_EVALUATION_PICTURES, image_processor),
        data_collator=default_data_collator,
        processing_class=image_processor,
        compute_metrics=classification_metrics(len(CLASSES)),
        callbacks=[Stopwatch()],
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script with the given arguments, or those of the command line."""
    pretrain(argv, DEFAULTS, make_trainer, IMAGE_CLASSIFICATION, "backbone", CARD, BackboneArguments)


if __name__ == "__main__":
    main()
