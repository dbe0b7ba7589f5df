"""Arguments of a training: dataclasses, defaults from a recipe or a preset, and what stands on the command line."""

import difflib
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from transformers import HfArgumentParser, TrainingArguments

from mona_peft.tasks.models.arguments import MethodArguments
from mona_peft.tasks.models.methods import METHODS
from mona_peft.tasks.task import IMAGE_CLASSIFICATION, Task
from mona_peft.tasks.training.help import short_help
from mona_peft.tasks.training.presets import check_values, find_preset, read_preset
from mona_peft.tasks.training.recipes import Recipe, find_recipe, machine_settings
from mona_peft.tasks.training.setup import TaskTraining

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
    "remove_unused_columns": False,  # our datasets return what the model takes, and nothing else
}
"""Defaults of every training, where those of `TrainingArguments` do not suit adapters of vision models."""

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
    "head_learning_rate",
    "early_stopping_patience",
)
"""Those that are named only where they are not transformers' own."""

REPLACED = {
    "model_name_or_path": ("model_type", "model_config", "backbone"),
    "model_type": ("model_name_or_path", "model_config"),
    "backbone": ("model_name_or_path",),
}
"""Arguments that name a model, and those of a preset that each takes the place of when it is given by itself."""

EXAMPLES = {
    "image-classification": (
        "--model microsoft/swin-tiny-patch4-window7-224",
        "--model facebook/dinov2-small",
    ),
    "semantic-segmentation": (
        "--model openmmlab/upernet-swin-tiny",
        "--model nvidia/segformer-b0-finetuned-ade-512-512",
    ),
    "object-detection": (
        "--model_type rt_detr --backbone microsoft/swin-tiny-patch4-window7-224",
        "--model_type deformable_detr --backbone microsoft/swin-small-patch4-window7-224",
    ),
    "instance-segmentation": (
        "--model facebook/mask2former-swin-tiny-coco-instance",
        "--model facebook/mask2former-swin-small-coco-instance",
    ),
}
"""What is proposed where no model is given, by task: of the hub, with backbones that can be adapted."""


@dataclass
class FineTuningArguments(TrainingArguments):
    """`TrainingArguments`, and what fine-tuning wants besides."""

    recipe_note: ClassVar[str] = ""
    """What is said at the start of where the settings come from."""

    head_learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "Learning rate of what stands outside the backbone. Without it: that of all. Both follow one "
            "schedule."
        },
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={"help": "Stop after so many evaluations without a better one. Without it, all epochs are trained."},
    )
    stop_on_non_finite_loss: bool = field(
        default=True, metadata={"help": "Stop where the loss is no number any more, and name step and images."}
    )


def parse_arguments(
    training: TaskTraining,
    argv: Sequence[str] | None,
    *,
    prog: str,
    output_dir: str | None = None,
    default_preset: str | None = None,
) -> tuple[Any, ...]:
    """Parses the command line into arguments about model, data, method and training.

    Defaults are those of the recipe for task and method; with a preset, those of the preset instead.

    Args:
        training: How the task is trained.
        argv: The arguments without the program's name; None takes them from the command line.
        prog: What calls the program, in its help.
        output_dir: Default of `--output_dir`; None: it has to be given.
        default_preset: Preset that holds where neither `--preset` nor `--dataset` is given: that of a demonstration,
            which has data of its own. None: there is none, and data have to be given.

    Raises:
        ValueError: An argument is missing, unknown or not for this task, or there is no such preset, or it sets what it
            can't.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    types = (training.model_arguments, training.data_arguments, MethodArguments, FineTuningArguments)
    parser = HfArgumentParser(
        types,
        allow_abbrev=False,
        usage=f"{prog} --dataset DATA --model NAME_OR_FOLDER --output_dir FOLDER ...",
        description=f"Adapts a model for {training.task.name} to your images.",
    )
    parser.add_argument(
        "--preset",
        help="YAML file of arguments, by path or by name, in the place of the recipe. Arguments given here win.",
    )
    parser.set_defaults(output_dir=output_dir, metric_for_best_model=training.task.main_metric, **TRAINING_DEFAULTS)
    given = _given(argv)
    _check_flags(given)
    machine = machine_settings(on_cpu=given.use_cpu or not torch.accelerator.is_available())
    parser.set_defaults(**{name: value for name, value in machine.items() if name != "bf16" or not given.fp16})
    preset = given.preset or (default_preset if given.dataset is None else None)
    recipe = None
    if preset is not None:
        values = read_preset(find_preset(preset), types, parser)
        replaced = {other for name, others in REPLACED.items() if getattr(given, name) for other in others}
        parser.set_defaults(**{name: value for name, value in values.items() if name not in replaced})
    else:
        method = given.method if given.method in METHODS else MethodArguments().method  # argparse refuses others
        recipe = find_recipe(training.task, method)
        check_values(recipe.settings, f"The recipe {recipe.name}", types, parser)
        parser.set_defaults(**_fitting(recipe.settings, given))
    if {"-h", "--help"} & {*argv}:
        print(parser.format_help() if argv[-1] == "all" else short_help(parser))
        raise SystemExit(0)
    if parser.get_default("output_dir") is None and given.output_dir is None:
        raise ValueError("--output_dir is missing: the folder for checkpoints, adapter, metrics and model card.")
    *arguments, _, unknown = parser.parse_args_into_dataclasses(
        argv, look_for_args_file=False, return_remaining_strings=True
    )
    if unknown:
        raise ValueError(_unknown(unknown[0], parser))
    model_args, data_args, _, args = arguments
    if data_args.dataset is None and default_preset is None:
        raise ValueError("--dataset is missing: a folder of images, or the name of a dataset on the hub.")
    if model_args.base_model is None and getattr(model_args, "model_type", None):
        raise ValueError(
            f"--backbone is missing: --model_type {model_args.model_type} builds a new model around a pre-trained "
            "backbone, for instance --backbone facebook/dinov2-small."
        )
    if model_args.base_model is None:
        proposed = " or ".join(f"`{example}`" for example in EXAMPLES[training.task.command])
        raise ValueError(f"--model is missing: which pre-trained model is to be adapted? For instance {proposed}.")
    args.recipe_note = f"using preset {preset}" if recipe is None else _note(recipe, args)
    check_training_arguments(training.task, args)
    return tuple(arguments)


def check_training_arguments(task: Task, args: TrainingArguments) -> None:
    """Checks arguments that would otherwise have no effect, or fail within the training.

    Raises:
        ValueError: One is not for this task, or goes not together with another.
    """
    if args.label_smoothing_factor and task is not IMAGE_CLASSIFICATION:
        raise ValueError(
            f"--label_smoothing_factor {args.label_smoothing_factor}: for image-classification alone; the losses of "
            f"{task.command} know no smoothing. Leave it out."
        )
    patience = getattr(args, "early_stopping_patience", None)
    if patience is not None and not args.load_best_model_at_end:
        raise ValueError(
            f"--early_stopping_patience {patience}: it waits for a better checkpoint, so that the best one has to be "
            "kept: add --load_best_model_at_end true."
        )


def _given(argv: Sequence[str]) -> Namespace:
    """Returns what the command line says of the arguments that decide about others."""
    first = ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--model_name_or_path", "--model")
    for name in ("preset", "dataset", "backbone", "model_type", "method", "output_dir"):
        first.add_argument(f"--{name}")
    for name in ("eval_strategy", "eval_steps", "save_strategy"):
        first.add_argument(f"--{name}")
    for name in ("do_train", "do_eval", "do_predict", "use_cpu", "fp16"):
        first.add_argument(f"--{name}", nargs="?", const=True, type=lambda text: text.lower() in ("true", "1", "yes"))
    return first.parse_known_args(argv)[0]


def _check_flags(given: Namespace) -> None:
    """Refuses to train where that is not what is asked for."""
    if given.do_train is False or (given.do_train is None and (given.do_eval or given.do_predict)):
        asked = "--do_train false" if given.do_train is False else "--do_eval" if given.do_eval else "--do_predict"
        raise ValueError(
            f"{asked}: this command trains, evaluating as it goes on. What a run has trained is measured by `mona-peft "
            "evaluate RUN --dataset DATA`, and used by `mona-peft predict RUN IMAGES --output_dir FOLDER`."
        )


def _fitting(settings: dict[str, Any], given: Namespace) -> dict[str, Any]:
    """Returns a recipe's settings, without the best checkpoint where none can be told from the others.

    Where checkpoints are evaluated decides where they are written, unless that is said, too.
    """
    evaluated = given.eval_strategy or TRAINING_DEFAULTS["eval_strategy"]
    saved = given.save_strategy or (evaluated if evaluated != "no" else TRAINING_DEFAULTS["save_strategy"])
    best = evaluated == saved != "no" or (saved == "best" and evaluated != "no")
    fitting = {
        **settings,
        "load_best_model_at_end": settings["load_best_model_at_end"] and best,
        "save_strategy": saved,
    }
    if given.eval_steps is not None:
        fitting["save_steps"] = float(given.eval_steps)
    return fitting


def _note(recipe: Recipe, args: TrainingArguments) -> str:
    rate = recipe.settings["learning_rate"]
    source = recipe.source if args.learning_rate == rate else f"given; the recipe's is {rate:g}"
    length = f"{args.max_steps} steps" if args.max_steps > 0 else f"{args.num_train_epochs:g} epochs"
    precision = "bfloat16" if args.bf16 else "float16" if args.fp16 else "float32"
    return (
        f"using recipe {recipe.name}: learning rate {args.learning_rate:g} ({source}), {length}, batches of "
        f"{args.per_device_train_batch_size} a device, {args.lr_scheduler_type.value} schedule, {precision}"
    )


def _unknown(argument: str, parser: ArgumentParser) -> str:
    options = [option for action in parser._actions for option in action.option_strings]
    close = difflib.get_close_matches(argument.partition("=")[0], options, n=1)
    hint = f" Is {close[0]} meant?" if close else ""
    return f"{argument}: no such argument.{hint} (--help shows those that matter, --help all every one.)"


def recipe(args: TrainingArguments) -> dict[str, Any]:
    """Returns the arguments that decide what comes out of a training: `RECIPE`, and of the others what was changed."""
    values, fields = args.to_dict(), FineTuningArguments.__dataclass_fields__
    if not args.load_best_model_at_end:  # then they decide nothing
        values |= {"metric_for_best_model": None, "greater_is_better": None}
    changed = [name for name in RECIPE_IF_CHANGED if values.get(name) not in (fields[name].default, None, {}, "")]
    return {name: values[name] for name in (*RECIPE, *changed)}
