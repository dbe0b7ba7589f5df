"""The end of every training: train, evaluate, and save what was trained, its card and its curves."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from huggingface_hub import upload_folder
from peft import PeftModel
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer_utils import PredictionOutput

from mona_peft.tasks.data.dataset import ImageDataset
from mona_peft.tasks.data.splits import SplitArguments
from mona_peft.tasks.models.arguments import MethodArguments, ModelArguments
from mona_peft.tasks.models.methods import METHODS
from mona_peft.tasks.reporting.details import DETAILS, Evaluated, evaluated_by
from mona_peft.tasks.reporting.model_card import model_card
from mona_peft.tasks.reporting.plots import plot_curves
from mona_peft.tasks.reporting.report import write_evaluation, write_report
from mona_peft.tasks.reporting.training_images import write_training_images
from mona_peft.tasks.task import Task
from mona_peft.tasks.trained import ADAPTER, MODEL, RECORD, WHOLE_RECORD
from mona_peft.tasks.training.arguments import recipe
from mona_peft.tasks.training.evaluations import KnownEvaluations
from mona_peft.tasks.training.records import hardware, parameter_counts, peak_memory, software, write_json
from mona_peft.tasks.training.run_directory import begin, replace_directory
from mona_peft.tasks.training.setup import Data, TaskTraining

TrainingRun = tuple[dict[str, Any], PredictionOutput | None]
"""What a training returns: the record of the run, as in `metrics.json`, and what `Trainer.predict` has returned for the
test images; None where there are none."""


def run_script(train: Callable[..., TrainingRun], arguments: Sequence[Any]) -> None:
    """Runs a training and prints what came out.

    Args:
        train: Takes the arguments, trains and returns record and predictions.
        arguments: Parsed; `TrainingArguments` last.
    """
    output_dir = arguments[-1].output_dir
    try:
        record, _ = train(*arguments)
    except KeyboardInterrupt:
        raise SystemExit(
            f"Interrupted. `--resume_from_checkpoint last` goes on from the newest checkpoint in {output_dir}; so does "
            "the same command."
        ) from None
    if arguments[-1].process_index > 0:
        return
    print(json.dumps(record["results"], indent=2))
    print(f"What was trained, its card, curves and metrics are in {output_dir}.")


def settings_of(
    model_args: ModelArguments, data_args: SplitArguments, method_args: MethodArguments, args: TrainingArguments
) -> dict[str, dict[str, Any]]:
    """Returns what a run trains: its arguments by name, by what they are about."""
    return {
        "model": asdict(model_args),
        "data": asdict(data_args),
        "method": {"method": method_args.method, **METHODS[method_args.method].settings(method_args)},
        "training": {**recipe(args), "seed": args.seed},
    }


def run_training(
    trainer: Trainer,
    training: TaskTraining,
    model_args: ModelArguments,
    data_args: SplitArguments,
    method_args: MethodArguments,
    *,
    images: Mapping[str, ImageDataset],
    data: Data,
    checkpoint: str | None = None,
) -> TrainingRun:
    """Trains, evaluates, and saves what was trained, with the image processor and a card, its curves and a record.

    An adapter is saved to `adapter/` in the output directory, a model that was trained whole to `model/`; the record is
    `metrics.json`.

    Args:
        trainer: Its `processing_class` is the image processor.
        training: How the task is trained.
        model_args: The model.
        data_args: The images.
        method_args: The method and its settings.
        images: By split: `train`, `validation` and, where there is one, `test`.
        data: What they were made of.
        checkpoint: To go on from.
    """
    settings = settings_of(model_args, data_args, method_args, trainer.args)
    pictures = None
    if training.make_pictures is not None:
        pictures = training.make_pictures(trainer, images["validation"], data.classes)
    # A model whose weights are shared out predicts on all processes or on none, and before training on none.
    shared_out = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    draws = pictures is not None and not shared_out
    leads = trainer.is_world_process_zero()
    if leads:
        begin(trainer.args, settings, checkpoint)
        write_training_images(Path(trainer.args.output_dir), images["train"], data.classes)
        if note := getattr(trainer.args, "recipe_note", ""):
            print(note, flush=True)
    if draws:
        trainer.add_callback(pictures)
        if leads:
            pictures.add("before training")

    def details() -> tuple[dict[str, Any], Evaluated]:
        return training.details(trainer) if training.details else {}, evaluated_by(trainer)

    known = KnownEvaluations(details)
    trainer.add_callback(known)
    trainer.train(resume_from_checkpoint=checkpoint)
    if draws and leads:
        pictures.add("after training")

    results: dict[str, dict[str, float]] = {}
    detailed: dict[str, dict[str, Any]] = {}
    test_output, evaluations = None, {"validation": known.of_result(trainer.args, trainer.state)}
    if evaluations["validation"] is None:
        metrics = trainer.predict(images["validation"], metric_key_prefix="eval").metrics
        evaluations["validation"] = (metrics, *details())
    if "test" in images:
        test_output = trainer.predict(images["test"], metric_key_prefix="test")
        evaluations["test"] = (test_output.metrics, *details())
    for split, (metrics, found, evaluated) in evaluations.items():
        results[split] = task_metrics(training.task, metrics, "eval" if split == "validation" else split)
        if leads:
            shown = DETAILS[training.task.command](evaluated, images[split], data.classes)
            write_evaluation(Path(trainer.args.output_dir), split, training.task, results[split], shown)
        for name, value in found.items():
            detailed.setdefault(name, {})[split] = value

    model, args = trainer.model, trainer.args
    record = {
        "task": training.task.name,
        **_model_class(model.get_base_model() if isinstance(model, PeftModel) else model),
        "base_model": model_args.base_model,
        "model": settings["model"],
        "dataset": data.name,
        "classes": list(data.classes),
        "problem_type": getattr(model.config, "problem_type", None),
        "num_images": {split: len(rows) for split, rows in images.items()},
        "data": settings["data"],
        "results": results,
        **detailed,
        "method": settings["method"],
        "recipe": getattr(args, "recipe_note", ""),
        "training": recipe(args),
        "seed": args.seed,
        "parameters": parameter_counts(model),
        "software": software(),
        "hardware": hardware(args.device, args.world_size),
        "peak_memory": peak_memory(args.device),
        "history": trainer.state.log_history,
    }
    return _save(trainer, training.task, record, built=model_args.model_name_or_path is None), test_output


def _save(trainer: Trainer, task: Task, record: dict[str, Any], built: bool) -> dict[str, Any]:
    """Saves what was trained, and the record, which is returned with what is known after that.

    Args:
        trainer: After training.
        task: What was trained for.
        record: Of the run.
        built: Whether the base model was built and not loaded; its config is then saved beside the adapter.
    """
    args, model = trainer.args, trainer.model
    whole = isinstance(model, PreTrainedModel)
    output_dir = Path(args.output_dir)
    folder = output_dir / (MODEL if whole else ADAPTER)
    record["adapter_path"] = folder.as_posix()
    record["hub_model_id"] = trainer.hub_model_id if args.push_to_hub else None
    # Whole weights where each process has a part of them; asked for by all.
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped) if trainer.is_fsdp_enabled else None
    if trainer.is_world_process_zero():
        with replace_directory(folder) as new:
            model.save_pretrained(new, state_dict=weights)
            trainer.processing_class.save_pretrained(new)
            if built and not whole:
                model.get_base_model().config.save_pretrained(new)
            write_json(new / RECORD, {name: value for name, value in record.items() if name != "history"})
            record["adapter_bytes"] = sum(file.stat().st_size for file in new.glob("*.safetensors"))
            model_card(record, task).save(new / "README.md")
        plot_curves({record["method"]["method"]: record["history"]}, output_dir / "curves.png", task)
        write_json(output_dir / WHOLE_RECORD, record)
        write_report(output_dir, record, task)
        if args.push_to_hub:  # what Trainer pushed are checkpoints
            upload_folder(
                repo_id=trainer.hub_model_id, folder_path=folder, token=args.hub_token, commit_message="End of training"
            )
    return record


def task_metrics(task: Task, metrics: dict[str, float], split: str) -> dict[str, float]:
    """Returns loss and metrics of a task by their own names.

    Args:
        task: The task.
        metrics: As `Trainer.predict` and `Trainer.evaluate` return them.
        split: Their `metric_key_prefix`.
    """
    named = {name.removeprefix(f"{split}_"): value for name, value in metrics.items()}
    return {name: value for name, value in named.items() if name in ("loss", *task.metrics)}


def _model_class(model: PreTrainedModel) -> dict[str, str]:
    """Returns the name of a model's class, and where it is imported from."""
    package = type(model).__module__
    module = "transformers" if package.startswith("transformers.") else package
    return {"model_class": type(model).__name__, "model_module": module}
