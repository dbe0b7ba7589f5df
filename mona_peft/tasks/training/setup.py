"""What differs between the tasks when they are trained: a table of functions, handed to the one `train`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from datasets import DatasetDict
from transformers import BaseImageProcessor, PreTrainedModel, Trainer, TrainingArguments

from mona_peft.tasks.data.dataset import ImageDataset
from mona_peft.tasks.data.segmentation.masks import MaskReading
from mona_peft.tasks.data.splits import SplitArguments
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
        prepare_images: From data, image processor, arguments about the data and a seed to images as the model takes
            them, by split.
        make_trainer: From the adapted model, `TrainingArguments`, images, names of the classes, arguments about the
            data, the image processor and callbacks to the `Trainer`.
        check: Looks at data, base model, arguments about the data and `TrainingArguments` for what would only fail
            within the training; raises `ValueError`.
        make_pictures: From the trainer, validation images and names of the classes to pictures of predictions.
        details: From the trainer, after an evaluation, to what the record says of it beside the task's metrics.
    """

    task: Task
    model_arguments: type[ModelArguments]
    data_arguments: type[SplitArguments]
    load_data: Callable[[Any, int], Data]
    load_model: Callable[[Any, Any, Sequence[str]], tuple[PreTrainedModel, BaseImageProcessor]]
    prepare_images: Callable[[Data, BaseImageProcessor, Any, int], dict[str, ImageDataset]]
    make_trainer: Callable[..., Trainer]
    check: Callable[[Data, PreTrainedModel, Any, TrainingArguments], None] | None = None
    make_pictures: Callable[[Any, ImageDataset, Sequence[str]], PredictionPictures] | None = None
    details: Callable[[Any], dict[str, Any]] | None = None


def find_training(task: str) -> TaskTraining:
    """Returns how a task is trained, by its name on the command line.

    Raises:
        ValueError: There is no such task.
    """
    name = find_task(task).command.replace("-", "_")
    return import_module(f"mona_peft.tasks.training.tasks.{name}").TRAINING  # the others may want more packages
