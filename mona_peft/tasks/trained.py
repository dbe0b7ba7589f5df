"""What a run has trained, loaded again from its output directory or from the hub: `mona_peft.load`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from peft import PeftModel
from transformers import BaseImageProcessor, PreTrainedModel

from mona_peft.integration.heads import without_lists
from mona_peft.integration.pipelines import accept_adapters_in_pipelines
from mona_peft.tasks.models.arguments import DenseModelArguments
from mona_peft.tasks.models.image_processors import AutoImageProcessor
from mona_peft.tasks.models.loading import load_whole, rebuild_base
from mona_peft.tasks.task import Task, find_task

RECORD = "run.json"
"""File beside the weights that says what they belong to."""

WHOLE_RECORD = "metrics.json"
"""The record of a run in its output directory, with its history; those of older versions have no other."""

ADAPTER, MODEL = "adapter", "model"
"""Folders in an output directory: of an adapter and head, or of a model that was trained whole."""

WANTED = ("*.json", "*.safetensors", "README.md")
CHECKPOINTS = ("checkpoint-*", "*/checkpoint-*", "last-checkpoint/*")


@dataclass
class TrainedRun:
    """A trained model, and what is needed to use it.

    Attributes:
        model: Base model, adapter and head, or the model that was trained whole; in evaluation mode, on the CPU.
        image_processor: Prepares images for the model, and turns its outputs into predictions.
        labels: Names of the classes, by their numbers.
        task: What was trained for; `task.command` is its name on the command line.
        method: How it was trained, as `--method` takes it.
        settings: How images were read and prepared: the arguments of the command about data, by name.
        record: All that the run has noted: base model, results, training arguments, versions.
        folder: Where it was loaded from.
    """

    model: PeftModel | PreTrainedModel
    image_processor: BaseImageProcessor
    labels: list[str]
    task: Task
    method: str
    settings: dict[str, Any] = field(repr=False)
    record: dict[str, Any] = field(repr=False)
    folder: Path


def load_run(run: str | Path, base_model: str | None = None, revision: str | None = None) -> TrainedRun:
    """Loads what a run has trained.

    Args:
        run: An output directory, the folder `adapter` or `model` in it, or the name of a repository on the hub.
        base_model: Where the pre-trained model (or backbone) is now, if it is not where it was in training.
        revision: Branch, tag or commit of a repository on the hub.

    Raises:
        ValueError: There is no such run, it has not ended, or its base model is not to be found.
    """
    folder = _folder(run, revision)
    record = _record(folder)
    task = find_task(record["task"])
    if (folder / "adapter_config.json").is_file():
        base = _base(task, record, folder, base_model)
        if record.get("problem_type"):  # no adapter says whether an image may show several classes
            base.config.problem_type = record["problem_type"]
        with without_lists(base):
            model = PeftModel.from_pretrained(base, folder)
    else:
        model = load_whole(task, folder)
    accept_adapters_in_pipelines()
    return TrainedRun(
        model=model.eval(),
        image_processor=AutoImageProcessor.from_pretrained(folder),
        labels=list(record["classes"]),
        task=task,
        method=record["method"]["method"],
        settings=record["data"],
        record=record,
        folder=folder,
    )


def _folder(run: str | Path, revision: str | None) -> Path:
    """Returns the local folder of the weights."""
    path = Path(run)
    if not path.is_dir():
        try:
            snapshot = snapshot_download(
                str(run), revision=revision, allow_patterns=WANTED, ignore_patterns=CHECKPOINTS
            )
            path = Path(snapshot)
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            raise ValueError(
                f"{run}: neither a folder here nor a repository that the hub returns. Check the name, and the "
                f"connection if it is on the hub. ({error})"
            ) from error
    candidates = [path / ADAPTER, path / MODEL, path]
    for candidate in candidates:
        if any((candidate / name).is_file() for name in ("adapter_config.json", "config.json")):
            return candidate
    checkpoints = any(path.glob("checkpoint-*"))
    hint = (
        "Its training has not ended: the command that started it goes on with `--resume_from_checkpoint last`."
        if checkpoints
        else f"It needs {ADAPTER}/ or {MODEL}/, as `mona-peft train` leaves them."
    )
    raise ValueError(f"{run}: no trained model in this folder. {hint}")


def _record(folder: Path) -> dict[str, Any]:
    paths = (folder / RECORD, folder.parent / WHOLE_RECORD)
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise ValueError(
            f"{folder} has no {RECORD}, which says what its weights were trained for. Weights that were not saved by "
            "`mona-peft train` are loaded by `peft.PeftModel.from_pretrained`, onto a base model of your own."
        )
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if missing := [key for key in ("task", "classes", "method", "model", "data") if key not in record]:
            raise ValueError(f"it lacks {', '.join(missing)}")
    except ValueError as error:
        raise ValueError(f"{path} is no record of a run ({error}).") from error
    return record


def _base(task: Task, record: dict[str, Any], folder: Path, base_model: str | None) -> PreTrainedModel:
    """Returns the model that the adapter was trained on."""
    args = DenseModelArguments(**record["model"])
    args.attn_implementation = None  # chosen for the machine that trained
    if base_model is not None:
        where = "backbone" if args.model_name_or_path is None else "model_name_or_path"
        setattr(args, where, base_model)
    try:
        return rebuild_base(task, args, record["classes"], folder)
    except ValueError as error:
        raise ValueError(
            f"The adapter in {folder} needs the pre-trained model that it was trained on. {error} If it is somewhere "
            "else now, say where: mona_peft.load(..., base_model=NAME_OR_FOLDER)."
        ) from error
