"""Adapts an object detector, RT-DETR, RetinaNet, Deformable DETR or another DETR, on transformers' Trainer.

Without arguments it trains the demonstration detector on scenes of handwritten digits, offline and within minutes:

    python -m scripts.train_object_detection

On your own images it is `mona-peft train object-detection`, and takes the same arguments. `--model` takes a detector,
`--backbone` a Swin, around which a new head is built (`--model_type retinanet`, the paper's, needs torchvision):

    python -m scripts.train_object_detection --dataset FOLDER_OR_NAME --output_dir outputs/my_objects \\
        --image_size 640 --model_type rt_detr --backbone microsoft/swin-large-patch4-window7-224-in22k

How the task is trained is a table, `TRAINING` in `mona_peft/tasks/training/tasks/object_detection.py`: what
loads data and model, the dataset, what makes batches, the `Trainer`. The one `train` of all tasks takes it. To train on
something else, or in another way, replace a part of it, as is done here with the data.
"""

from dataclasses import replace

from mona_peft.tasks.data.objects.loading import class_names
from mona_peft.tasks.training.setup import Data
from mona_peft.tasks.training.tasks.object_detection import TRAINING, DetectionDataArguments, load_data
from scripts.demonstration.command import Script
from scripts.demonstration.scene_objects import digit_scenes
from scripts.demonstration.scenes import DIGIT_SCENES


def load_own_or_digits(args: DetectionDataArguments, seed: int) -> Data:
    """Loads the images and objects that are given, or scenes of handwritten digits."""
    if args.dataset is not None:
        return load_data(args, seed)
    splits = digit_scenes(with_masks=False)
    return Data(splits, class_names(splits), DIGIT_SCENES)


SCRIPT = Script(replace(TRAINING, load_data=load_own_or_digits), preset="digit_detection")
train, parse, main = SCRIPT.train, SCRIPT.parse, SCRIPT.main

if __name__ == "__main__":
    main()
