"""Profiles whole training steps and says what Mona's adapters take of LoRA's step, by kind of operation.

    python -m scripts.benchmark.profile_step --case swin-tiny:224:4
    python -m scripts.benchmark.profile_step --rounds 11 --page docs/performance.md

Times are of the operations themselves, without what they call. They are those in the adapters' own nodes of the graph;
folding and what autograd does around the nodes are not among them. They are times by the clock, so nothing else should
run on the machine.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

from mona_peft.tasks.reporting.pages import fill_page, table
from scripts.benchmark.__main__ import Case
from scripts.benchmark.measure import training_step
from scripts.benchmark.models import build
from scripts.benchmark.provenance import measured_on, surroundings

PASSES = {"forward": "_Mona", "backward": "_MonaBackward"}
"""Names of the adapters' events."""
KINDS = {
    "matrix products": ("mm", "addmm", "addmm_", "bmm", "linear", "matmul"),
    "depthwise filters": ("convolution", "_convolution", "mkldnn_convolution", "conv2d", "convolution_overrideable"),
    "LayerNorm": ("native_layer_norm", "native_layer_norm_backward"),
    "GELU": ("gelu", "gelu_", "gelu_backward"),
    "drawing the dropout mask": ("random_", "ge_"),
    "sums, the gradients of biases and scales": ("sum",),
    "passes over a map: scales, residual, mask": ("add", "add_", "sub", "mul", "mul_", "addcmul", "addcmul_"),
    "copies and memory": (
        "copy_",
        "clone",
        "cat",
        "empty",
        "empty_like",
        "empty_strided",
        "new_empty",
        "fill_",
        "flip",
    ),
}
OTHER = "starting operations, and the rest"


def main(arguments: Sequence[str] | None = None) -> None:
    """Profiles on a CPU, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", default="swin-tiny:224:4", metavar="SIZE:IMAGE_SIZE:BATCH_SIZE")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--page", type=Path, help="page in which the table is to be replaced")
    args = parser.parse_args(arguments)
    source = f"{args.case}, {args.threads} thread(s), median of {args.rounds} rounds; {measured_on(surroundings())}."
    torch.set_num_threads(args.threads)
    case = Case(args.case, SimpleNamespace(device="cpu", dtype="float32", autocast=None, attention="sdpa"))
    steps = {
        name: partial(training_step, build(name, case.base), case.pixel_values, case.labels)
        for name in ("LoRA", "Mona")
    }
    shares: dict[tuple[str, str], list[float]] = defaultdict(list)
    for number in range(1 + args.rounds):
        events = {name: _events(step) for name, step in steps.items()}
        whole = sum(event.self_cpu_time_total for event in events["LoRA"])
        found: dict[tuple[str, str], float] = defaultdict(float)
        for event in events["Mona"]:
            if (name := _pass_of(event)) is not None:
                found[_kind_of(event), name] += 100 * event.self_cpu_time_total / whole
        for key, share in found.items() if number else ():  # the first round warms up
            shares[key].append(share)
    shown = _table({key: statistics.median(values) for key, values in shares.items()})
    print(shown)
    if args.page is not None:
        fill_page(args.page, "profile", {"step": shown, "provenance": source})


def _events(step: partial) -> list[FunctionEvent]:
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step()
    return list(profiler.events())


def _pass_of(event: FunctionEvent | None) -> str | None:
    """Return in which pass of an adapter an event lies."""
    while event is not None:
        found = [name for name, node in PASSES.items() if event.name == node]
        if found:
            return found[0]
        event = event.cpu_parent
    return None


def _kind_of(event: FunctionEvent) -> str:
    operation = event.name.removeprefix("aten::")
    return next((kind for kind, operations in KINDS.items() if operation in operations), OTHER)


def _table(shares: dict[tuple[str, str], float]) -> str:
    rows = [[kind, *(shares.get((kind, name), 0.0) for name in PASSES)] for kind in (*KINDS, OTHER)]
    rows.append(["together", *(sum(row[column] for row in rows) for column in (1, 2))])
    header = ["per cent of LoRA's step", *PASSES, "together"]
    return table(header, [[row[0], *(f"{share:.1f}" for share in (*row[1:], sum(row[1:])))] for row in rows])


if __name__ == "__main__":
    main()
