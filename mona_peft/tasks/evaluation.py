"""A trained run, measured on a split of a dataset as it was measured in its training."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from mona_peft.tasks.data.splits import ROLES
from mona_peft.tasks.reporting.details import DETAILS, evaluated_by
from mona_peft.tasks.reporting.report import write_evaluation, write_report
from mona_peft.tasks.trained import WHOLE_RECORD, TrainedRun, load_run
from mona_peft.tasks.training.run import task_metrics
from mona_peft.tasks.training.setup import Data, TaskTraining, find_training, make_trainer, prepare_images

EVALUATED = (*ROLES["test"], *ROLES["validation"], *ROLES["train"])
"""Splits that are evaluated on where none is named: the first that is there."""


def evaluate_run(
    run: str,
    output_dir: Path,
    dataset: str,
    *,
    split: str | None = None,
    dataset_config: str | None = None,
    batch_size: int = 8,
    num_workers: int = 0,
    base_model: str | None = None,
    use_cpu: bool = False,
) -> tuple[dict[str, float], str, Path | None]:
    """Evaluates a run, and adds what comes out to its report.

    Args:
        run: Output directory, or name on the hub.
        output_dir: Gets `report.html` and the folder `report`.
        dataset: Folder or name on the hub.
        split: Name of the split. None: the first of `EVALUATED` that is there.
        dataset_config: Configuration of the dataset.
        batch_size: Images of a process at once.
        num_workers: Processes that read images.
        base_model: Where the pre-trained model is now.
        use_cpu: Even if there is a GPU.

    Returns:
        Metrics by their labels, what was evaluated, and the report, None on all processes but the first.

    Raises:
        ValueError: There is no such run, dataset or split, or its classes are not those of the run.
    """
    trained = load_run(run, base_model)
    training = find_training(trained.task.command)
    changed = {"dataset": dataset, "dataset_config": dataset_config}
    data, data_args, split = _load(training, trained, changed, split)
    if list(data.classes) != trained.labels:
        raise ValueError(
            f"--dataset {dataset}: its classes are {', '.join(data.classes)}, and the run knows "
            f"{', '.join(trained.labels)}, in this order. They must be the same."
        )
    images = prepare_images(training, data, trained.image_processor, data_args, seed=0)
    with tempfile.TemporaryDirectory() as unused:
        args = TrainingArguments(
            unused,
            per_device_eval_batch_size=batch_size,
            dataloader_num_workers=num_workers,
            use_cpu=use_cpu or not torch.accelerator.is_available(),
            remove_unused_columns=False,
            report_to="none",
        )
        trainer = make_trainer(training, trained.model, args, images, data, data_args, trained.image_processor)
        output = trainer.predict(images["validation"], metric_key_prefix="evaluated")
    task = data.task or trained.task
    metrics = task_metrics(task, output.metrics, "evaluated")
    labels = {task.metrics.get(name, name): value for name, value in metrics.items()}
    own = Path(trained.record.get("dataset") or "") == Path(dataset)
    name = split if own else f"{Path(dataset).name} {split}"
    if not trainer.is_world_process_zero():
        return labels, name, None
    details = DETAILS[task.command](evaluated_by(trainer), images["validation"], data.classes)
    write_evaluation(output_dir, name, task, metrics, details)
    return labels, name, write_report(output_dir, _record(trained, output_dir), task)


def _load(
    training: TaskTraining, trained: TrainedRun, changed: dict[str, Any], split: str | None
) -> tuple[Data, Any, str]:
    """Loads a split, as training and as validation images, as the readers want both."""
    fields = {field.name for field in dataclasses.fields(training.data_arguments)}
    # Of the training itself nothing matters here: which part it was on, or how images were varied.
    changed |= {"max_train_samples": None, "max_eval_samples": None, "test_fraction": 0.0, "augmentation": "none"}
    settings = {name: value for name, value in {**trained.settings, **changed}.items() if name in fields}
    wanted = EVALUATED if split is None else (split,)
    for name in wanted:
        splits = {"train_split": name, "validation_split": name, "test_split": "none"}
        data_args = training.data_arguments(**{**settings, **splits})
        data_args.only_evaluated = True
        try:
            return training.load_data(data_args, 0), data_args, name
        except ValueError as error:
            if "no such split" not in str(error):
                raise
            missing = error
    raise ValueError(str(missing).replace("--train_split", "--split"))


def _record(trained: TrainedRun, output_dir: Path) -> dict[str, Any]:
    """Returns the record of a run, with its history where the output directory has it."""
    path = output_dir / WHOLE_RECORD
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else trained.record
