"""Adapts an object detector, RT-DETR, RetinaNet, Deformable DETR or another DETR, on transformers' Trainer.

Without arguments it trains the demonstration detector on scenes of handwritten digits, offline and within minutes:

    python -m scripts.train_object_detection

On your own images it takes the arguments of `mona-peft train object-detection`, and does the same. `--model` takes a
detector, `--backbone` a Swin, around which a new head is built (`--model_type retinanet`, the paper's, needs
torchvision):

    python -m scripts.train_object_detection --dataset FOLDER_OR_NAME --output_dir outputs/my_objects \\
        --image_size 640 --model_type rt_detr --backbone microsoft/swin-large-patch4-window7-224-in22k

`train` is all that it takes, to read and to copy: data, model, images, `Trainer`.
"""

from collections.abc import Sequence
from functools import partial

from transformers import TrainerCallback, TrainingArguments

from mona_peft.cli.errors import run_module
from mona_peft.tasks.data.objects.detection import collate
from mona_peft.tasks.data.objects.loading import class_names
from mona_peft.tasks.models.arguments import DenseModelArguments, MethodArguments
from mona_peft.tasks.models.methods import METHODS
from mona_peft.tasks.objects.evaluation import box_detections
from mona_peft.tasks.training.run import Run, TrainingRun
from mona_peft.tasks.training.setup import Data, prepare_images
from mona_peft.tasks.training.tasks import object_detection as task
from mona_peft.tasks.training.train import begin_training
from scripts.demonstration.command import Command
from scripts.demonstration.scene_objects import digit_scenes
from scripts.demonstration.scenes import DIGIT_SCENES


def load_data(args: task.DetectionDataArguments, seed: int) -> Data:
    """Loads the images and objects that are given, or scenes of handwritten digits."""
    if args.dataset is not None:
        return task.load_data(args, seed)
    splits = digit_scenes(with_masks=False)
    return Data(splits, class_names(splits), DIGIT_SCENES)


def train(
    model_args: DenseModelArguments,
    data_args: task.DetectionDataArguments,
    method_args: MethodArguments,
    args: TrainingArguments,
    callbacks: Sequence[TrainerCallback] = (),
) -> TrainingRun:
    """Trains, evaluates and saves; returns the record of the run, and what was predicted of the test images."""
    arguments = (model_args, data_args, method_args)
    checkpoint, data = begin_training(task.TRAINING.task, load_data, arguments, args)

    # A detector with a head for these classes; Mona stands in its backbone, and the rest is trained whole:
    # get_peft_model(model, MonaConfig(bottleneck_dim=64, modules_to_save="task-head")).
    model, image_processor = task.load_model(model_args, data_args, data.classes)
    task.check(data, model, data_args, args)
    model = METHODS[method_args.method](model, method_args)

    # Images and boxes as the model takes them, by split; those to train on are cropped and mirrored at random.
    images = prepare_images(task.TRAINING, data, image_processor, data_args, args.seed)
    args.label_names = ["labels"]  # which `Trainer` does not see behind a PeftModel
    trainer = task.DetectionTrainer(
        model=model,
        args=args,
        train_dataset=images["train"],
        eval_dataset=images["validation"],
        data_collator=collate,
        processing_class=image_processor,
        detect=partial(box_detections, image_processor),
        callbacks=callbacks,
    )
    run = Run(task.TRAINING, arguments, trainer, images, data, checkpoint)
    trainer.train(resume_from_checkpoint=checkpoint)
    return run.evaluate_and_save()


COMMAND = Command(task.TRAINING, train, preset="digit_detection")
parse, main = COMMAND.parse, COMMAND.main

if __name__ == "__main__":
    run_module(main)
