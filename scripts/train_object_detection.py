"""Adapts an object detector, RT-DETR, RetinaNet, Deformable DETR or another DETR, with Mona, on transformers' Trainer.

Without arguments it trains the demonstration detector on scenes of handwritten digits, offline and within minutes:

    python -m scripts.train_object_detection

A new head around a pre-trained Swin, on a folder in COCO's format (annotations/instances_train2017.json,
train2017/*.jpg, ...), in Pascal VOC's, or a dataset of the hub with a column of objects:

    python -m scripts.train_object_detection --dataset FOLDER_OR_NAME --model_type rt_detr \\
        --backbone microsoft/swin-large-patch4-window7-224-in22k --image_size 640 --learning_rate 1e-4 --bf16 \\
        --output_dir outputs/my_objects

`--model_name_or_path` takes a detector that is there already; `--model_type retinanet`, the paper's, needs torchvision.
The output directory then holds checkpoints
(`--resume_from_checkpoint last` goes on from the newest), `metrics.json`, `curves.png`, `predictions.png` and
`adapter/`: adapter and head, the image processor, and a model card with the code that loads them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from torch import nn
from transformers import (
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from mona_peft.tasks.data.dataset import EpochCallback
from mona_peft.tasks.data.objects.detection import OBJECT_AUGMENTATIONS, ObjectDetectionDataset, collate
from mona_peft.tasks.data.objects.loading import ObjectDataArguments, class_names, load_objects, warn_of_surplus_objects
from mona_peft.tasks.models.arguments import DenseModelArguments, MethodArguments
from mona_peft.tasks.models.backbones import checkpoint_backbone
from mona_peft.tasks.models.image_processors import check_image_sizes, load_image_processor
from mona_peft.tasks.models.loading import load_dense_model
from mona_peft.tasks.models.methods import METHODS
from mona_peft.tasks.objects.evaluation import CocoTrainer, box_detections
from mona_peft.tasks.objects.pictures import object_pictures
from mona_peft.tasks.task import OBJECT_DETECTION
from mona_peft.tasks.training.arguments import parse_arguments
from mona_peft.tasks.training.losses import share_of_process
from mona_peft.tasks.training.run import TrainingRun, run_script, run_training
from mona_peft.tasks.training.run_directory import check_same_weights, find_checkpoint
from mona_peft.tasks.training.schedule import MultiStepTrainer
from scripts.demonstration.scene_objects import digit_scenes
from scripts.demonstration.scenes import DIGIT_SCENES


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
    augmentation: Literal["none", "crop", "flip", "crop-flip"] = field(
        default="crop-flip",
        metadata={"help": "Of training images: random resized crop, and horizontal flip (wrong for digits and text)."},
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


def train(
    model_args: DenseModelArguments,
    data_args: DetectionDataArguments,
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

    Raises:
        ValueError: Arguments, data or output directory can't be used; the message says what to do.
    """
    checkpoint = find_checkpoint(args)
    set_seed(args.seed)

    splits = digit_scenes(with_masks=False) if data_args.dataset is None else load_objects(data_args, args.seed)
    classes = class_names(splits)
    base_model = load_dense_model(OBJECT_DETECTION, model_args, classes)
    image_processor = load_image_processor(model_args, data_args.image_size)
    check_image_sizes(image_processor, base_model.config)
    warn_of_surplus_objects(splits["train"], getattr(base_model.config, "num_queries", None))
    model = METHODS[method_args.method](base_model, method_args)
    checkpoint_backbone(base_model, args)
    if checkpoint is not None:
        check_same_weights(checkpoint, model)

    augmentations = {"train": OBJECT_AUGMENTATIONS[data_args.augmentation]}
    images = {
        name: ObjectDetectionDataset(rows, image_processor, augmentations.get(name), args.seed)
        for name, rows in splits.items()
    }
    args.label_names = ["labels"]  # Trainer looks for it in the signature of the model, which a PeftModel hides
    trainer = DetectionTrainer(
        model=model,
        args=args,
        train_dataset=images["train"],
        eval_dataset=images["validation"],
        data_collator=collate,
        processing_class=image_processor,
        callbacks=[EpochCallback(images["train"]), *callbacks],
        detect=partial(box_detections, image_processor),
    )
    return run_training(
        trainer,
        OBJECT_DETECTION,
        model_args,
        data_args,
        method_args,
        images=images,
        classes=classes,
        dataset=data_args.dataset or DIGIT_SCENES,
        checkpoint=checkpoint,
        pictures=object_pictures(trainer, images["validation"], classes),
    )


def parse(
    argv: Sequence[str] | None = None,
) -> tuple[DenseModelArguments, DetectionDataArguments, MethodArguments, TrainingArguments]:
    """Parses the given arguments, or those of the command line."""
    return parse_arguments(
        (DenseModelArguments, DetectionDataArguments, MethodArguments, TrainingArguments),
        argv,
        output_dir="outputs/object_detection",
        default_preset="digit_detection",
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script with the given arguments, or those of the command line."""
    run_script(train, parse(argv))


if __name__ == "__main__":
    main()
