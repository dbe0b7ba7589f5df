"""Adapts a model for instance segmentation, Mask2Former or MaskFormer, with Mona, on transformers' Trainer.

Without arguments it trains the demonstration segmenter on scenes of handwritten digits, offline and within minutes:

    python -m scripts.train_instance_segmentation

A model of the hub, on a folder in COCO's format (annotations/instances_train2017.json, train2017/*.jpg, ...):

    python -m scripts.train_instance_segmentation --dataset FOLDER \\
        --model_name_or_path facebook/mask2former-swin-base-coco-instance --learning_rate 1e-4 --bf16 \\
        --output_dir outputs/my_instances

Or a new head around a pre-trained backbone, as in the paper: `--preset paper_instance_segmentation --dataset coco`.

The output directory then holds checkpoints (`--resume_from_checkpoint last` goes on from the newest), `metrics.json`,
`curves.png`, `predictions.png` and `adapter/`: adapter and head, the image processor, and a model card with the code
that loads them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from transformers import (
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from mona_peft.tasks.data.dataset import EpochCallback
from mona_peft.tasks.data.objects.instances import INSTANCE_AUGMENTATIONS, InstanceDataset, collate_instances
from mona_peft.tasks.data.objects.loading import ObjectDataArguments, class_names, load_objects, warn_of_surplus_objects
from mona_peft.tasks.models.arguments import DenseModelArguments, MethodArguments
from mona_peft.tasks.models.backbones import checkpoint_backbone
from mona_peft.tasks.models.image_processors import check_image_sizes, load_image_processor
from mona_peft.tasks.models.loading import load_dense_model
from mona_peft.tasks.models.methods import METHODS
from mona_peft.tasks.objects.evaluation import BOXES_AND_MASKS, CocoTrainer, find_instances
from mona_peft.tasks.objects.pictures import object_pictures
from mona_peft.tasks.task import INSTANCE_SEGMENTATION
from mona_peft.tasks.training.arguments import parse_arguments
from mona_peft.tasks.training.run import TrainingRun, run_script, run_training
from mona_peft.tasks.training.run_directory import check_same_weights, find_checkpoint
from mona_peft.tasks.training.schedule import MultiStepTrainer
from scripts.demonstration.scene_objects import digit_scenes
from scripts.demonstration.scenes import DIGIT_SCENES


@dataclass
class InstanceDataArguments(ObjectDataArguments):
    """Which images and instances, and how they are prepared."""

    image_size: int | None = field(
        default=None,
        metadata={"help": "Side in pixels of the squares that images are resized to. Without it: the model's own."},
    )
    augmentation: Literal["none", "crop", "flip", "crop-flip"] = field(
        default="crop-flip",
        metadata={"help": "Of training images: random resized crop, and horizontal flip (wrong for digits and text)."},
    )


class InstanceTrainer(MultiStepTrainer, CocoTrainer):
    """`Trainer` with COCO's evaluation and COCO's schedule."""


def train(
    model_args: DenseModelArguments,
    data_args: InstanceDataArguments,
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

    splits = digit_scenes() if data_args.dataset is None else load_objects(data_args, args.seed, with_masks=True)
    classes = class_names(splits)
    base_model = load_dense_model(INSTANCE_SEGMENTATION, model_args, classes)
    size = None if data_args.image_size is None else [data_args.image_size]
    image_processor = load_image_processor(model_args, size)
    check_image_sizes(image_processor, base_model.config)
    warn_of_surplus_objects(
        splits["train"], getattr(base_model.config, "decoder_config", base_model.config).num_queries
    )
    model = METHODS[method_args.method](base_model, method_args)
    checkpoint_backbone(base_model, args)
    if checkpoint is not None:
        check_same_weights(checkpoint, model)

    augmentations = {"train": INSTANCE_AUGMENTATIONS[data_args.augmentation]}
    images = {
        name: InstanceDataset(rows, image_processor, augmentations.get(name), args.seed)
        for name, rows in splits.items()
    }
    args.label_names = [
        "mask_labels",
        "class_labels",
    ]  # Trainer looks in the model's signature, which a PeftModel hides
    trainer = InstanceTrainer(
        model=model,
        args=args,
        train_dataset=images["train"],
        eval_dataset=images["validation"],
        data_collator=collate_instances,
        processing_class=image_processor,
        callbacks=[EpochCallback(images["train"]), *callbacks],
        detect=partial(find_instances, image_processor),
        kinds=BOXES_AND_MASKS,
    )
    return run_training(
        trainer,
        INSTANCE_SEGMENTATION,
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
) -> tuple[DenseModelArguments, InstanceDataArguments, MethodArguments, TrainingArguments]:
    """Parses the given arguments, or those of the command line."""
    return parse_arguments(
        (DenseModelArguments, InstanceDataArguments, MethodArguments, TrainingArguments),
        argv,
        output_dir="outputs/instance_segmentation",
        default_preset="digit_instances",
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script with the given arguments, or those of the command line."""
    run_script(train, parse(argv))


if __name__ == "__main__":
    main()
