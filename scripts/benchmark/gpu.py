"""All that should be run on a GPU once: the kernels' tests, then time and memory in bfloat16, eager, compiled, Triton.

    python -m scripts.benchmark.gpu                        about half an hour
    python -m scripts.benchmark.gpu --cases swin-tiny:112:1 --rounds 2 --device cpu    tries the command itself

It writes the records and one page of tables. Without a GPU the tests run by Triton's interpreter, without Triton not
at all.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from scripts.benchmark.__main__ import parse_case
from scripts.benchmark.models import METHODS as MEASURABLE
from scripts.benchmark.report import main as write_report

CASES = ("swin-tiny:224:64", "swin-base:224:64", "dinov2-base:224:64")
METHODS = ("norm-tuning", "LoRA", "Mona, formula", "Mona", "Mona, MLP recomputed", "Mona, Triton", "full fine-tuning")
PAGE = """# Mona on a GPU

Tests of the kernels in Triton: {tests}.

<!-- benchmark: step -->
<!-- end -->

<!-- benchmark: scaling -->
<!-- end -->

<!-- benchmark: kept -->
<!-- end -->

Compiled:

<!-- benchmark: compiled -->
<!-- end -->

<!-- benchmark: inference -->
<!-- end -->

<!-- benchmark: peak -->
<!-- end -->

<!-- benchmark: provenance -->
<!-- end -->
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs everything, one process after the other, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES), metavar="SIZE:IMAGE_SIZE:BATCH_SIZE")
    parser.add_argument("--rounds", type=int, default=17)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--compile", default="inductor", metavar="BACKEND")
    parser.add_argument("--tests", default="", metavar="EXPRESSION", help="of the tests only those, by pytest's -k")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/gpu"))
    args = parser.parse_args(arguments)
    for case in args.cases:
        parse_case(case)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("PyTorch finds no GPU here; --device cpu tries the command, with small cases.")
    args.output_dir.mkdir(parents=True, exist_ok=True)
    tests, status = run_tests(args.tests)
    eager, compiled = (args.output_dir / f"{name}.json" for name in ("eager", "compiled"))
    # On another device than CUDA, and without Triton, there are no kernels to be measured.
    methods = [name for name in METHODS if name in MEASURABLE and (name != "Mona, Triton" or args.device == "cuda")]
    _measure(args, eager, "--methods", *methods)
    _measure(args, compiled, "--methods", "norm-tuning", "Mona", "--compile", args.compile)
    page = args.output_dir / "gpu.md"
    page.write_text(PAGE.format(tests=tests), encoding="utf-8")
    write_report([str(eager), str(compiled), "--page", str(page), "--plot", str(page.with_suffix(".png"))])
    print(f"{page} has the tables. Tests of the kernels in Triton: {tests}.")
    sys.exit(status)


def run_tests(chosen: str) -> tuple[str, int]:
    """Runs the tests of the kernels and returns how it went, in words, and what to exit with."""
    if find_spec("triton") is None:
        return "not run, since Triton is not installed", 0
    command = [sys.executable, "-m", "pytest", "-m", "triton", "tests/functional", "-k", chosen]
    status = pytest.ExitCode(subprocess.run(command, check=False).returncode)
    if status is pytest.ExitCode.NO_TESTS_COLLECTED:
        return f"none ran, since --tests {chosen!r} chooses none", 0
    return ("passed" if status is pytest.ExitCode.OK else "FAILED"), int(status)


def _measure(args: argparse.Namespace, output: Path, *options: str) -> None:
    settings = ["--autocast", "bfloat16", "--rounds", str(args.rounds), "--device", args.device]
    if args.device == "cpu":  # where each method's peak takes a process of its own
        settings.append("--no_peak")
    command = [sys.executable, "-m", "scripts.benchmark", "--cases", *args.cases, *settings, "--output", str(output)]
    subprocess.run([*command, *options], check=True)


if __name__ == "__main__":
    main()
