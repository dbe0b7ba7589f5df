"""Adapts an image classifier with Mona, or another method, on transformers' Trainer.

Without arguments it trains the demonstration backbone on handwritten digits, offline and within minutes:

    python -m scripts.train_image_classification

On your own images it is `mona-peft train image-classification`, and takes the same arguments:

    python -m scripts.train_image_classification --dataset FOLDER_OR_NAME --output_dir outputs/flowers \\
        --model microsoft/swin-large-patch4-window7-224-in22k

This is all that a training takes, to read and to copy: functions that load data and model, prepare images and make the
`Trainer`, handed to the one `train`. To train on something else, put a function of your own in the place of one.
"""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mona_peft.tasks.data.classification import DataArguments
from mona_peft.tasks.models.arguments import ModelArguments
from mona_peft.tasks.task import IMAGE_CLASSIFICATION
from mona_peft.tasks.training.run import run_script
from mona_peft.tasks.training.setup import Data, TaskTraining
from mona_peft.tasks.training.tasks.image_classification import load_data, load_model, make_trainer, prepare_images
from mona_peft.tasks.training.train import train as train_with
from scripts.demonstration.command import parse_with_demonstration
from scripts.demonstration.digits import DIGITS, digit_images

DEMONSTRATION_BACKBONE = os.path.relpath(Path(__file__).parent / "demonstration" / "backbone")


def load_own_or_digits(args: DataArguments, seed: int) -> Data:
    """Loads the images that are given, or handwritten digits."""
    if args.dataset is not None:
        return load_data(args, seed)
    splits = digit_images()
    return Data(splits, splits["train"].features["label"].names, DIGITS)


TRAINING = TaskTraining(
    task=IMAGE_CLASSIFICATION,
    model_arguments=ModelArguments,
    data_arguments=DataArguments,
    load_data=load_own_or_digits,
    load_model=load_model,
    prepare_images=prepare_images,
    make_trainer=make_trainer,
)
train = partial(train_with, TRAINING)
parse = partial(parse_with_demonstration, TRAINING, preset="digits")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script with the given arguments, or those of the command line."""
    run_script(train, parse(argv))


if __name__ == "__main__":
    main()
