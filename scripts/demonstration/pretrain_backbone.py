"""Pre-trains the demonstration backbone, a small Swin, on printed symbols over photographs.

    python -m scripts.demonstration.pretrain_backbone

About an hour on one CPU core that computes bfloat16; `--resume_from_checkpoint last` goes on after an interruption.
All arguments of `transformers.TrainingArguments` work. The result, as stored in `scripts/demonstration/backbone`, is
written to `backbone/` in the output directory: weights in float16, the image processor, and a card.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import (
    SwinConfig,
    SwinForImageClassification,
    ViTImageProcessorPil,
    default_data_collator,
    set_seed,
)

from scripts.common.metrics import classification_metrics
from scripts.common.run import task_metrics
from scripts.common.run_directory import find_checkpoint
from scripts.common.tasks import IMAGE_CLASSIFICATION
from scripts.common.trainer import WholeModelTrainer
from scripts.demonstration.pretraining import Stopwatch, num_pictures, parse, save_demonstration_model
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

A Swin of {parameters:,} parameters for pictures of 64 x 64 pixels, patches of 2 x 2, four stages.
It knows printed letters and symbols, no digits, and exists to be adapted: by the demonstration, the tests and the
comparisons of mona-peft.

- **Data**: {num_classes} characters (`{classes}`) in {num_fonts} fonts that ship with matplotlib, enlarged, sheared,
  tinted and turned, over crops of {num_photographs} photographs that ship with scikit-image ({photographs}). Every
  picture is drawn anew: {num_pictures:,} in all, the first ones large and on even grounds.
- **Accuracy** on 4,000 pictures drawn with another seed, from the same fonts and photographs:
  {top1:.2%}.
- **Training**: {steps:,} steps of {batch_size}, seed {seed}, {minutes:.0f} minutes on {num_threads} thread(s) of a CPU
  that other work shared. Command: `python -m scripts.demonstration.pretrain_backbone`; settings and versions are in
  `training.json`.
- **Files**: the weights are stored in float16 and loaded in float32.
"""


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


def build_model() -> SwinForImageClassification:
    """Returns the model with random weights."""
    config = SwinConfig(
        image_size=IMAGE_SIZE,
        patch_size=2,
        embed_dim=32,
        depths=[2, 2, 4, 2],
        num_heads=[1, 2, 4, 8],
        window_size=4,
        initializer_range=0.05,  # 0.02 suits 96 channels and more; narrow layers would hardly pass a signal
        drop_path_rate=0.05,
        id2label=dict(enumerate(CLASSES)),
        label2id={name: number for number, name in enumerate(CLASSES)},
    )
    return SwinForImageClassification(config)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script with the given arguments, or those of the command line."""
    args = parse(argv, DEFAULTS)
    checkpoint = find_checkpoint(args)
    set_seed(args.seed)

    image_processor = ViTImageProcessorPil(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})
    model = build_model()
    trainer = WholeModelTrainer(
        model=model,
        args=args,
        train_dataset=SymbolDataset(
            PrintedSymbols(IMAGE_SIZE, args.seed, ramp=tuple(round(share * num_pictures(args)) for share in RAMP)),
            num_pictures(args),
            image_processor,
        ),
        eval_dataset=SymbolDataset(PrintedSymbols(IMAGE_SIZE, args.seed + 1), NUM_EVALUATION_PICTURES, image_processor),
        data_collator=default_data_collator,
        processing_class=image_processor,
        compute_metrics=classification_metrics(len(CLASSES)),
        callbacks=[Stopwatch()],
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    results = task_metrics(IMAGE_CLASSIFICATION, trainer.evaluate(), "eval")
    save_demonstration_model(Path(args.output_dir, "backbone"), trainer, image_processor, results, CARD)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
