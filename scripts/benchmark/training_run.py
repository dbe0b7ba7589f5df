"""Measures a training as typed beside the bare loop on tensors in memory, and beside transformers' example script.

    python -m scripts.benchmark training_run
    python -m scripts.benchmark training_run --images 1000 --steps 100 --rounds 1 --page docs/performance.md

A Swin-T of random weights is adapted on JPEGs of 1 to 4 megapixels, in turns by

- the bare loop: the model with Mona, the optimiser, and batches of noise in memory;
- `train image-classification` with Mona, and with LoRA;
- a stand-in for transformers' example script, with PEFT's LoRA (`example_run.py`).

All have the same model, batch size and number of steps, and all but the bare loop the same images and workers that read
them. A step is the wall time from the end of one to the end of the next, without the first ones; the training all from
its beginning to the end of the last step, in wall time and in processor time, that of the workers included.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from torch import nn
from transformers import (
    SwinConfig,
    SwinForImageClassification,
    TrainerCallback,
    TrainingArguments,
    ViTImageProcessorPil,
)

from mona_peft.tasks.models.methods import METHODS
from mona_peft.tasks.reporting.pages import fill_page, table
from mona_peft.tasks.training.arguments import parse_arguments
from mona_peft.tasks.training.records import write_json
from mona_peft.tasks.training.setup import find_training
from mona_peft.tasks.training.train import train
from scripts.benchmark.example_run import train_example
from scripts.benchmark.loader_inputs import photograph, with_torchvision
from scripts.benchmark.provenance import measured_on, surroundings

TASK = "image-classification"
CLASSES = ("left", "right")
WARMUP = 2
"""Steps that do not count, of all."""

TINY = SwinConfig(image_size=224, embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], num_labels=len(CLASSES))


class Moment(NamedTuple):
    """Seconds of wall time, and of processor time of this process and of its workers, living and ended."""

    wall: float
    processor: float

    @classmethod
    def now(cls) -> Moment:
        """Returns this moment."""
        process = psutil.Process()
        processes = [process, *process.children(recursive=True)]
        times = [found.cpu_times() for found in processes]
        ended = times[0].children_user + times[0].children_system
        return cls(time.perf_counter(), ended + sum(found.user + found.system for found in times))


class Ends(TrainerCallback):
    """Notes when a training begins, and when each step ends."""

    def __init__(self) -> None:
        self.moments: list[Moment] = []

    def on_train_begin(self, *arguments: Any, **more: Any) -> None:
        """Notes the beginning."""
        self.moments = [Moment.now()]

    def on_step_end(self, *arguments: Any, **more: Any) -> None:
        """Notes the end of a step."""
        self.moments.append(Moment.now())


def write_images(folder: Path, count: int) -> None:
    """Writes JPEGs of 1 to 4 megapixels into two class folders."""
    random = np.random.default_rng(0)
    for number in range(count):
        place = folder / CLASSES[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        width = int((random.uniform(1e6, 4e6) * 4 / 3) ** 0.5)
        photograph(place / f"{number}.jpg", (width, 3 * width // 4), number)


def typed(folder: Path, run: Path, args: argparse.Namespace, method: str) -> list[Moment]:
    """Trains as the command does; returns the beginning and the end of each step."""
    argv = ["--dataset", str(folder / "images"), "--model", str(folder / "model"), "--output_dir", str(run)]
    argv += ["--max_steps", str(args.steps), "--per_device_train_batch_size", str(args.batch_size), "--use_cpu"]
    argv += ["--dataloader_num_workers", str(args.workers), "--eval_strategy", "no", "--save_strategy", "no"]
    training, ends = find_training(TASK), Ends()
    argv += ["--method", method, "--report_to", "none"]
    train(training, *parse_arguments(training, argv, prog="train"), callbacks=[ends])
    return ends.moments


def example(folder: Path, run: Path, args: argparse.Namespace) -> list[Moment]:
    """Trains as transformers' example does, with LoRA; returns the beginning and the end of each step."""
    ends = Ends()
    settings = TrainingArguments(
        output_dir=str(run),
        max_steps=args.steps,
        per_device_train_batch_size=args.batch_size,
        dataloader_num_workers=args.workers,
        remove_unused_columns=False,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
    )
    train_example(folder / "images", folder / "model", settings, [ends])
    return ends.moments


def bare(folder: Path, run: Path, args: argparse.Namespace) -> list[Moment]:
    """Trains the same model on one batch in memory; returns the beginning and the end of each step."""
    argv = ["--dataset", "none", "--model", "none", "--output_dir", "none"]
    _, _, method_args, settings = parse_arguments(find_training(TASK), argv, prog="train")
    model = METHODS[method_args.method](SwinForImageClassification.from_pretrained(folder / "model"), method_args)
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, settings.learning_rate, fused=True)
    images, labels = torch.randn(args.batch_size, 3, 224, 224), torch.arange(args.batch_size) % len(CLASSES)
    moments = [Moment.now()]
    for _ in range(args.steps):
        model(pixel_values=images, labels=labels).loss.backward()
        nn.utils.clip_grad_norm_(trained, settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        moments.append(Moment.now())
    return moments


WAYS: dict[str, Callable[..., list[Moment]]] = {
    "bare loop, Mona": bare,
    "train, Mona": partial(typed, method="mona"),
    "train, LoRA": partial(typed, method="lora"),
    "example, LoRA": example,
}
BARE, EXAMPLE = "bare loop, Mona", "example, LoRA"
"""What the others are compared with."""


def figures(moments: Sequence[Moment]) -> dict[str, Any]:
    """Returns what a run took: the seconds of the steps that count, of the first step, and of all."""
    steps = [end.wall - start.wall for start, end in pairwise(moments)]
    wall, processor = (end - start for start, end in zip(moments[0], moments[-1], strict=True))
    return {"steps": steps[WARMUP:], "first_step": steps[0], "wall": wall, "processor": processor}


def ratios(runs: Mapping[str, Sequence[Mapping[str, Any]]], way: str, other: str) -> dict[str, float]:
    """Returns the medians over the rounds of a way's ratios to another, of a step's and a training's seconds."""
    pairs = list(zip(runs[way], runs[other], strict=True))
    found = {name: [a[name] / b[name] for a, b in pairs] for name in ("wall", "processor")}
    found["step"] = [statistics.median(a["steps"]) / statistics.median(b["steps"]) for a, b in pairs]
    return {name: statistics.median(values) for name, values in found.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--steps", type=int, default=12, help="of a training, the first ones included")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the model")
    parser.add_argument("--output", type=Path, default=Path("outputs/training_run.json"))
    parser.add_argument("--page", type=Path, help="page in which the table is to be replaced")
    args = parser.parse_args(arguments)
    if args.steps <= WARMUP:
        parser.error(f"--steps {args.steps}: more than {WARMUP} are needed, which do not count.")
    torch.set_num_threads(args.threads)
    ways = [way for way in WAYS if way in args.ways]
    record: dict[str, Any] = {
        "settings": {name: getattr(args, name) for name in ("images", "steps", "batch_size", "workers", "threads")},
        **surroundings(),
        "torchvision": with_torchvision() is not None,
        "runs": {way: [] for way in ways},
    }
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_images(folder / "images", args.images)
        SwinForImageClassification(TINY).save_pretrained(folder / "model")
        ViTImageProcessorPil().save_pretrained(folder / "model")
        for number in range(args.rounds):
            for way in ways[:: 1 if number % 2 == 0 else -1]:
                record["runs"][way].append(figures(WAYS[way](folder, folder / f"{way} {number}", args)))
        record["ratios"] = {f"{way} / {other}": ratios(record["runs"], way, other) for way in ways for other in ways}
        write_json(args.output, record)
    print("\n\n".join(tables(record).values()))
    if args.page is not None:
        fill_page(args.page, "training", tables(record))


def tables(record: Mapping[str, Any]) -> dict[str, str]:
    """Returns the table of a page, and where its figures come from."""
    runs, ratios_ = record["runs"], record["ratios"]
    others = [way for way in (BARE, EXAMPLE) if way in runs]
    compared = [f"{what} / {way.partition(',')[0]}'s" for way in others for what in ("step", "processor time")]
    rows = []
    for way, found in runs.items():
        step = statistics.median(seconds for run in found for seconds in run["steps"])
        totals = (statistics.median(run[name] for run in found) for name in ("wall", "processor"))
        relative = (ratios_[f"{way} / {other}"][name] for other in others for name in ("step", "processor"))
        rows.append([way, f"{step:.2f}", *(f"{total:.0f}" for total in totals), *(f"{r:.3f}" for r in relative)])
    header = ["", "a step, s", "training, s", "processor time, s", *compared]
    settings, transforms = record["settings"], "torchvision" if record["torchvision"] else "Pillow"
    source = (
        f"{settings['images']} JPEGs, {settings['steps']} steps of {settings['batch_size']} images, "
        f"{settings['workers']} workers, {settings['threads']} thread(s) for the model, "
        f"{len(next(iter(runs.values())))} round(s); the example's images by {transforms}; {measured_on(record)}."
    )
    return {"runs": table(header, rows), "provenance": source}


if __name__ == "__main__":
    main()
