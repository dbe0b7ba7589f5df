"""Image classification: data, model and Trainer."""

from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import (
    BaseImageProcessor,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
)

from mona_peft.tasks.data.augmentation import AUGMENTATIONS
from mona_peft.tasks.data.classification import DataArguments, load_image_classification
from mona_peft.tasks.data.dataset import EpochCallback, ImageClassificationDataset, ImageDataset
from mona_peft.tasks.models.arguments import ModelArguments
from mona_peft.tasks.models.image_processors import load_image_processor
from mona_peft.tasks.models.loading import load_classifier
from mona_peft.tasks.task import IMAGE_CLASSIFICATION
from mona_peft.tasks.training.metrics import classification_metrics
from mona_peft.tasks.training.setup import Data, TaskTraining
from mona_peft.tasks.training.trainer import WholeModelTrainer


def load_data(args: DataArguments, seed: int) -> Data:
    """Loads images and their labels."""
    splits = load_image_classification(args, seed)
    return Data(splits, splits["train"].features["label"].names, args.dataset)


def load_model(
    model_args: ModelArguments, data_args: DataArguments, classes: Sequence[str]
) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """Loads a pre-trained classifier with a head for the classes, and its image processor."""
    return load_classifier(model_args, classes), load_image_processor(model_args)


def prepare_images(
    data: Data, image_processor: BaseImageProcessor, args: DataArguments, seed: int
) -> dict[str, ImageDataset]:
    """Returns images as the model takes them, those to train on augmented."""
    augmentations = {"train": AUGMENTATIONS[args.augmentation]}
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
    """Returns the `Trainer`, which reports top-1 and top-5 accuracy."""
    args.label_names = ["labels"]  # Trainer looks for it in the signature of the model, which a PeftModel hides
    return WholeModelTrainer(
        model=model,
        args=args,
        train_dataset=images.get("train"),
        eval_dataset=images["validation"],
        data_collator=default_data_collator,
        processing_class=image_processor,
        compute_metrics=classification_metrics(len(classes)),
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
)
