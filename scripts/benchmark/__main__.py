"""Measures what Mona costs beside other ways of fine-tuning, and writes it down as JSON.

    python -m scripts.benchmark                      all methods on two cases, on a GPU where there is one
    python -m scripts.benchmark --all                on all cases: hours
    python -m scripts.benchmark --autocast bfloat16
    python -m scripts.benchmark families             a step on each family of backbones, beside LoRA's alone
    python -m scripts.benchmark loader               images a second, without a model
    python -m scripts.benchmark training_run         a training as typed beside the bare loop
    python -m scripts.benchmark --cases swin-tiny:224:2 --methods Mona --compile inductor
    python -m scripts.benchmark --cases swin-tiny:224:8 --methods Mona --rounds 5 --output mine.json

A case is SIZE:IMAGE_SIZE:BATCH_SIZE. All methods of a case run in one process, in turns; ratios are taken within a
round, and their medians and quartiles over the rounds reported. Peak memory on a CPU is measured in a process for each
method. `python -m scripts.benchmark.report` makes tables and a plot.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mona_peft.tasks.comparison.memory import kept_bytes
from mona_peft.tasks.training.records import hardware, software, write_json
from scripts.benchmark.attaching import ATTACHED, time_attaching
from scripts.benchmark.measure import Clock, interleaved, multiplications, peak_bytes, ratios, training_step
from scripts.benchmark.models import LEFT_OUT, METHODS, SIZES, blocks_of, build, stock_model

CASES = ("swin-tiny:224:4", "dinov2-small:224:2")
MORE_CASES = (
    "swin-tiny:224:1",
    "swin-tiny:224:8",
    "swin-tiny:112:8",
    "swin-tiny:448:1",
    "swin-base:224:2",
    "swin-large:224:1",
    "convnext-tiny:224:2",
    "dinov2-small:518:1",
    "dinov2-base:224:2",
    "dinov2-base:518:1",
)
OTHERS = ("families", "loader", "training_run")
"""Benchmarks of their own, by the names of their modules."""

REFERENCE = "LoRA"
FOLDED = ("Mona, formula", "Mona", "Mona, Triton")
"""What is compared with the bare blocks at inference."""
SEED = 0


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", metavar="SIZE:IMAGE_SIZE:BATCH_SIZE", help=f"default: {' '.join(CASES)}")
    parser.add_argument("--all", action="store_true", help="all cases")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS, help=f"besides {REFERENCE}")
    parser.add_argument("--rounds", type=int, default=5, help="of each case, after the warm-up")
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of weights and images")
    parser.add_argument("--autocast", choices=["bfloat16", "float16"])
    parser.add_argument("--attention", default="sdpa", choices=["sdpa", "eager"])
    parser.add_argument("--threads", type=int, default=1, help="on a CPU")
    parser.add_argument(
        "--compile", metavar="BACKEND", help="torch.compile the models, by 'inductor' or another backend"
    )
    parser.add_argument("--no_step", action="store_true", help="leave out the training step")
    parser.add_argument("--no_inference", action="store_true", help="leave out inference")
    parser.add_argument("--no_peak", action="store_true", help="leave out peak memory")
    parser.add_argument("--no_attach", action="store_true", help="leave out get_peft_model and from_pretrained")
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmark.json"))
    parser.add_argument("--peak_of", choices=METHODS, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.rounds < 2:
        parser.error(f"--rounds {args.rounds}: quartiles need at least two.")
    if args.cases is None:
        args.cases = [*CASES, *(MORE_CASES if args.all else ())]
    elif args.all:
        parser.error("--all and --cases: give one of them.")
    args.methods = [name for name in METHODS if name in args.methods or name == REFERENCE]
    for case in args.cases:
        parse_case(case)
    return args


def parse_case(case: str) -> tuple[str, int, int]:
    """Returns size, image size and batch size.

    Raises:
        SystemExit: The case is not of that form, or there is no such size.
    """
    size, _, numbers = case.partition(":")
    image_size, _, batch_size = numbers.partition(":")
    if size not in SIZES or not image_size.isdecimal() or not batch_size.isdecimal():
        raise SystemExit(
            f"--cases {case}: write SIZE:IMAGE_SIZE:BATCH_SIZE, such as swin-tiny:224:4; sizes: {list(SIZES)}."
        )
    return size, int(image_size), int(batch_size)


class Case:
    """Models and data of one case."""

    def __init__(self, case: str, args: argparse.Namespace) -> None:
        self.size, self.image_size, self.batch_size = parse_case(case)
        self.name, self.args = case, args
        self.device, dtype = torch.device(args.device), getattr(torch, args.dtype)
        self.autocast = None if args.autocast is None else getattr(torch, args.autocast)
        self.base = stock_model(self.size, self.image_size, args.attention).to(self.device, dtype)
        generator = torch.Generator().manual_seed(SEED)
        pixels = torch.randn(self.batch_size, 3, self.image_size, self.image_size, generator=generator)
        self.pixel_values = pixels.to(self.device, dtype)
        self.labels = torch.randint(100, (self.batch_size,), generator=generator).to(self.device)

    def measure(self) -> dict[str, Any]:
        """Measures everything."""
        left_out = LEFT_OUT.get(self.size, ())
        models = {name: build(name, self.base) for name in self.args.methods if name not in left_out}
        results: dict[str, dict[str, Any]] = {name: {} for name in models}
        if self.args.compile:
            torch.compiler.reset()
            models = {name: torch.compile(model, backend=self.args.compile) for name, model in models.items()}
            if not self.args.no_step:
                for name, model in models.items():
                    results[name]["first_seconds"] = self.first_steps(model)
        for name, model in models.items():
            results[name]["kept_bytes"] = kept_bytes(model, self.pixel_values, self.autocast)
            if not self.args.compile:
                step = partial(training_step, model, self.pixel_values, self.labels)
                results[name]["multiplications"] = multiplications(step)
        if not self.args.no_step:
            for name, summary in self.steps(models).items():
                results[name]["step"] = summary
        if not self.args.no_peak and not self.args.compile:
            for name, model in models.items():
                results[name]["peak_bytes"] = self.peak(name, model)
        if not self.args.no_inference and blocks_of(self.base) and not self.args.compile:
            for name, summary in self.inference(models).items():
                results.setdefault(name, {})["inference"] = summary
        if not self.args.no_attach and not self.args.compile and set(ATTACHED) <= set(models):
            for name, summary in time_attaching(self.base, self.args.rounds, self.args.warmup, REFERENCE).items():
                results[name] |= summary
        size = {"size": self.size, "image_size": self.image_size, "batch_size": self.batch_size}
        return {**size, "compile": self.args.compile, "methods": results}

    def first_steps(self, model: nn.Module) -> float:
        """Time the first two steps, in which a model is compiled, with the compilers that they start.

        The next model finds kernels of this one in the compiler's caches; `TORCHINDUCTOR_FORCE_DISABLE_CACHES=1` in the
        environment switches these off.
        """
        clock = Clock(self.device, with_children=True)
        return sum(
            clock.time(partial(training_step, model, self.pixel_values, self.labels, self.autocast)) for _ in range(2)
        )

    def steps(self, models: dict[str, nn.Module]) -> dict[str, dict[str, Any]]:
        """Times training steps, without the optimiser's."""
        work = {
            name: partial(training_step, model, self.pixel_values, self.labels, self.autocast)
            for name, model in models.items()
        }
        return ratios(interleaved(work, Clock(self.device), self.args.rounds, self.args.warmup), REFERENCE)

    @torch.inference_mode()
    def inference(self, models: dict[str, nn.Module]) -> dict[str, dict[str, float]]:
        """Times the blocks alone, without embeddings and head: bare, and with Mona by either way.

        Each block is timed by itself, next to its like; a round is the sum over the blocks.
        """
        chosen = {"bare blocks": self.base, **{name: models[name] for name in FOLDED if name in models}}
        blocks = {name: blocks_of(model.eval()) for name, model in chosen.items()}
        totals = {name: [0.0] * self.args.rounds for name in chosen}
        for number, (block, grid) in enumerate(blocks["bare blocks"]):
            width = block.layernorm_before.weight.shape[0]
            hidden = torch.randn(self.batch_size, grid[0] * grid[1], width, device=self.device).to(self.base.dtype)
            work = {name: partial(found[number][0], hidden, grid) for name, found in blocks.items()}
            with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
                seconds = interleaved(work, Clock(self.device), self.args.rounds, self.args.warmup)
            for name, values in seconds.items():
                totals[name] = [a + b for a, b in zip(totals[name], values, strict=True)]
        for model in models.values():
            model.train()
        return ratios(totals, "bare blocks")

    def peak(self, method: str, model: nn.Module) -> int:
        """Measures peak memory; on a CPU in a fresh process, whose memory comes back to the system when freed."""
        if self.device.type == "cuda":
            return peak_bytes(model, self.pixel_values, self.labels, self.autocast)
        options = ["--dtype", self.args.dtype, "--attention", self.args.attention, "--threads", str(self.args.threads)]
        options += ["--autocast", self.args.autocast] if self.args.autocast else []
        command = [sys.executable, "-m", "scripts.benchmark", "--cases", self.name, "--peak_of", method, *options]
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
        run = subprocess.run(
            [*command, "--device", "cpu"], env=environment, stdout=subprocess.PIPE, check=True, text=True
        )
        return int(run.stdout.split()[-1])

    def peak_in_this_process(self, method: str) -> int:
        """Measures peak memory of one method."""
        return peak_bytes(build(method, self.base), self.pixel_values, self.labels, self.autocast)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark, or another one that is named first."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in OTHERS:
        import_module(f"scripts.benchmark.{given[0]}").main(given[1:])
        return
    args = parse_arguments(given)
    torch.set_num_threads(args.threads)
    if args.peak_of:
        print(Case(args.cases[0], args).peak_in_this_process(args.peak_of))
        return
    names = ("rounds", "warmup", "device", "dtype", "autocast", "attention", "threads", "compile")
    record = {
        "settings": {"seed": SEED, "reference": REFERENCE, **{name: getattr(args, name) for name in names}},
        "software": software(),
        "hardware": hardware(torch.device(args.device)),
        "cases": {},
    }
    for case in args.cases:
        record["cases"][case] = Case(case, args).measure()
        write_json(args.output, record)  # after each case, so that an interrupted run is not lost
        print(f"{case} is done", flush=True)
    print(f"{args.output}: python -m scripts.benchmark.report {args.output} makes table and plot of it")


if __name__ == "__main__":
    main()
