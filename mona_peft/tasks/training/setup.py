"""What differs between the tasks when they are trained: a table, handed to the one `train`; and what is made of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from datasets import DatasetDict
from torch import nn
from transformers import BaseImageProcessor, PreTrainedModel, Trainer, TrainerCallback, TrainingArguments

from mona_peft.tasks.data.arguments import SharedDataArguments, keep_decoding
from mona_peft.tasks.data.augmentation import augmentation
from mona_peft.tasks.data.dataset import ImageDataset
from mona_peft.tasks.data.segmentation.masks import MaskReading
from mona_peft.tasks.models.arguments import ModelArguments
from mona_peft.tasks.reporting.pictures import PredictionPictures
from mona_peft.tasks.task import Task, find_task


@dataclass
class Data:
    """Checked images with their annotation.

    Attributes:
        splits: `train`, `validation` and, where there is one, `test`.
        classes: Names of the classes.
        name: The dataset, as a person reads it.
        masks: How masks become class maps, where there are masks.
        task: What is trained for, where that depends on the data.
    """

    splits: DatasetDict
    classes: list[str]
    name: str
    masks: MaskReading = field(default_factory=MaskReading)
    task: Task | None = None


def chosen_augmentation(args: SharedDataArguments, image_processor: BaseImageProcessor) -> Any:
    """Returns how training images are changed, as the user has chosen it."""
    return augmentation(args.augmentation, args.horizontal_flip)


@dataclass(frozen=True)
class TaskTraining:
    """How a task is trained.

    Attributes:
        task: What is trained for.
        model_arguments: Class of the arguments about the model.
        data_arguments: Class of the arguments about the data.
        load_data: From the arguments about the data, and a seed, to the data.
        load_model: From the arguments about model and data, and the names of the classes, to the pre-trained model
            with a head for them, and its image processor.
        dataset: From rows, image processor, augmentation and seed to images as the model takes them; without an
            augmentation they are evaluated on.
        collate: Makes a batch of them.
        label_names: What of a batch are labels: `Trainer` looks for them in the signature of the model, which a
            `PeftModel` hides.
        trainer: The class of the `Trainer`.
        augmentation: From the arguments about the data, and the image processor, to how training images are changed.
        dataset_options: From data, and the arguments about them, to what else `dataset` takes.
        trainer_options: From data, the arguments about them, and the image processor, to what else `trainer` takes.
        check: Looks at data, base model, arguments about the data and `TrainingArguments` for what would only fail
            within the training; raises `ValueError`.
        make_pictures: From the trainer, validation images and names of the classes to pictures of predictions.
        details: From the trainer, after an evaluation, to what the record says of it beside the task's metrics.
    """

    task: Task
    model_arguments: type[ModelArguments]
    data_arguments: type[SharedDataArguments]
    load_data: Callable[[Any, int], Data]
    load_model: Callable[[Any, Any, Sequence[str]], tuple[PreTrainedModel, BaseImageProcessor]]
    dataset: Callable[..., ImageDataset]
    collate: Callable[[Sequence[dict[str, Any]]], dict[str, Any]]
    label_names: tuple[str, ...]
    trainer: type[Trainer]
    augmentation: Callable[[Any, BaseImageProcessor], Any] = chosen_augmentation
    dataset_options: Callable[[Data, Any], dict[str, Any]] | None = None
    trainer_options: Callable[[Data, Any, BaseImageProcessor], dict[str, Any]] | None = None
    check: Callable[[Data, PreTrainedModel, Any, TrainingArguments], None] | None = None
    make_pictures: Callable[[Any, ImageDataset, Sequence[str]], PredictionPictures] | None = None
    details: Callable[[Any], dict[str, Any]] | None = None


def prepare_images(
    training: TaskTraining, data: Data, image_processor: BaseImageProcessor, args: SharedDataArguments, seed: int
) -> dict[str, ImageDataset]:
    """Returns images as the model takes them by split, those to train on augmented.

    Args:
        training: How the task is trained.
        data: The images.
        image_processor: Of the model; it notes how images are read that are no 8-bit RGB.
        args: About the data.
        seed: Of the augmentation.
    """
    keep_decoding(image_processor, data.splits, args)
    augmentations = {"train": training.augmentation(args, image_processor)}
    options = training.dataset_options(data, args) if training.dataset_options else {}
    return {
        split: training.dataset(rows, image_processor, augmentations.get(split), seed, **options)
        for split, rows in data.splits.items()
    }


def make_trainer(
    training: TaskTraining,
    model: nn.Module,
    args: TrainingArguments,
    images: Mapping[str, ImageDataset],
    data: Data,
    data_args: SharedDataArguments,
    image_processor: BaseImageProcessor,
    callbacks: Sequence[TrainerCallback] = (),
) -> Trainer:
    """Returns the `Trainer`, which trains on the images `train` and evaluates on `validation`.

    Args:
        training: How the task is trained.
        model: To train, adapted already.
        args: Of the training; the names of the labels are set.
        images: Of `data`, as `prepare_images` makes them.
        data: What they were made of.
        data_args: About the data.
        image_processor: Of the model; it is saved in checkpoints.
        callbacks: Of `Trainer`.
    """
    args.label_names = list(training.label_names)
    return training.trainer(
        model=model,
        args=args,
        train_dataset=images["train"],
        eval_dataset=images["validation"],
        data_collator=training.collate,
        processing_class=image_processor,
        callbacks=list(callbacks),
        **(training.trainer_options(data, data_args, image_processor) if training.trainer_options else {}),
    )


def find_training(task: str) -> TaskTraining:
    """Returns how a task is trained, by its name on the command line.

    Raises:
        ValueError: There is no such task.
    """
    name = find_task(task).command.replace("-", "_")
    return import_module(f"mona_peft.tasks.training.tasks.{name}").TRAINING  # the others may want more packages
