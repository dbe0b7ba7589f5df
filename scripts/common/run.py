"""The end of every training script: the record of the run, what was trained, its card and its curves, saved."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import BaseImageProcessor, PreTrainedConfig, PreTrainedModel, Trainer, TrainingArguments

from scripts.common.arguments import MethodArguments, recipe
from scripts.common.methods import METHODS
from scripts.common.model_card import model_card
from scripts.common.plots import plot_curves
from scripts.common.records import hardware, parameter_counts, software, write_json
from scripts.common.run_directory import replace_directory
from scripts.common.tasks import Task


def run_script(train: Callable[..., dict[str, Any]], arguments: Sequence[Any]) -> None:
    """Runs a training script and prints what came out.

    Args:
        train: Takes the arguments, trains and returns the record of the run.
        arguments: Parsed; `TrainingArguments` last.
    """
    output_dir = arguments[-1].output_dir
    try:
        record = train(*arguments)
    except KeyboardInterrupt:
        raise SystemExit(
            f"Interrupted. `--resume_from_checkpoint last` goes on from the newest checkpoint in {output_dir}."
        ) from None
    print(json.dumps(record["results"], indent=2))
    print(f"What was trained, its card, curves and metrics are in {output_dir}.")


def task_metrics(task: Task, metrics: dict[str, float], split: str) -> dict[str, float]:
    """Returns loss and metrics of a task by their own names.

    Args:
        task: The task.
        metrics: As `Trainer.predict` and `Trainer.evaluate` return them.
        split: Their `metric_key_prefix`.
    """
    named = {name.removeprefix(f"{split}_"): value for name, value in metrics.items()}
    return {name: value for name, value in named.items() if name in ("loss", *task.metrics)}


def adapter_dir(args: TrainingArguments) -> Path:
    """Returns the folder for the adapter that a run has trained."""
    return Path(args.output_dir, "adapter")


def model_dir(args: TrainingArguments) -> Path:
    """Returns the folder for a model that a run has trained whole."""
    return Path(args.output_dir, "model")


def _model_class(model: PreTrainedModel) -> dict[str, str]:
    """Returns the name of a model's class, and where it is imported from."""
    package = type(model).__module__
    module = "transformers" if package.startswith("transformers.") else package
    return {"model_class": type(model).__name__, "model_module": module}


def save_run(
    trainer: Trainer,
    task: Task,
    method_args: MethodArguments,
    image_processor: BaseImageProcessor,
    record: dict[str, Any],
    base_config: PreTrainedConfig | None = None,
) -> dict[str, Any]:
    """Saves what a run has trained, with the image processor and a card, its curves and `metrics.json`.

    An adapter is saved to `adapter/` in the output directory, a model that was trained whole to `model/`.

    Args:
        trainer: After training.
        task: What was trained for.
        method_args: The method and its settings.
        image_processor: Of the model.
        record: What the script itself knows: `base_model`; `load_base`, the lines of Python that assign the base model
            to `base`, their imports first; `dataset`, as a person reads it; `classes`, `num_images` by split, `data`,
            `results` by split.
        base_config: Of a base model that was built and not loaded; saved beside the adapter.

    Returns:
        The whole record, as in `metrics.json`.
    """
    args, model = trainer.args, trainer.model
    whole = isinstance(model, PreTrainedModel)
    output_dir, folder = Path(args.output_dir), model_dir(args) if whole else adapter_dir(args)
    record = {
        "task": task.name,
        **_model_class(model.get_base_model() if isinstance(model, PeftModel) else model),
        **record,
        "method": {"method": method_args.method, **METHODS[method_args.method].settings(method_args)},
        "training": recipe(args),
        "seed": args.seed,
        "parameters": parameter_counts(model),
        "adapter_path": folder.as_posix(),
        "software": software(),
        "hardware": hardware(),
        "history": trainer.state.log_history,
    }
    if trainer.is_world_process_zero():
        with replace_directory(folder) as new:
            model.save_pretrained(new)
            image_processor.save_pretrained(new)
            if base_config is not None and not whole:
                base_config.save_pretrained(new)
            record["adapter_bytes"] = sum(file.stat().st_size for file in new.glob("*.safetensors"))
            model_card(record, task).save(new / "README.md")
        plot_curves({method_args.method: record["history"]}, output_dir / "curves.png", task)
        write_json(output_dir / "metrics.json", record)
    return record
