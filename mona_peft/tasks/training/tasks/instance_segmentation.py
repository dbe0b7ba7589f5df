"""Instance segmentation: data, model, dataset and Trainer."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from transformers import BaseImageProcessor, PreTrainedModel, TrainingArguments

from mona_peft.tasks.data.objects.instances import InstanceDataset, collate_instances
from mona_peft.tasks.data.objects.loading import ObjectDataArguments, class_names, load_objects, warn_of_surplus_objects
from mona_peft.tasks.models.architectures import only_side_of
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
    model = load_dense_model(INSTANCE_SEGMENTATION, model_args, classes, data_args.image_size)
    side = only_side_of(model.config) if data_args.image_size is None else data_args.image_size
    image_processor = load_image_processor(model_args, None if side is None else [side])
    check_image_sizes(image_processor, model.config)
    return model, image_processor


def check(data: Data, model: PreTrainedModel, data_args: InstanceDataArguments, args: TrainingArguments) -> None:
    """Warns where images have more instances than the model can find."""
    decoder = getattr(model.config, "decoder_config", model.config)
    warn_of_surplus_objects(data.splits["train"], decoder.num_queries)


def trainer_options(data: Data, args: InstanceDataArguments, image_processor: BaseImageProcessor) -> dict[str, Any]:
    """Returns how boxes and masks are found in what the model gives."""
    return {"detect": partial(find_instances, image_processor), "kinds": BOXES_AND_MASKS}


TRAINING = TaskTraining(
    task=INSTANCE_SEGMENTATION,
    model_arguments=DenseModelArguments,
    data_arguments=InstanceDataArguments,
    load_data=load_data,
    load_model=load_model,
    dataset=InstanceDataset,
    collate=collate_instances,
    label_names=("mask_labels", "class_labels"),
    trainer=InstanceTrainer,
    trainer_options=trainer_options,
    check=check,
    make_pictures=object_pictures,
)
