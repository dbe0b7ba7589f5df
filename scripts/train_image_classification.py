"""Adapts an image classifier with Mona, or trains its head alone, on transformers' Trainer.

Without arguments it trains the demonstration backbone on handwritten digits, offline and within minutes:

    python -m scripts.train_image_classification

A model of the hub, on a dataset of the hub or a folder of images:

    python -m scripts.train_image_classification --dataset FOLDER_OR_NAME \\
        --model_name_or_path microsoft/swin-large-patch4-window7-224-in22k --preset paper_classification \\
        --bf16 --report_to tensorboard --output_dir outputs/flowers

The output directory then holds checkpoints (`--resume_from_checkpoint last` goes on from the newest), `metrics.json`,
`curves.png` and `adapter/`: adapter and head, the image processor, and a model card with the code that loads them.
`--method full` trains everything and leaves the whole model in `model/` instead.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from transformers import (
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

# transformers 5.9 refuses the top-level name where torchvision is missing, though the class does without it.
from mona_peft.tasks.data.augmentation import AUGMENTATIONS
from mona_peft.tasks.data.classification import DataArguments, load_image_classification
from mona_peft.tasks.data.dataset import EpochCallback, ImageClassificationDataset
from mona_peft.tasks.models.arguments import MethodArguments, ModelArguments
from mona_peft.tasks.models.image_processors import load_image_processor
from mona_peft.tasks.models.loading import load_classifier
from mona_peft.tasks.models.methods import METHODS
from mona_peft.tasks.task import IMAGE_CLASSIFICATION
from mona_peft.tasks.training.arguments import parse_arguments
from mona_peft.tasks.training.metrics import classification_metrics
from mona_peft.tasks.training.run import TrainingRun, run_script, run_training
from mona_peft.tasks.training.run_directory import check_same_weights, find_checkpoint
from mona_peft.tasks.training.trainer import WholeModelTrainer
from scripts.demonstration.digits import DIGITS, digit_images

DEMONSTRATION_BACKBONE = os.path.relpath(Path(__file__).parent / "demonstration" / "backbone")


def train(
    model_args: ModelArguments,
    data_args: DataArguments,
    method_args: MethodArguments,
    args: TrainingArguments,
    callbacks: Sequence[TrainerCallback] = (),
) -> TrainingRun:
    """Trains, evaluates and saves.

    Args:
        model_args: The model.
        data_args: The images.
        method_args: The method and its settings.
        args: All else.
        callbacks: Of `Trainer`, besides our own.

    Returns:
        Record and predictions; these are scores of shape (B, num_classes).

    Raises:
        ValueError: Arguments, data or output directory can't be used; the message says what to do.
    """
    checkpoint = find_checkpoint(args)
    set_seed(args.seed)

    splits = digit_images() if data_args.dataset is None else load_image_classification(data_args, args.seed)
    classes = splits["train"].features["label"].names
    base_model = load_classifier(model_args, classes)
    image_processor = load_image_processor(model_args)
    model = METHODS[method_args.method](base_model, method_args)
    if checkpoint is not None:
        check_same_weights(checkpoint, model)

    augmentations = {"train": AUGMENTATIONS[data_args.augmentation]}
    images = {
        name: ImageClassificationDataset(rows, image_processor, augmentations.get(name), args.seed)
        for name, rows in splits.items()
    }
    args.label_names = ["labels"]  # Trainer looks for it in the signature of the model, which a PeftModel hides
    trainer = WholeModelTrainer(
        model=model,
        args=args,
        train_dataset=images["train"],
        eval_dataset=images["validation"],
        data_collator=default_data_collator,
        processing_class=image_processor,
        compute_metrics=classification_metrics(len(classes)),
        callbacks=[EpochCallback(images["train"]), *callbacks],
    )
    return run_training(
        trainer,
        IMAGE_CLASSIFICATION,
        model_args,
        data_args,
        method_args,
        images=images,
        classes=classes,
        dataset=data_args.dataset or DIGITS,
        checkpoint=checkpoint,
    )


def parse(
    argv: Sequence[str] | None = None,
) -> tuple[ModelArguments, DataArguments, MethodArguments, TrainingArguments]:
    """Parses the given arguments, or those of the command line."""
    return parse_arguments(
        (ModelArguments, DataArguments, MethodArguments, TrainingArguments),
        argv,
        output_dir="outputs/image_classification",
        default_preset="digits",
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script with the given arguments, or those of the command line."""
    run_script(train, parse(argv))


if __name__ == "__main__":
    main()
