"""Image classification: data, model, dataset and Trainer."""

from collections.abc import Callable, Sequence
from typing import Any

from transformers import BaseImageProcessor, EvalPrediction, PreTrainedModel, default_data_collator

from mona_peft.tasks.data.classification import DataArguments, class_names, is_multi_label, load_image_classification
from mona_peft.tasks.data.dataset import ImageClassificationDataset
from mona_peft.tasks.models.arguments import ModelArguments
from mona_peft.tasks.models.image_processors import load_image_processor
from mona_peft.tasks.models.loading import load_classifier
from mona_peft.tasks.task import IMAGE_CLASSIFICATION, MULTI_LABEL_CLASSIFICATION
from mona_peft.tasks.training.balance import ClassificationTrainer
from mona_peft.tasks.training.metrics import classification_metrics, multi_label_metrics
from mona_peft.tasks.training.mixing import Kind
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


def metrics_of(data: Data) -> Callable[[EvalPrediction], dict[str, float]]:
    """Returns what computes the metrics of one class an image, or of several."""
    several = data.task == MULTI_LABEL_CLASSIFICATION
    return multi_label_metrics() if several else classification_metrics(len(data.classes))


def mixing_of(args: DataArguments) -> Kind:
    """Returns how images are mixed: as it was said, or as the augmentation wants it."""
    return args.mixing or ("both" if args.augmentation == "strong" else "none")


def trainer_options(data: Data, args: DataArguments, image_processor: BaseImageProcessor) -> dict[str, Any]:
    """Returns how classes are balanced and images mixed, and the metrics."""
    return {"balance": args.class_balance, "mixing": mixing_of(args), "compute_metrics": metrics_of(data)}


TRAINING = TaskTraining(
    task=IMAGE_CLASSIFICATION,
    model_arguments=ModelArguments,
    data_arguments=DataArguments,
    load_data=load_data,
    load_model=load_model,
    dataset=ImageClassificationDataset,
    collate=default_data_collator,
    label_names=("labels",),
    trainer=ClassificationTrainer,
    trainer_options=trainer_options,
    details=lambda trainer: {"thresholds": trainer.thresholds} if trainer.thresholds else {},
)
