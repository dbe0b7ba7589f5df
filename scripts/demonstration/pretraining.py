"""What the pre-trainings of the demonstration models share: their arguments, and the form in which models are kept."""

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import Dataset
from transformers import (
    HfArgumentParser,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.utils import SAFE_WEIGHTS_NAME

from mona_peft.integration.selection import backbone_of
from mona_peft.tasks.task import Task
from mona_peft.tasks.training.arguments import recipe
from mona_peft.tasks.training.records import hardware, software, write_json
from mona_peft.tasks.training.run import task_metrics
from mona_peft.tasks.training.run_directory import find_checkpoint, replace_directory
from scripts.demonstration.photographs import PHOTOGRAPHS
from scripts.demonstration.scenes import MAX_OBJECTS, LetterScenes, Scene
from scripts.demonstration.symbols import CLASSES, FONTS

DEFAULTS: dict[str, Any] = {
    "train_sampling_strategy": "sequential",  # from easy to hard
    "weight_decay": 0.05,
    "max_grad_norm": 5.0,
    "bf16": True,
    "use_cpu": not torch.cuda.is_available(),
    "dataloader_num_workers": 1,
    "save_strategy": "steps",
    "save_steps": 500,
    "save_total_limit": 1,
    "logging_steps": 50,
    "remove_unused_columns": False,
}
"""Defaults of every pre-training, where those of `TrainingArguments` do not suit it."""

BACKBONE = os.path.relpath(Path(__file__).parent / "backbone_narrow")
"""Folder of the demonstration backbone from which the dense demonstration models start. The narrow one tells symbols
and digits apart better than the other, is quicker, and leaves room for a head within six megabytes."""

BACKBONE_RATE = 0.05
"""Learning rate of the backbone as a share of the head's. At 0.2 the wide backbone forgot: the digits that a linear
classifier tells apart by its last stage, averaged over each digit, fell from 44 % to 30 % in Mask2Former and to 27 % in
UPerNet, both trained on groups of symbols."""

SCENES_CARD = f"""\
- **Data**: scenes of one to {MAX_OBJECTS} capital letters in {{num_fonts}} fonts that ship with matplotlib,
  of various sizes and colours, overlapping, over crops of {{num_photographs}} photographs that ship with
  scikit-image ({{photographs}}). Every scene is drawn anew: {{num_pictures:,}} in all, the first ones plain and on even
  grounds."""
"""Of the cards of the dense models, as `save_demonstration_model` takes them: the paragraph on what they have seen."""

MINUTES = "minutes"


def parse(
    argv: Sequence[str] | None, defaults: dict[str, Any], arguments: type[TrainingArguments] = TrainingArguments
) -> TrainingArguments:
    """Parses the arguments of a pre-training.

    Args:
        argv: The arguments without the program's name; None takes them from the command line.
        defaults: Of this pre-training, where they are not `DEFAULTS`.
        arguments: Their class, where a pre-training has some of its own.
    """
    parser = HfArgumentParser(arguments, allow_abbrev=False)
    parser.set_defaults(**{**DEFAULTS, **defaults})
    (args,) = parser.parse_args_into_dataclasses(argv, look_for_args_file=False)
    return args


def num_pictures(args: TrainingArguments) -> int:
    """Returns how many pictures a pre-training sees; it sees none twice."""
    return args.max_steps * args.train_batch_size * args.gradient_accumulation_steps * args.world_size


class LetterSceneInputs(Dataset):
    """Scenes of printed letters, drawn anew each time, as a model takes them: as many as a pre-training sees.

    Args:
        args: Of the pre-training.
        ramp: As in `LetterScenes`.
        inputs: From a scene and its number to what the model takes.
    """

    def __init__(
        self, args: TrainingArguments, ramp: tuple[int, int], inputs: Callable[[Scene, int], dict[str, Any]]
    ) -> None:
        self.scenes = LetterScenes(seed=args.seed, ramp=ramp)
        self.length = num_pictures(args)
        self.inputs = inputs

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.inputs(self.scenes.scene(index), index)


def training_card(script: str) -> str:
    """Returns the last paragraphs of a dense model's card, in the form of `SCENES_CARD`.

    Args:
        script: Name of the module that trains the model.
    """
    backbone = Path(BACKBONE).name
    return f"""\
- **Training**: from `scripts/demonstration/{backbone}`, all parameters, the backbone at {BACKBONE_RATE} of the
  learning rate, {{steps:,}} steps of {{batch_size}}, seed {{seed}}, {{minutes:.0f}} minutes on {{num_threads}}
  thread(s) of a CPU that other work shared. Command: `python -m scripts.demonstration.{script}`;
  settings and versions are in `training.json`.
- **Files**: the weights are stored in float16 and loaded in float32."""


def optimizer_with_slow_backbone(model: PreTrainedModel, args: TrainingArguments) -> torch.optim.Optimizer:
    """Returns AdamW whose learning rate for the backbone is `BACKBONE_RATE` of the others'.

    A backbone that has learnt already forgets at the head's rate by what symbols are told apart, and so most of what
    digits could be recognised by.
    """
    prefix = f"{backbone_of(model)}."
    inner = [parameter for name, parameter in model.named_parameters() if name.startswith(prefix)]
    outer = [parameter for name, parameter in model.named_parameters() if not name.startswith(prefix)]
    groups = [{"params": outer}, {"params": inner, "lr": BACKBONE_RATE * args.learning_rate}]
    return torch.optim.AdamW(groups, lr=args.learning_rate, weight_decay=args.weight_decay)


def pretrain(
    argv: Sequence[str] | None,
    defaults: dict[str, Any],
    make_trainer: Callable[[TrainingArguments], Trainer],
    task: Task,
    name: str,
    card: str,
    arguments: type[TrainingArguments] = TrainingArguments,
) -> None:
    """Runs a pre-training: trains, evaluates, saves and prints what came out.

    Args:
        argv: The arguments without the program's name; None takes them from the command line.
        defaults: Of this pre-training, where they are not `DEFAULTS`.
        make_trainer: Makes the trainer of a new model, with a `Stopwatch`.
        task: What the model is trained for.
        name: Of the model's folder in the output directory.
        card: As in `save_demonstration_model`.
        arguments: As in `parse`.
    """
    args = parse(argv, defaults, arguments)
    checkpoint = find_checkpoint(args)
    set_seed(args.seed)
    trainer = make_trainer(args)
    trainer.train(resume_from_checkpoint=checkpoint)
    results = task_metrics(task, trainer.evaluate(), "eval")
    save_demonstration_model(Path(args.output_dir, name), trainer, results, card)
    print(json.dumps(results, indent=2))


class Stopwatch(TrainerCallback):
    """Adds to everything that is logged how many minutes the training has taken, interruptions left out."""

    started: float | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Starts at the minutes of the checkpoint, if there is one."""
        before = max((entry[MINUTES] for entry in state.log_history if MINUTES in entry), default=0.0)
        self.started = time.monotonic() - 60 * before

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Adds the minutes, unless a model is only evaluated."""
        if self.started is not None:
            state.log_history[-1][MINUTES] = (time.monotonic() - self.started) / 60


def save_demonstration_model(folder: Path, trainer: Trainer, results: dict[str, float], card: str) -> None:
    """Saves a pre-trained model with weights in float16, its image processor, `training.json` and a card.

    Args:
        folder: Where to; a model that is there is replaced.
        trainer: After training, with a `Stopwatch` and the image processor.
        results: Metrics of the model.
        card: Text of the card, with `{parameters}`, `{steps}` and the like, and with the names of the metrics.
    """
    if not trainer.is_world_process_zero():
        return
    args, model = trainer.args, trainer.model
    minutes = max(entry[MINUTES] for entry in trainer.state.log_history if MINUTES in entry)
    record = {
        "results": results,
        "num_pictures": num_pictures(args),
        "minutes": round(minutes, 1),
        "training": recipe(args),
        "seed": args.seed,
        "software": software(),
        "hardware": hardware(args.device, args.world_size),
        "history": trainer.state.log_history,
    }
    facts = {
        "args": args,
        "parameters": model.num_parameters(),
        "num_classes": len(CLASSES),
        "classes": " ".join(CLASSES),
        "num_fonts": len(FONTS),
        "num_photographs": len(PHOTOGRAPHS["pretraining"]),
        "photographs": ", ".join(PHOTOGRAPHS["pretraining"]),
        "num_pictures": num_pictures(args),
        "steps": args.max_steps,
        "batch_size": args.train_batch_size,
        "seed": args.seed,
        "minutes": minutes,
        "num_threads": torch.get_num_threads(),
    }
    with replace_directory(folder) as new:
        model.save_pretrained(new)
        store_in_half_precision(new)
        trainer.processing_class.save_pretrained(new)
        write_json(new / "training.json", record)
        (new / "README.md").write_text(card.format(**facts, **results), encoding="utf-8")


def store_in_half_precision(folder: Path) -> None:
    """Rewrites the weights of a saved model in float16; its config still says float32, which loads them so."""
    path = folder / SAFE_WEIGHTS_NAME
    weights = {name: value.half() if value.is_floating_point() else value for name, value in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
