"""Adapts a model for semantic segmentation with Mona, or another method, on transformers' Trainer.

Without arguments it trains UPerNet on the demonstration backbone to find handwritten digits, offline, in minutes:

    python -m scripts.train_semantic_segmentation

On your own images it is `mona-peft train semantic-segmentation`, and takes the same arguments:

    python -m scripts.train_semantic_segmentation --dataset FOLDER_OR_NAME --output_dir outputs/scenes \\
        --model openmmlab/upernet-swin-tiny

This is all that a training takes, to read and to copy: functions that load data and model, prepare images and make the
`Trainer`, handed to the one `train`. To train on something else, put a function of your own in the place of one.
"""

from collections.abc import Sequence
from functools import partial

from mona_peft.tasks.data.segmentation.loading import SegmentationDataArguments
from mona_peft.tasks.models.arguments import DenseModelArguments
from mona_peft.tasks.segmentation.pictures import segmentation_pictures
from mona_peft.tasks.task import SEMANTIC_SEGMENTATION
from mona_peft.tasks.training.run import run_script
from mona_peft.tasks.training.setup import Data, TaskTraining
from mona_peft.tasks.training.tasks.semantic_segmentation import (
    check,
    load_data,
    load_model,
    make_trainer,
    prepare_images,
)
from mona_peft.tasks.training.train import train as train_with
from scripts.demonstration.command import parse_with_demonstration
from scripts.demonstration.scene_class_maps import SCENE_CLASSES, digit_scene_maps
from scripts.demonstration.scenes import DIGIT_SCENES


def load_own_or_digits(args: SegmentationDataArguments, seed: int) -> Data:
    """Loads the images and masks that are given, or scenes of handwritten digits."""
    if args.dataset is not None:
        return load_data(args, seed)
    return Data(digit_scene_maps(), SCENE_CLASSES, DIGIT_SCENES)


TRAINING = TaskTraining(
    task=SEMANTIC_SEGMENTATION,
    model_arguments=DenseModelArguments,
    data_arguments=SegmentationDataArguments,
    load_data=load_own_or_digits,
    load_model=load_model,
    prepare_images=prepare_images,
    make_trainer=make_trainer,
    check=check,
    make_pictures=segmentation_pictures,
    details=lambda trainer: {"class_iou": trainer.compute_metrics.class_iou},
)
train = partial(train_with, TRAINING)
parse = partial(parse_with_demonstration, TRAINING, preset="digit_scenes_semantic")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script with the given arguments, or those of the command line."""
    run_script(train, parse(argv))


if __name__ == "__main__":
    main()
