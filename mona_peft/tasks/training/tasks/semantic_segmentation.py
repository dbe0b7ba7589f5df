"""Semantic segmentation: data, model, dataset and Trainer."""

from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from torch import nn
from transformers import BaseImageProcessor, PreTrainedModel, TrainingArguments

from mona_peft.tasks.data.augmentation import Augmentation, augmentation
from mona_peft.tasks.data.segmentation.dataset import (
    IGNORE_INDEX,
    AnnotatedImages,
    EvaluationImages,
    ScaleAndCrop,
    TrainingImages,
    collate,
)
from mona_peft.tasks.data.segmentation.loading import SegmentationDataArguments, load_semantic_segmentation
from mona_peft.tasks.models.architectures import SQUARES, only_side_of, patch_size_of
from mona_peft.tasks.models.arguments import DenseModelArguments
from mona_peft.tasks.models.image_processors import load_image_processor
from mona_peft.tasks.models.loading import load_dense_model
from mona_peft.tasks.models.patches import check_filled
from mona_peft.tasks.segmentation.evaluation import SegmentationMetrics, SemanticSegmentationTrainer
from mona_peft.tasks.segmentation.pictures import segmentation_pictures
from mona_peft.tasks.task import SEMANTIC_SEGMENTATION
from mona_peft.tasks.training.setup import Data, TaskTraining


def load_data(args: SegmentationDataArguments, seed: int) -> Data:
    """Loads images and their masks."""
    splits, classes, masks = load_semantic_segmentation(args, seed)
    return Data(splits, classes, args.dataset, masks)


def load_model(
    model_args: DenseModelArguments, data_args: SegmentationDataArguments, classes: Sequence[str]
) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """Loads a pre-trained model with a head for the classes, or a new one, and its image processor."""
    model = load_dense_model(SEMANTIC_SEGMENTATION, model_args, classes, data_args.crop_size)
    size = [data_args.image_size] if model_args.model_name_or_path is None else None
    image_processor = load_image_processor(model_args, size)
    image_processor.ignore_index = IGNORE_INDEX
    image_processor.do_reduce_labels = data_args.reduce_labels
    return model, image_processor


def check(data: Data, model: PreTrainedModel, data_args: SegmentationDataArguments, args: TrainingArguments) -> None:
    """Checks what would only fail within training.

    Raises:
        ValueError: Sizes are not positive, batches are too small for batch norm or too large for the data, or windows
            are not for the model.
    """
    count = len(data.splits["train"])
    sizes = (data_args.image_size, data_args.crop_size, *data_args.scales)
    if len(data_args.scales) != 2 or data_args.scales[0] > data_args.scales[1] or min(sizes) <= 0:
        raise ValueError(
            f"--image_size {sizes[0]}, --crop_size {sizes[1]}, --scales {' '.join(map(str, sizes[2:]))}: positive "
            "numbers are wanted, and two scales, the smaller first."
        )
    check_filled([data_args.crop_size], patch_size_of(model.config), "--crop_size")
    batch_size = args.train_batch_size * args.world_size
    if count < batch_size:
        raise ValueError(f"{count} training images are fewer than a batch of {batch_size}: choose a smaller one.")
    batch_norms = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    if args.train_batch_size == 1 and batch_norms:
        raise ValueError(
            f"--per_device_train_batch_size 1: the batch norms of {type(model).__name__}, {batch_norms[0]} for one, "
            "need two images at least."
        )
    side = only_side_of(model.config)
    if side is not None and data_args.crop_size != side:
        raise ValueError(
            f"--crop_size {data_args.crop_size}: this {model.config.model_type} takes squares of {side} pixels alone. "
            f"Give --crop_size {side}, and an --image_size of {side} or more."
        )
    squares = model.config.model_type in SQUARES
    if squares and (data_args.eval_mode != "slide" or data_args.image_size < data_args.crop_size):
        raise ValueError(
            f"--eval_mode {data_args.eval_mode}, --image_size {data_args.image_size}, --crop_size "
            f"{data_args.crop_size}: a model of type {model.config.model_type} takes square images alone, so it sees "
            "others in windows. Give --eval_mode slide, and an --image_size that is not below --crop_size."
        )


def scale_and_crop(args: SegmentationDataArguments, image_processor: BaseImageProcessor) -> ScaleAndCrop:
    """Returns how training images are changed; without an augmentation they are cut out of the image all the same."""
    changes = augmentation(args.augmentation, args.horizontal_flip) or Augmentation()
    return ScaleAndCrop(
        image_size=args.image_size,
        scales=(1.0, 1.0) if args.augmentation == "none" else tuple(args.scales),
        crop_size=args.crop_size,
        flip=changes.flip,
        colours=changes,
        max_class_share=args.max_class_share,
        fill=tuple(round(255 * level) for level in image_processor.image_mean),
    )


def make_images(
    rows: Dataset,
    image_processor: BaseImageProcessor,
    augmentation: ScaleAndCrop | None,
    seed: int,
    image_size: int,
    **options: Any,
) -> AnnotatedImages:
    """Returns images to train on, all of one size, or without an augmentation whole ones to evaluate on."""
    if augmentation is None:
        return EvaluationImages(rows, image_processor=image_processor, image_size=image_size, **options)
    return TrainingImages(rows, image_processor=image_processor, augmentation=augmentation, seed=seed, **options)


def dataset_options(data: Data, args: SegmentationDataArguments) -> dict[str, Any]:
    """Returns how masks become class maps, and the size of the images."""
    return {"num_classes": len(data.classes), "masks": data.masks, "image_size": args.image_size}


def trainer_options(data: Data, args: SegmentationDataArguments, image_processor: BaseImageProcessor) -> dict[str, Any]:
    """Returns how class maps are made of what the model gives, and how they are measured."""
    return {
        "compute_metrics": SegmentationMetrics(data.classes),
        "num_classes": len(data.classes),
        "eval_mode": args.eval_mode,
        "crop_size": args.crop_size,
    }


TRAINING = TaskTraining(
    task=SEMANTIC_SEGMENTATION,
    model_arguments=DenseModelArguments,
    data_arguments=SegmentationDataArguments,
    load_data=load_data,
    load_model=load_model,
    dataset=make_images,
    collate=collate,
    label_names=("labels",),
    trainer=SemanticSegmentationTrainer,
    augmentation=scale_and_crop,
    dataset_options=dataset_options,
    trainer_options=trainer_options,
    check=check,
    make_pictures=segmentation_pictures,
    details=lambda trainer: {"class_iou": trainer.compute_metrics.class_iou},
)
