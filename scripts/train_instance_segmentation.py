"""Adapts a model for instance segmentation, Mask2Former or MaskFormer, on transformers' Trainer.

Without arguments it trains the demonstration segmenter on scenes of handwritten digits, offline and within minutes:

    python -m scripts.train_instance_segmentation

On your own images it is `mona-peft train instance-segmentation`, and takes the same arguments:

    python -m scripts.train_instance_segmentation --dataset FOLDER --output_dir outputs/my_instances \\
        --model facebook/mask2former-swin-base-coco-instance

This is all that a training takes, to read and to copy: functions that load data and model, prepare images and make the
`Trainer`, handed to the one `train`. To train on something else, put a function of your own in the place of one.
"""

from collections.abc import Sequence
from functools import partial

from mona_peft.tasks.data.objects.loading import class_names
from mona_peft.tasks.models.arguments import DenseModelArguments
from mona_peft.tasks.objects.pictures import object_pictures
from mona_peft.tasks.task import INSTANCE_SEGMENTATION
from mona_peft.tasks.training.run import run_script
from mona_peft.tasks.training.setup import Data, TaskTraining
from mona_peft.tasks.training.tasks.instance_segmentation import (
    InstanceDataArguments,
    check,
    load_data,
    load_model,
    make_trainer,
    prepare_images,
)
from mona_peft.tasks.training.train import train as train_with
from scripts.demonstration.command import parse_with_demonstration
from scripts.demonstration.scene_objects import digit_scenes
from scripts.demonstration.scenes import DIGIT_SCENES


def load_own_or_digits(args: InstanceDataArguments, seed: int) -> Data:
    """Loads the images and instances that are given, or scenes of handwritten digits."""
    if args.dataset is not None:
        return load_data(args, seed)
    splits = digit_scenes()
    return Data(splits, class_names(splits), DIGIT_SCENES)


TRAINING = TaskTraining(
    task=INSTANCE_SEGMENTATION,
    model_arguments=DenseModelArguments,
    data_arguments=InstanceDataArguments,
    load_data=load_own_or_digits,
    load_model=load_model,
    prepare_images=prepare_images,
    make_trainer=make_trainer,
    check=check,
    make_pictures=object_pictures,
)
train = partial(train_with, TRAINING)
parse = partial(parse_with_demonstration, TRAINING, preset="digit_instances")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script with the given arguments, or those of the command line."""
    run_script(train, parse(argv))


if __name__ == "__main__":
    main()
