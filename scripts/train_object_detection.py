"""Adapts an object detector, RT-DETR, RetinaNet, Deformable DETR or another DETR, on transformers' Trainer.

Without arguments it trains the demonstration detector on scenes of handwritten digits, offline and within minutes:

    python -m scripts.train_object_detection

On your own images it is `mona-peft train object-detection`, and takes the same arguments. `--model` takes a detector,
`--backbone` a Swin, around which a new head is built (`--model_type retinanet`, the paper's, needs torchvision):

    python -m scripts.train_object_detection --dataset FOLDER_OR_NAME --output_dir outputs/my_objects \\
        --image_size 640 --model_type rt_detr --backbone microsoft/swin-large-patch4-window7-224-in22k

This is all that a training takes, to read and to copy: functions that load data and model, prepare images and make the
`Trainer`, handed to the one `train`. To train on something else, put a function of your own in the place of one.
"""

from collections.abc import Sequence
from functools import partial

from mona_peft.tasks.data.objects.loading import class_names
from mona_peft.tasks.models.arguments import DenseModelArguments
from mona_peft.tasks.objects.pictures import object_pictures
from mona_peft.tasks.task import OBJECT_DETECTION
from mona_peft.tasks.training.run import run_script
from mona_peft.tasks.training.setup import Data, TaskTraining
from mona_peft.tasks.training.tasks.object_detection import (
    DetectionDataArguments,
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


def load_own_or_digits(args: DetectionDataArguments, seed: int) -> Data:
    """Loads the images and objects that are given, or scenes of handwritten digits."""
    if args.dataset is not None:
        return load_data(args, seed)
    splits = digit_scenes(with_masks=False)
    return Data(splits, class_names(splits), DIGIT_SCENES)


TRAINING = TaskTraining(
    task=OBJECT_DETECTION,
    model_arguments=DenseModelArguments,
    data_arguments=DetectionDataArguments,
    load_data=load_own_or_digits,
    load_model=load_model,
    prepare_images=prepare_images,
    make_trainer=make_trainer,
    check=check,
    make_pictures=object_pictures,
)
train = partial(train_with, TRAINING)
parse = partial(parse_with_demonstration, TRAINING, preset="digit_detection")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script with the given arguments, or those of the command line."""
    run_script(train, parse(argv))


if __name__ == "__main__":
    main()
