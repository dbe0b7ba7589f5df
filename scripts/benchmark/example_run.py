"""A stand-in for transformers' example script for image classification, with PEFT's LoRA on the model.

What the script does with a folder of images, in its order: `datasets` finds them and splits off a part for validation,
images are decoded in full and changed as they are asked for (random resized crop, mirroring, normalisation), `Trainer`
trains, saves and evaluates. Left out are what takes no time: arguments, logging, resuming, the model card. The script
itself knows no adapters.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import load_dataset
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from mona_peft.tasks.models.methods import METHODS, PAPER_DIM
from scripts.benchmark.loader_inputs import SIDE, normalised, with_pillow, with_torchvision

VALIDATION_SHARE = 0.15


def train_example(images: Path, model: Path, args: TrainingArguments, callbacks: Sequence[TrainerCallback]) -> None:
    """Trains, saves and evaluates.

    Args:
        images: Folder with a folder a class.
        model: Folder of a model and its image processor.
        args: All else.
        callbacks: Of `Trainer`.
    """
    found = load_dataset("imagefolder", data_dir=str(images), split="train", cache_dir=f"{args.output_dir}/cache")
    names = found.features["label"].names
    splits = found.train_test_split(VALIDATION_SHARE, seed=args.seed)
    splits["train"].set_transform(_changed(with_torchvision() or with_pillow))
    splits["test"].set_transform(_changed(_centre))
    classifier = AutoModelForImageClassification.from_pretrained(model, num_labels=len(names))
    trainer = Trainer(
        model=METHODS["lora"].adapt(classifier, bottleneck_dim=PAPER_DIM),
        args=args,
        train_dataset=splits["train"],
        eval_dataset=splits["test"],
        data_collator=_collate,
        processing_class=AutoImageProcessor.from_pretrained(model),
        compute_metrics=_accuracy,
        callbacks=list(callbacks),
    )
    trainer.train()
    trainer.save_model()
    trainer.save_metrics("eval", trainer.evaluate())


def _changed(prepare: Any) -> Any:
    def change(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {**rows, "pixel_values": [prepare(image.convert("RGB")) for image in rows["image"]]}

    return change


def _centre(image: Image.Image) -> torch.Tensor:
    """The script's steps for evaluation: the shorter side resized, the centre cut out."""
    factor = SIDE / min(image.size)
    width, height = (round(side * factor) for side in image.size)
    left, top = (width - SIDE) // 2, (height - SIDE) // 2
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return normalised(resized.crop((left, top, left + SIDE, top + SIDE)))


def _collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    pixel_values = torch.stack([row["pixel_values"] for row in rows])
    return {"pixel_values": pixel_values, "labels": torch.tensor([row["label"] for row in rows])}


def _accuracy(prediction: Any) -> dict[str, float]:
    return {"accuracy": float(np.mean(prediction.predictions.argmax(-1) == prediction.label_ids))}
