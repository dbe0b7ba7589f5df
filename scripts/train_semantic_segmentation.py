"""Adapts a model for semantic segmentation with Mona, or another method, on transformers' Trainer.

Without arguments it trains the demonstration segmenter on scenes of handwritten digits, offline and within minutes:

    python -m scripts.train_semantic_segmentation

On your own images it takes the arguments of `mona-peft train semantic-segmentation`, and does the same:

    python -m scripts.train_semantic_segmentation --dataset FOLDER_OR_NAME --output_dir outputs/scenes \\
        --model openmmlab/upernet-swin-tiny

`train` is all that it takes, to read and to copy: data, model, images, `Trainer`.
"""

from collections.abc import Sequence

from transformers import TrainerCallback, TrainingArguments

from mona_peft.cli.errors import run_module
from mona_peft.tasks.data.segmentation.dataset import collate
from mona_peft.tasks.data.segmentation.loading import SegmentationDataArguments
from mona_peft.tasks.models.arguments import DenseModelArguments, MethodArguments
from mona_peft.tasks.models.methods import METHODS
from mona_peft.tasks.segmentation.evaluation import SegmentationMetrics, SemanticSegmentationTrainer
from mona_peft.tasks.training.run import Run, TrainingRun
from mona_peft.tasks.training.setup import Data, prepare_images
from mona_peft.tasks.training.tasks import semantic_segmentation as task
from mona_peft.tasks.training.train import begin_training
from scripts.demonstration.command import Command
from scripts.demonstration.scene_class_maps import SCENE_CLASSES, digit_scene_maps
from scripts.demonstration.scenes import DIGIT_SCENES


def load_data(args: SegmentationDataArguments, seed: int) -> Data:
    """Loads the images and masks that are given, or scenes of handwritten digits."""
    if args.dataset is not None:
        return task.load_data(args, seed)
    return Data(digit_scene_maps(), SCENE_CLASSES, DIGIT_SCENES)


def train(
    model_args: DenseModelArguments,
    data_args: SegmentationDataArguments,
    method_args: MethodArguments,
    args: TrainingArguments,
    callbacks: Sequence[TrainerCallback] = (),
) -> TrainingRun:
    """Trains, evaluates and saves; returns the record of the run, and what was predicted of the test images."""
    arguments = (model_args, data_args, method_args)
    checkpoint, data = begin_training(task.TRAINING.task, load_data, arguments, args)

    # A segmenter with a head for these classes; Mona stands in its backbone, and the decoder is trained whole:
    # get_peft_model(model, MonaConfig(bottleneck_dim=64, modules_to_save="task-head")).
    model, image_processor = task.load_model(model_args, data_args, data.classes)
    task.check(data, model, data_args, args)
    model = METHODS[method_args.method](model, method_args)

    # By split: crops of one size to train on, scaled and mirrored at random, and whole images to evaluate on.
    images = prepare_images(task.TRAINING, data, image_processor, data_args, args.seed)
    args.label_names = ["labels"]  # which `Trainer` does not see behind a PeftModel
    trainer = SemanticSegmentationTrainer(
        model=model,
        args=args,
        train_dataset=images["train"],
        eval_dataset=images["validation"],
        data_collator=collate,
        processing_class=image_processor,
        compute_metrics=SegmentationMetrics(data.classes),
        num_classes=len(data.classes),
        eval_mode=data_args.eval_mode,
        crop_size=data_args.crop_size,
        callbacks=callbacks,
    )
    run = Run(task.TRAINING, arguments, trainer, images, data, checkpoint)
    trainer.train(resume_from_checkpoint=checkpoint)
    return run.evaluate_and_save()


COMMAND = Command(task.TRAINING, train, preset="digit_scenes_semantic")
parse, main = COMMAND.parse, COMMAND.main

if __name__ == "__main__":
    run_module(main)
