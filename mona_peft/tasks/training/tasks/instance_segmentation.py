"""Instance segmentation: data, model and Trainer."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import nn
from transformers import BaseImageProcessor, PreTrainedModel, Trainer, TrainerCallback, TrainingArguments

from mona_peft.tasks.data.arguments import keep_decoding
from mona_peft.tasks.data.augmentation import augmentation
from mona_peft.tasks.data.dataset import EpochCallback, ImageDataset
from mona_peft.tasks.data.objects.instances import InstanceDataset, collate_instances
from mona_peft.tasks.data.objects.loading import ObjectDataArguments, class_names, load_objects, warn_of_surplus_objects
from mona_peft.tasks.models.arguments import DenseModelArguments
from mona_peft.tasks.models.image_processors import check_image_sizes, load_image_processor
from mona_peft.tasks.models.loading import load_dense_model
from mona_peft.tasks.objects.evaluation import BOXES_AND_MASKS, CocoTrainer, find_instances
from mona_peft.tasks.objects.pictures import object_pictures
from mona_peft.tasks.task import INSTANCE_SEGMENTATION
from mona_peft.tasks.training.schedule import MultiStepTrainer
from mona_peft.tasks.training.setup import Data, TaskTraining


@dataclass
class InstanceDataArguments(ObjectDataArguments):
    """Which images and instances, and how they are prepared."""

    image_size: int | None = field(
        default=None,
        metadata={"help": "Side in pixels of the squares that images are resized to. Without it: the model's own."},
    )


class InstanceTrainer(MultiStepTrainer, CocoTrainer):
    """`Trainer` with COCO's evaluation and COCO's schedule."""


def load_data(args: InstanceDataArguments, seed: int) -> Data:
    """Loads images and their instances."""
    splits = load_objects(args, seed, with_masks=True)
    return Data(splits, class_names(splits), args.dataset or args.annotations[0])


def load_model(
    model_args: DenseModelArguments, data_args: InstanceDataArguments, classes: Sequence[str]
) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """Loads a pre-trained model with a head for the classes, or a new one, and its image processor."""
    model = load_dense_model(INSTANCE_SEGMENTATION, model_args, classes)
    size = None if data_args.image_size is None else [data_args.image_size]
    image_processor = load_image_processor(model_args, size)
    check_image_sizes(image_processor, model.config)
    return model, image_processor


def check(data: Data, model: PreTrainedModel, data_args: InstanceDataArguments, args: TrainingArguments) -> None:
    """Warns where images have more instances than the model can find."""
    decoder = getattr(model.config, "decoder_config", model.config)
    warn_of_surplus_objects(data.splits["train"], decoder.num_queries)


def prepare_images(
    data: Data, image_processor: BaseImageProcessor, args: InstanceDataArguments, seed: int
) -> dict[str, ImageDataset]:
    """Returns images as the model takes them, those to train on augmented."""
    keep_decoding(image_processor, data.splits, args)
    augmentations = {"train": augmentation(args.augmentation, args.horizontal_flip)}
    return {
        split: InstanceDataset(rows, image_processor, augmentations.get(split), seed)
        for split, rows in data.splits.items()
    }


def make_trainer(
    model: nn.Module,
    args: TrainingArguments,
    images: dict[str, ImageDataset],
    classes: Sequence[str],
    data_args: InstanceDataArguments,
    image_processor: BaseImageProcessor,
    callbacks: Sequence[TrainerCallback] = (),
    **more: Any,
) -> Trainer:
    """Returns the `Trainer`, which reports COCO's average precision of boxes and masks."""
    args.label_names = ["mask_labels", "class_labels"]  # as Trainer can't see them in the signature of a PeftModel
    return InstanceTrainer(
        model=model,
        args=args,
        train_dataset=images["train"],
        eval_dataset=images["validation"],
        data_collator=collate_instances,
        processing_class=image_processor,
        callbacks=[EpochCallback(images["train"]), *callbacks],
        detect=partial(find_instances, image_processor),
        kinds=BOXES_AND_MASKS,
        **more,
    )


TRAINING = TaskTraining(
    task=INSTANCE_SEGMENTATION,
    model_arguments=DenseModelArguments,
    data_arguments=InstanceDataArguments,
    load_data=load_data,
    load_model=load_model,
    prepare_images=prepare_images,
    make_trainer=make_trainer,
    check=check,
    make_pictures=object_pictures,
)
