"""Object detection: data, model, dataset and Trainer."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import nn
from transformers import BaseImageProcessor, PreTrainedModel, TrainingArguments

from mona_peft.tasks.data.objects.detection import ObjectDetectionDataset, collate
from mona_peft.tasks.data.objects.loading import ObjectDataArguments, class_names, load_objects, warn_of_surplus_objects
from mona_peft.tasks.models.arguments import DenseModelArguments
from mona_peft.tasks.models.image_processors import check_image_sizes, load_image_processor
from mona_peft.tasks.models.loading import load_dense_model
from mona_peft.tasks.objects.evaluation import CocoTrainer, box_detections
from mona_peft.tasks.objects.pictures import object_pictures
from mona_peft.tasks.task import OBJECT_DETECTION
from mona_peft.tasks.training.losses import share_of_process
from mona_peft.tasks.training.schedule import MultiStepTrainer
from mona_peft.tasks.training.setup import Data, TaskTraining


@dataclass
class DetectionDataArguments(ObjectDataArguments):
    """Which images and objects, and how they are prepared."""

    image_size: list[int] | None = field(
        default=None,
        metadata={
            "help": "In pixels: one number, the side of the squares that images are resized to, or two, the shorter "
            "side and what the longer one may reach. Without it: the model's own."
        },
    )


class DetectionTrainer(MultiStepTrainer, CocoTrainer):
    """`Trainer` with COCO's evaluation and COCO's schedule."""

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """Computes the loss as `CocoTrainer` does, that of RT-DETR too."""
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        loss = loss * share_of_process(self.model.config.model_type, inputs["labels"])
        return (loss, outputs) if return_outputs else loss


def load_data(args: DetectionDataArguments, seed: int) -> Data:
    """Loads images and their objects."""
    splits = load_objects(args, seed)
    return Data(splits, class_names(splits), args.dataset or args.annotations[0])


def load_model(
    model_args: DenseModelArguments, data_args: DetectionDataArguments, classes: Sequence[str]
) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """Loads a pre-trained detector with a head for the classes, or a new one, and its image processor."""
    model = load_dense_model(OBJECT_DETECTION, model_args, classes)
    image_processor = load_image_processor(model_args, data_args.image_size)
    check_image_sizes(image_processor, model.config)
    return model, image_processor


def check(data: Data, model: PreTrainedModel, data_args: DetectionDataArguments, args: TrainingArguments) -> None:
    """Warns where images have more objects than the model can find."""
    warn_of_surplus_objects(data.splits["train"], getattr(model.config, "num_queries", None))


def trainer_options(data: Data, args: DetectionDataArguments, image_processor: BaseImageProcessor) -> dict[str, Any]:
    """Returns how boxes are found in what the model gives."""
    return {"detect": partial(box_detections, image_processor)}


TRAINING = TaskTraining(
    task=OBJECT_DETECTION,
    model_arguments=DenseModelArguments,
    data_arguments=DetectionDataArguments,
    load_data=load_data,
    load_model=load_model,
    dataset=ObjectDetectionDataset,
    collate=collate,
    label_names=("labels",),
    trainer=DetectionTrainer,
    trainer_options=trainer_options,
    check=check,
    make_pictures=object_pictures,
)
