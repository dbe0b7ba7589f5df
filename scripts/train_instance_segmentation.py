"""Adapts a model for instance segmentation, Mask2Former or MaskFormer, on transformers' Trainer.

Without arguments it trains the demonstration segmenter on scenes of handwritten digits, offline and within minutes:

    python -m scripts.train_instance_segmentation

On your own images it is `mona-peft train instance-segmentation`, and takes the same arguments:

    python -m scripts.train_instance_segmentation --dataset FOLDER --output_dir outputs/my_instances \\
        --model facebook/mask2former-swin-base-coco-instance

How the task is trained is a table, `TRAINING` in `mona_peft/tasks/training/tasks/instance_segmentation.py`: what
loads data and model, the dataset, what makes batches, the `Trainer`. The one `train` of all tasks takes it. To train on
something else, or in another way, replace a part of it, as is done here with the data.
"""

from dataclasses import replace

from mona_peft.tasks.data.objects.loading import class_names
from mona_peft.tasks.training.setup import Data
from mona_peft.tasks.training.tasks.instance_segmentation import TRAINING, InstanceDataArguments, load_data
from scripts.demonstration.command import Script
from scripts.demonstration.scene_objects import digit_scenes
from scripts.demonstration.scenes import DIGIT_SCENES


def load_own_or_digits(args: InstanceDataArguments, seed: int) -> Data:
    """Loads the images and instances that are given, or scenes of handwritten digits."""
    if args.dataset is not None:
        return load_data(args, seed)
    splits = digit_scenes()
    return Data(splits, class_names(splits), DIGIT_SCENES)


SCRIPT = Script(replace(TRAINING, load_data=load_own_or_digits), preset="digit_instances")
train, parse, main = SCRIPT.train, SCRIPT.parse, SCRIPT.main

if __name__ == "__main__":
    main()
