"""What a training leaves in its output directory: what was trained, its card, curves, report and record."""

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
from mona_peft.tasks.reporting.pictures import PredictionPictures
from mona_peft.tasks.reporting.plots import plot_curves
from mona_peft.tasks.reporting.report import write_evaluation, write_report
from mona_peft.tasks.reporting.training_images import write_training_images
from mona_peft.tasks.task import Task
from mona_peft.tasks.trained import ADAPTER, MODEL, RECORD, WHOLE_RECORD
from mona_peft.tasks.training.arguments import recipe
from mona_peft.tasks.training.evaluations import Evaluation, KnownEvaluations
from mona_peft.tasks.training.records import hardware, parameter_counts, peak_memory, software, write_json
from mona_peft.tasks.training.run_directory import begin, check_same_weights, replace_directory
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


class Run:
    """What is written to the output directory of a training, before it and after it.

        run = Run(TRAINING, arguments, trainer, images, data, checkpoint)
        trainer.train(resume_from_checkpoint=checkpoint)
        record, predictions = run.evaluate_and_save()

    Args:
        training: How the task is trained.
        arguments: About model, data and method.
        trainer: Its `processing_class` is the image processor.
        images: By split: `train`, `validation` and, where there is one, `test`.
        data: What they were made of.
        checkpoint: To go on from.

    Raises:
        ValueError: The checkpoint holds other weights than the model trains.
    """

    def __init__(
        self,
        training: TaskTraining,
        arguments: tuple[ModelArguments, SplitArguments, MethodArguments],
        trainer: Trainer,
        images: Mapping[str, ImageDataset],
        data: Data,
        checkpoint: str | None = None,
    ) -> None:
        self.training, self.trainer, self.images, self.data = training, trainer, images, data
        self.task = data.task or training.task
        self.model_args = arguments[0]
        self.settings = settings_of(*arguments, trainer.args)
        self.output_dir = Path(trainer.args.output_dir)
        if checkpoint is not None:
            check_same_weights(checkpoint, trainer.model)
        if trainer.is_world_process_zero():
            begin(trainer.args, self.settings, checkpoint)
            write_training_images(self.output_dir, images["train"], data.classes)
            if note := getattr(trainer.args, "recipe_note", ""):
                print(note, flush=True)
        self.known = KnownEvaluations(self._details)
        trainer.add_callback(self.known)
        self.pictures = self._pictures()
        if self.pictures is not None:
            trainer.add_callback(self.pictures)
        self._add_pictures("before training")

    def evaluate_and_save(self) -> TrainingRun:
        """Evaluates, and saves what was trained, with the image processor and a card, its curves and a record.

        An adapter is saved to `adapter/` in the output directory, a model that was trained whole to `model/`; the
        record is `metrics.json`. What was evaluated within the training is not evaluated again.
        """
        self._add_pictures("after training")
        trainer, args = self.trainer, self.trainer.args
        evaluation = self.known.of_result(args, trainer.state)
        if evaluation is None:
            metrics = trainer.predict(self.images["validation"], metric_key_prefix="eval").metrics
            evaluation = (metrics, *self._details())
        results = {"validation": self._result("validation", evaluation)}
        details, test_output = {"validation": evaluation[1]}, None
        if "test" in self.images:
            test_output = trainer.predict(self.images["test"], metric_key_prefix="test")
            evaluation = (test_output.metrics, *self._details())
            results["test"], details["test"] = self._result("test", evaluation), evaluation[1]
        return self._save(self._record(results, details)), test_output

    def _pictures(self) -> PredictionPictures | None:
        # A model whose weights are shared out predicts on all processes or on none, and before training on none.
        shared_out = self.trainer.is_fsdp_enabled or self.trainer.is_deepspeed_enabled
        if self.training.make_pictures is None or shared_out:
            return None
        return self.training.make_pictures(self.trainer, self.images["validation"], self.data.classes)

    def _add_pictures(self, title: str) -> None:
        if self.pictures is not None and self.trainer.is_world_process_zero():
            self.pictures.add(title)

    def _details(self) -> tuple[dict[str, Any], Evaluated]:
        """Returns what record and report say of the last evaluation beside its metrics."""
        found = self.training.details(self.trainer) if self.training.details else {}
        return found, evaluated_by(self.trainer)

    def _result(self, split: str, evaluation: Evaluation) -> dict[str, float]:
        """Returns the metrics of a split, and writes its part of the report."""
        metrics, _, evaluated = evaluation
        result = task_metrics(self.task, metrics, "eval" if split == "validation" else split)
        if self.trainer.is_world_process_zero():
            shown = DETAILS[self.task.command](evaluated, self.images[split], self.data.classes)
            write_evaluation(self.output_dir, split, self.task, result, shown)
        return result

    def _record(self, results: dict[str, dict[str, float]], details: dict[str, dict[str, Any]]) -> dict[str, Any]:
        model, args, settings = self.trainer.model, self.trainer.args, self.settings
        return {
            "task": self.task.name,
            **_model_class(model.get_base_model() if isinstance(model, PeftModel) else model),
            "base_model": self.model_args.base_model,
            "model": settings["model"],
            "dataset": self.data.name,
            "classes": list(self.data.classes),
            "problem_type": getattr(model.config, "problem_type", None),
            "num_images": {split: len(rows) for split, rows in self.images.items()},
            "data": settings["data"],
            "results": results,
            **_by_name(details),
            "method": settings["method"],
            "recipe": getattr(args, "recipe_note", ""),
            "training": recipe(args),
            "seed": args.seed,
            "parameters": parameter_counts(model),
            "software": software(),
            "hardware": hardware(args.device, args.world_size),
            "peak_memory": peak_memory(args.device),
            "history": self.trainer.state.log_history,
        }

    def _save(self, record: dict[str, Any]) -> dict[str, Any]:
        """Saves what was trained, and the record, which is returned with what is known after that."""
        trainer, args, model = self.trainer, self.trainer.args, self.trainer.model
        whole = isinstance(model, PreTrainedModel)
        folder = self.output_dir / (MODEL if whole else ADAPTER)
        record["adapter_path"] = folder.as_posix()
        record["hub_model_id"] = trainer.hub_model_id if args.push_to_hub else None
        # Whole weights where each process has a part of them; asked for by all.
        weights = trainer.accelerator.get_state_dict(trainer.model_wrapped) if trainer.is_fsdp_enabled else None
        if not trainer.is_world_process_zero():
            return record
        with replace_directory(folder) as new:
            model.save_pretrained(new, state_dict=weights)
            trainer.processing_class.save_pretrained(new)
            if self.model_args.model_name_or_path is None and not whole:  # built, not loaded
                model.get_base_model().config.save_pretrained(new)
            write_json(new / RECORD, {name: value for name, value in record.items() if name != "history"})
            record["adapter_bytes"] = sum(file.stat().st_size for file in new.glob("*.safetensors"))
            model_card(record, self.task).save(new / "README.md")
        plot_curves({record["method"]["method"]: record["history"]}, self.output_dir / "curves.png", self.task)
        write_json(self.output_dir / WHOLE_RECORD, record)
        write_report(self.output_dir, record, self.task)
        if args.push_to_hub:  # what Trainer pushed are checkpoints
            upload_folder(
                repo_id=trainer.hub_model_id, folder_path=folder, token=args.hub_token, commit_message="End of training"
            )
        return record


def _by_name(details: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns what was found by split as values by split, by their names."""
    names = {name for found in details.values() for name in found}
    return {name: {split: found[name] for split, found in details.items() if name in found} for name in sorted(names)}


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
