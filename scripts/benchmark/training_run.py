"""Measures a training as typed beside the bare loop on tensors in memory: what reading images and the rest of it cost.

    python -m scripts.benchmark training_run
    python -m scripts.benchmark training_run --steps 6 --rounds 1

`train image-classification` adapts a Swin-T of random weights with Mona, on JPEGs of 1 to 4 megapixels, with two
workers that read them; the bare loop has the same adapted model, optimiser and batches of noise. Both run in turns, and
a step is the wall time from the end of one to the end of the next, without the first ones.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import SwinConfig, SwinForImageClassification, TrainerCallback, ViTImageProcessorPil

from mona_peft.tasks.models.methods import METHODS
from mona_peft.tasks.training.arguments import parse_arguments
from mona_peft.tasks.training.records import hardware, software, write_json
from mona_peft.tasks.training.setup import find_training
from mona_peft.tasks.training.train import train
from scripts.benchmark.loader_inputs import photograph

TASK = "image-classification"
CLASSES = ("left", "right")
WARMUP = 2
"""Steps that do not count, of both."""

TINY = SwinConfig(image_size=224, embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], num_labels=len(CLASSES))


class Ends(TrainerCallback):
    """Notes when a training begins, and when each step ends."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_begin(self, *arguments: Any, **more: Any) -> None:
        """Notes the beginning."""
        self.times = [time.perf_counter()]

    def on_step_end(self, *arguments: Any, **more: Any) -> None:
        """Notes the end of a step."""
        self.times.append(time.perf_counter())


def write_images(folder: Path, count: int) -> None:
    """Writes JPEGs of 1 to 4 megapixels into two class folders."""
    random = np.random.default_rng(0)
    for number in range(count):
        place = folder / CLASSES[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        width = int((random.uniform(1e6, 4e6) * 4 / 3) ** 0.5)
        photograph(place / f"{number}.jpg", (width, 3 * width // 4), number)


def typed(folder: Path, run: Path, args: argparse.Namespace) -> list[float]:
    """Trains as the command does; returns the beginning and the end of each step."""
    argv = ["--dataset", str(folder / "images"), "--model", str(folder / "model"), "--output_dir", str(run)]
    argv += ["--max_steps", str(args.steps), "--per_device_train_batch_size", str(args.batch_size), "--use_cpu"]
    argv += ["--dataloader_num_workers", str(args.workers), "--eval_strategy", "no", "--save_strategy", "no"]
    training, ends = find_training(TASK), Ends()
    train(training, *parse_arguments(training, [*argv, "--report_to", "none"], prog="train"), callbacks=[ends])
    return ends.times


def bare(folder: Path, args: argparse.Namespace) -> list[float]:
    """Trains the same model on one batch in memory; returns the beginning and the end of each step."""
    argv = ["--dataset", "none", "--model", "none", "--output_dir", "none"]
    _, _, method_args, settings = parse_arguments(find_training(TASK), argv, prog="train")
    model = METHODS[method_args.method](SwinForImageClassification.from_pretrained(folder / "model"), method_args)
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, settings.learning_rate, fused=True)
    images, labels = torch.randn(args.batch_size, 3, 224, 224), torch.arange(args.batch_size) % len(CLASSES)
    times = [time.perf_counter()]
    for _ in range(args.steps):
        model(pixel_values=images, labels=labels).loss.backward()
        nn.utils.clip_grad_norm_(trained, settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter())
    return times


def steps_of(times: Sequence[float]) -> list[float]:
    """Returns the seconds of the steps that count."""
    return [end - start for start, end in pairwise(times)][WARMUP:]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--steps", type=int, default=12, help="of a training, the first ones included")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of the model")
    parser.add_argument("--output", type=Path, default=Path("outputs/training_run.json"))
    args = parser.parse_args(arguments)
    if args.steps <= WARMUP:
        parser.error(f"--steps {args.steps}: more than {WARMUP} are needed, which do not count.")
    torch.set_num_threads(args.threads)
    found: dict[str, list[list[float]]] = {"typed": [], "bare": []}
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_images(folder / "images", args.images)
        SwinForImageClassification(TINY).save_pretrained(folder / "model")
        ViTImageProcessorPil().save_pretrained(folder / "model")
        for number in range(args.rounds):
            found["bare"].append(bare(folder, args))
            found["typed"].append(typed(folder, folder / f"run{number}", args))
    steps = {name: [steps_of(times) for times in runs] for name, runs in found.items()}
    ratios = [
        statistics.median(with_images) / statistics.median(alone)
        for with_images, alone in zip(steps["typed"], steps["bare"], strict=True)
    ]
    record = {
        "settings": {name: value for name, value in vars(args).items() if name != "output"},
        "software": software(),
        "hardware": {**hardware(torch.device("cpu")), "cores": os.cpu_count(), "load": load},
        "step_seconds": steps,
        "first_step_seconds": {name: [times[1] - times[0] for times in runs] for name, runs in found.items()},
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }
    write_json(args.output, record)
    print(f"a step, typed / bare: {record['ratio']:.3f} (rounds: {', '.join(f'{ratio:.3f}' for ratio in ratios)})")


if __name__ == "__main__":
    main()
