"""The one training of all tasks: what differs between them is handed in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainingArguments, set_seed

from mona_peft.tasks.models.arguments import MethodArguments, ModelArguments
from mona_peft.tasks.models.methods import METHODS
from mona_peft.tasks.task import Task
from mona_peft.tasks.training.arguments import check_training_arguments
from mona_peft.tasks.training.dry_run import dry_run
from mona_peft.tasks.training.run import Run, TrainingRun, settings_of
from mona_peft.tasks.training.run_directory import find_checkpoint
from mona_peft.tasks.training.setup import Data, TaskTraining, make_trainer, prepare_images


def train(
    training: TaskTraining,
    model_args: ModelArguments,
    data_args: Any,
    method_args: MethodArguments,
    args: TrainingArguments,
    callbacks: Sequence[TrainerCallback] = (),
) -> TrainingRun:
    """Trains, evaluates and saves.

    Args:
        training: How the task is trained.
        model_args: The model.
        data_args: The images.
        method_args: The method and its settings.
        args: All else.
        callbacks: Of `Trainer`, besides our own.

    Returns:
        Record and predictions.

    Raises:
        ValueError: Arguments, data or output directory can't be used; the message says what to do.
        SystemExit: With `--dry_run`, after the data were read and shown.
    """
    arguments = (model_args, data_args, method_args)
    checkpoint, data = begin_training(training.task, training.load_data, arguments, args)
    base_model, image_processor = training.load_model(model_args, data_args, data.classes)
    if training.check is not None:
        training.check(data, base_model, data_args, args)
    model = METHODS[method_args.method](base_model, method_args)
    images = prepare_images(training, data, image_processor, data_args, args.seed)
    trainer = make_trainer(training, model, args, images, data, data_args, image_processor, callbacks)
    run = Run(training, arguments, trainer, images, data, checkpoint)
    trainer.train(resume_from_checkpoint=checkpoint)
    return run.evaluate_and_save()


def begin_training(
    task: Task,
    load_data: Callable[[Any, int], Data],
    arguments: tuple[ModelArguments, Any, MethodArguments],
    args: TrainingArguments,
) -> tuple[str | None, Data]:
    """Finds what is to be gone on with, sets the seed, and loads the data.

    Args:
        task: What is trained for.
        load_data: From the arguments about the data, and a seed, to the data.
        arguments: About model, data and method.
        args: All else; the metric of the best checkpoint is set where the data decide it.

    Returns:
        The checkpoint to resume from, if there is one, and the data.

    Raises:
        ValueError: Arguments, data or output directory can't be used; the message says what to do.
        SystemExit: With `--dry_run`, after the data were read and shown.
    """
    check_training_arguments(task, args)
    checkpoint = find_checkpoint(args, settings_of(*arguments, args))
    set_seed(args.seed)
    data_args = arguments[1]
    data = load_once(load_data, data_args, args)
    if data_args.dry_run:
        if args.process_index == 0:
            print(dry_run(data, data_args, Path(args.output_dir)))
        raise SystemExit(0)
    if data.task is not None and args.metric_for_best_model == task.main_metric:
        args.metric_for_best_model = data.task.main_metric
    return checkpoint, data


def load_once(load_data: Callable[[Any, int], Data], data_args: Any, args: TrainingArguments) -> Data:
    """Loads data, which one process checks while the others wait."""
    with args.main_process_first(local=False, desc="checking the data"):
        if args.process_index > 0:
            data_args = copy(data_args)
            data_args.verify_images = False
        return load_data(data_args, args.seed)
