"""Adapts an image classifier with Mona, or another method, on transformers' Trainer.

Without arguments it trains the demonstration backbone on handwritten digits, offline and within minutes:

    python -m scripts.train_image_classification

On your own images it is `mona-peft train image-classification`, and takes the same arguments:

    python -m scripts.train_image_classification --dataset FOLDER_OR_NAME --output_dir outputs/flowers \\
        --model microsoft/swin-large-patch4-window7-224-in22k

How the task is trained is a table, `TRAINING` in `mona_peft/tasks/training/tasks/image_classification.py`: what
loads data and model, the dataset, what makes batches, the `Trainer`. The one `train` of all tasks takes it. To train on
something else, or in another way, replace a part of it, as is done here with the data.
"""

import os
from dataclasses import replace
from pathlib import Path

from mona_peft.tasks.data.classification import DataArguments
from mona_peft.tasks.training.setup import Data
from mona_peft.tasks.training.tasks.image_classification import TRAINING, load_data
from scripts.demonstration.command import Script
from scripts.demonstration.digits import DIGITS, digit_images

DEMONSTRATION_BACKBONE = os.path.relpath(Path(__file__).parent / "demonstration" / "backbone")


def load_own_or_digits(args: DataArguments, seed: int) -> Data:
    """Loads the images that are given, or handwritten digits."""
    if args.dataset is not None:
        return load_data(args, seed)
    splits = digit_images()
    return Data(splits, splits["train"].features["label"].names, DIGITS)


SCRIPT = Script(replace(TRAINING, load_data=load_own_or_digits), preset="digits")
train, parse, main = SCRIPT.train, SCRIPT.parse, SCRIPT.main

if __name__ == "__main__":
    main()
