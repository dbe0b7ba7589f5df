"""Adapts an image classifier with Mona, or another method, on transformers' Trainer.

Without arguments it trains the demonstration backbone on handwritten digits, offline and within minutes:

    python -m scripts.train_image_classification

On your own images it takes the arguments of `mona-peft train image-classification`, and does the same:

    python -m scripts.train_image_classification --dataset FOLDER_OR_NAME --output_dir outputs/flowers \\
        --model microsoft/swin-large-patch4-window7-224-in22k

`train` is all that it takes, to read and to copy: data, model, images, `Trainer`.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from transformers import TrainerCallback, TrainingArguments, default_data_collator

from mona_peft.cli.errors import run_module
from mona_peft.tasks.data.classification import DataArguments
from mona_peft.tasks.models.arguments import MethodArguments, ModelArguments
from mona_peft.tasks.models.methods import METHODS
from mona_peft.tasks.training.balance import ClassificationTrainer
from mona_peft.tasks.training.run import Run, TrainingRun
from mona_peft.tasks.training.setup import Data, prepare_images
from mona_peft.tasks.training.tasks import image_classification as task
from mona_peft.tasks.training.train import begin_training
from scripts.demonstration.command import Command
from scripts.demonstration.digits import DIGITS, digit_images

DEMONSTRATION_BACKBONE = os.path.relpath(Path(__file__).parent / "demonstration" / "backbone")


def load_data(args: DataArguments, seed: int) -> Data:
    """Loads the images that are given, or handwritten digits."""
    if args.dataset is not None:
        return task.load_data(args, seed)
    splits = digit_images()
    return Data(splits, splits["train"].features["label"].names, DIGITS)


def train(
    model_args: ModelArguments,
    data_args: DataArguments,
    method_args: MethodArguments,
    args: TrainingArguments,
    callbacks: Sequence[TrainerCallback] = (),
) -> TrainingRun:
    """Trains, evaluates and saves; returns the record of the run, and what was predicted of the test images."""
    arguments = (model_args, data_args, method_args)
    checkpoint, data = begin_training(task.TRAINING.task, load_data, arguments, args)

    # A pre-trained classifier with a new head, adapted; for Mona:
    # get_peft_model(model, MonaConfig(bottleneck_dim=64, modules_to_save="task-head")).
    model, image_processor = task.load_model(model_args, data_args, data.classes)
    model = METHODS[method_args.method](model, method_args)

    # Images as the model takes them, by split; those to train on are cropped and mirrored at random.
    images = prepare_images(task.TRAINING, data, image_processor, data_args, args.seed)
    args.label_names = ["labels"]  # which `Trainer` does not see behind a PeftModel
    trainer = ClassificationTrainer(
        model=model,
        args=args,
        train_dataset=images["train"],
        eval_dataset=images["validation"],
        data_collator=default_data_collator,
        processing_class=image_processor,
        compute_metrics=task.metrics_of(data),
        balance=data_args.class_balance,
        mixing=task.mixing_of(data_args),
        callbacks=callbacks,
    )
    run = Run(task.TRAINING, arguments, trainer, images, data, checkpoint)
    trainer.train(resume_from_checkpoint=checkpoint)
    return run.evaluate_and_save()


COMMAND = Command(task.TRAINING, train, preset="digits")
parse, main = COMMAND.parse, COMMAND.main

if __name__ == "__main__":
    run_module(main)
