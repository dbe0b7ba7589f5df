"""Image classification: data, model and Trainer."""

from collections.abc import Sequence
from typing import Any

from datasets import ClassLabel
from peft import PeftModel
from torch import nn
from transformers import (
    BaseImageProcessor,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
)

from mona_peft.tasks.data.arguments import keep_decoding
from mona_peft.tasks.data.augmentation import augmentation
from mona_peft.tasks.data.classification import DataArguments, class_names, is_multi_label, load_image_classification
from mona_peft.tasks.data.dataset import EpochCallback, ImageClassificationDataset, ImageDataset
from mona_peft.tasks.models.arguments import ModelArguments
from mona_peft.tasks.models.image_processors import load_image_processor
from mona_peft.tasks.models.loading import load_classifier
from mona_peft.tasks.task import IMAGE_CLASSIFICATION, MULTI_LABEL_CLASSIFICATION
from mona_peft.tasks.training.balance import ClassificationTrainer
from mona_peft.tasks.training.metrics import classification_metrics, multi_label_metrics
from mona_peft.tasks.training.setup import Data, TaskTraining


def load_data(args: DataArguments, seed: int) -> Data:
    """Loads images and their labels."""
    splits = load_image_classification(args, seed)
    task = MULTI_LABEL_CLASSIFICATION if is_multi_label(splits) else IMAGE_CLASSIFICATION
    return Data(splits, class_names(splits), args.dataset, task=task)


def load_model(
    model_args: ModelArguments, data_args: DataArguments, classes: Sequence[str]
) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """Loads a pre-trained classifier with a head for the classes, and its image processor."""
    return load_classifier(model_args, classes), load_image_processor(model_args)


def prepare_images(
    data: Data, image_processor: BaseImageProcessor, args: DataArguments, seed: int
) -> dict[str, ImageDataset]:
    """Returns images as the model takes them, those to train on augmented."""
    keep_decoding(image_processor, data.splits, args)
    augmentations = {"train": augmentation(args.augmentation, args.horizontal_flip)}
    return {
        split: ImageClassificationDataset(rows, image_processor, augmentations.get(split), seed)
        for split, rows in data.splits.items()
    }


def make_trainer(
    model: nn.Module,
    args: TrainingArguments,
    images: dict[str, ImageDataset],
    classes: Sequence[str],
    data_args: DataArguments,
    image_processor: BaseImageProcessor,
    callbacks: Sequence[TrainerCallback] = (),
    **more: Any,
) -> Trainer:
    """Returns the `Trainer`, which reports top-1 and top-5 accuracy, or mAP and F1 of images with several classes."""
    several = not isinstance(images["validation"].rows.features["label"], ClassLabel)
    if several:
        base = model.get_base_model() if isinstance(model, PeftModel) else model
        base.config.problem_type = "multi_label_classification"
    args.label_names = ["labels"]  # Trainer looks for it in the signature of the model, which a PeftModel hides
    return ClassificationTrainer(
        balance=data_args.class_balance,
        mixing=data_args.mixing or ("both" if data_args.augmentation == "strong" else "none"),
        model=model,
        args=args,
        train_dataset=images.get("train"),
        eval_dataset=images["validation"],
        data_collator=default_data_collator,
        processing_class=image_processor,
        compute_metrics=multi_label_metrics() if several else classification_metrics(len(classes)),
        callbacks=[EpochCallback(images["train"]), *callbacks],
        **more,
    )


TRAINING = TaskTraining(
    task=IMAGE_CLASSIFICATION,
    model_arguments=ModelArguments,
    data_arguments=DataArguments,
    load_data=load_data,
    load_model=load_model,
    prepare_images=prepare_images,
    make_trainer=make_trainer,
    details=lambda trainer: {"thresholds": trainer.thresholds} if trainer.thresholds else {},
)
