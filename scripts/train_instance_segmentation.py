"""Adapts a model for instance segmentation, Mask2Former or MaskFormer, on transformers' Trainer.

Without arguments it trains the demonstration segmenter on scenes of handwritten digits, offline and within minutes:

    python -m scripts.train_instance_segmentation

On your own images it takes the arguments of `mona-peft train instance-segmentation`, and does the same:

    python -m scripts.train_instance_segmentation --dataset FOLDER --output_dir outputs/my_instances \\
        --model facebook/mask2former-swin-base-coco-instance

`train` is all that it takes, to read and to copy: data, model, images, `Trainer`.
"""

from collections.abc import Sequence
from functools import partial

from transformers import TrainerCallback, TrainingArguments

from mona_peft.cli.errors import run_module
from mona_peft.tasks.data.objects.instances import collate_instances
from mona_peft.tasks.data.objects.loading import class_names
from mona_peft.tasks.models.arguments import DenseModelArguments, MethodArguments
from mona_peft.tasks.models.methods import METHODS
from mona_peft.tasks.objects.evaluation import BOXES_AND_MASKS, find_instances
from mona_peft.tasks.training.run import Run, TrainingRun
from mona_peft.tasks.training.setup import Data, prepare_images
from mona_peft.tasks.training.tasks import instance_segmentation as task
from mona_peft.tasks.training.train import begin_training
from scripts.demonstration.command import Command
from scripts.demonstration.scene_objects import digit_scenes
from scripts.demonstration.scenes import DIGIT_SCENES


def load_data(args: task.InstanceDataArguments, seed: int) -> Data:
    """Loads the images and instances that are given, or scenes of handwritten digits."""
    if args.dataset is not None:
        return task.load_data(args, seed)
    splits = digit_scenes()
    return Data(splits, class_names(splits), DIGIT_SCENES)


def train(
    model_args: DenseModelArguments,
    data_args: task.InstanceDataArguments,
    method_args: MethodArguments,
    args: TrainingArguments,
    callbacks: Sequence[TrainerCallback] = (),
) -> TrainingRun:
    """Trains, evaluates and saves; returns the record of the run, and what was predicted of the test images."""
    arguments = (model_args, data_args, method_args)
    checkpoint, data = begin_training(task.TRAINING.task, load_data, arguments, args)

    # A segmenter with a head for these classes; Mona stands in its backbone, and the rest is trained whole:
    # get_peft_model(model, MonaConfig(bottleneck_dim=64, modules_to_save="task-head")).
    model, image_processor = task.load_model(model_args, data_args, data.classes)
    task.check(data, model, data_args, args)
    model = METHODS[method_args.method](model, method_args)

    # Images and masks as the model takes them, by split; those to train on are cropped and mirrored at random.
    images = prepare_images(task.TRAINING, data, image_processor, data_args, args.seed)
    args.label_names = ["mask_labels", "class_labels"]  # which `Trainer` does not see behind a PeftModel
    trainer = task.InstanceTrainer(
        model=model,
        args=args,
        train_dataset=images["train"],
        eval_dataset=images["validation"],
        data_collator=collate_instances,
        processing_class=image_processor,
        detect=partial(find_instances, image_processor),
        kinds=BOXES_AND_MASKS,
        callbacks=callbacks,
    )
    run = Run(task.TRAINING, arguments, trainer, images, data, checkpoint)
    trainer.train(resume_from_checkpoint=checkpoint)
    return run.evaluate_and_save()


COMMAND = Command(task.TRAINING, train, preset="digit_instances")
parse, main = COMMAND.parse, COMMAND.main

if __name__ == "__main__":
    run_module(main)
