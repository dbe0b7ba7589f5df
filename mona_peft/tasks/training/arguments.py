"""Command-line arguments of the training scripts: small dataclasses, one table of defaults, and presets as YAML files.

A preset holds names and values of arguments. It replaces defaults only, so that what stands on the command line wins.
(The argument files that `HfArgumentParser` reads by itself allow no comments, and one that is missing goes unnoticed.)
"""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments

PRESETS = Path(__file__).resolve().parents[3] / "scripts" / "presets"

TRAINING_DEFAULTS: dict[str, Any] = {
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 2,
    "logging_steps": 10,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.1,  # below 1: a share of all steps
    "weight_decay": 0.05,
    "max_grad_norm": 5.0,
    "use_cpu": not torch.accelerator.is_available(),  # without it transformers refuses bf16 where there is no device
    "remove_unused_columns": False,  # our datasets return what the model takes, and nothing else
}
"""Defaults of every script, where those of `TrainingArguments` do not suit adapters of vision models."""

RECIPE = (
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "optim",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "label_smoothing_factor",
    "bf16",
    "fp16",
)
"""Training arguments that decide what comes out of a training; records and model cards name them."""

RECIPE_IF_CHANGED = (
    "lr_scheduler_kwargs",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "optim_args",
    "data_seed",
    "dataloader_drop_last",
    "load_best_model_at_end",
    "metric_for_best_model",
    "greater_is_better",
    "neftune_noise_alpha",
)
"""Those that are named only where they are not transformers' own."""

REPLACED = {
    "model_name_or_path": ("model_type", "model_config", "backbone"),
    "model_type": ("model_name_or_path", "model_config"),
    "backbone": ("model_name_or_path",),
}
"""Arguments that name a model, and those of a preset that each takes the place of when it is given by itself."""


def find_preset(name_or_path: str) -> Path:
    """Returns the file of a preset, given by its name (a file in `scripts/presets`) or its path.

    Raises:
        ValueError: There is no such preset; names those there are.
    """
    for path in (Path(name_or_path), PRESETS / f"{name_or_path}.yaml"):
        if path.is_file():
            return path
    names = ", ".join(sorted(path.stem for path in PRESETS.glob("*.yaml")))
    raise ValueError(f"--preset {name_or_path}: neither a file nor the name of a preset. Presets are: {names}.")


def parse_arguments(
    dataclass_types: Sequence[type], argv: Sequence[str] | None, *, output_dir: str, default_preset: str
) -> tuple[Any, ...]:
    """Parses the command line into one instance of each dataclass.

    Args:
        dataclass_types: Dataclasses as `HfArgumentParser` takes them.
        argv: The arguments without the program's name; None takes them from the command line.
        output_dir: Default of `--output_dir`.
        default_preset: Preset that holds where neither `--preset` nor `--dataset` is given.

    Raises:
        ValueError: There is no such preset, or it sets an argument that the script does not have, or to a value that
            this does not take.
    """
    first = ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset")
    first.add_argument("--dataset")
    for name in REPLACED:
        first.add_argument(f"--{name}")
    chosen, _ = first.parse_known_args(argv)
    preset = chosen.preset or (default_preset if chosen.dataset is None else None)

    parser = HfArgumentParser(dataclass_types, allow_abbrev=False)
    parser.add_argument(
        "--preset",
        help="YAML file of arguments, by path or by name in scripts/presets; arguments given here win. "
        f"Without --dataset: {default_preset}.",
    )
    parser.set_defaults(output_dir=output_dir, **TRAINING_DEFAULTS)
    if preset is not None:
        path = find_preset(preset)
        values = _read_preset(path, dataclass_types, parser)
        given = [name for name in REPLACED if getattr(chosen, name) is not None]
        replaced = {other for name in given for other in REPLACED[name]}
        parser.set_defaults(**{name: value for name, value in values.items() if name not in replaced})
    *arguments, _ = parser.parse_args_into_dataclasses(argv, look_for_args_file=False)
    return tuple(arguments)


def _read_preset(path: Path, dataclass_types: Sequence[type], parser: ArgumentParser) -> dict[str, Any]:
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ValueError(f"{path} is no preset: lines of `argument: value` are needed.")
    known = {name for dataclass_type in dataclass_types for name in dataclass_type.__dataclass_fields__}
    if unknown := sorted(values.keys() - known):
        raise ValueError(f"{path} sets {', '.join(unknown)}: this script has no such arguments (see --help).")
    for action in parser._actions:  # argparse itself checks no defaults
        if action.choices is None or action.dest not in values:
            continue
        value = values[action.dest]
        if not {*(value if isinstance(value, list) else [value])} <= {*action.choices}:
            raise ValueError(f"{path} sets {action.dest}: {value}. It takes {', '.join(map(str, action.choices))}.")
    return values


def recipe(args: TrainingArguments) -> dict[str, Any]:
    """Returns the arguments that decide what comes out of a training: `RECIPE`, and of the others what was changed."""
    values, fields = args.to_dict(), TrainingArguments.__dataclass_fields__
    changed = [name for name in RECIPE_IF_CHANGED if values[name] not in (fields[name].default, None, {}, "")]
    return {name: values[name] for name in (*RECIPE, *changed)}
