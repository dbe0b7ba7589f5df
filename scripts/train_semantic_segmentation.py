"""Adapts a model for semantic segmentation with Mona, or another method, on transformers' Trainer.

Without arguments it trains UPerNet on the demonstration backbone to find handwritten digits, offline, in minutes:

    python -m scripts.train_semantic_segmentation

On your own images it is `mona-peft train semantic-segmentation`, and takes the same arguments:

    python -m scripts.train_semantic_segmentation --dataset FOLDER_OR_NAME --output_dir outputs/scenes \\
        --model openmmlab/upernet-swin-tiny

How the task is trained is a table, `TRAINING` in `mona_peft/tasks/training/tasks/semantic_segmentation.py`: what
loads data and model, the dataset, what makes batches, the `Trainer`. The one `train` of all tasks takes it. To train on
something else, or in another way, replace a part of it, as is done here with the data.
"""

from dataclasses import replace

from mona_peft.tasks.data.segmentation.loading import SegmentationDataArguments
from mona_peft.tasks.training.setup import Data
from mona_peft.tasks.training.tasks.semantic_segmentation import TRAINING, load_data
from scripts.demonstration.command import Script
from scripts.demonstration.scene_class_maps import SCENE_CLASSES, digit_scene_maps
from scripts.demonstration.scenes import DIGIT_SCENES


def load_own_or_digits(args: SegmentationDataArguments, seed: int) -> Data:
    """Loads the images and masks that are given, or scenes of handwritten digits."""
    if args.dataset is not None:
        return load_data(args, seed)
    return Data(digit_scene_maps(), SCENE_CLASSES, DIGIT_SCENES)


SCRIPT = Script(replace(TRAINING, load_data=load_own_or_digits), preset="digit_scenes_semantic")
train, parse, main = SCRIPT.train, SCRIPT.parse, SCRIPT.main

if __name__ == "__main__":
    main()
