"""Compiles all kernels in Triton ahead of time and says what they take of a multiprocessor. Needs no GPU.

    python -m scripts.benchmark.triton_kernels
    python -m scripts.benchmark.triton_kernels --targets 90 --dtypes bfloat16 --widths 96

The kernels are those that a training step of an adapter launches, with the same arguments, constants and alignments.
What a kernel spills out of its registers lies on its stack.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget

from mona_peft import Mona
from mona_peft.functional.dropout import draw_seed
from mona_peft.functional.fast import Call
from mona_peft.functional.folding import fold
from mona_peft.functional.triton.engine import ENGINE
from mona_peft.tasks.reporting.pages import table
from mona_peft.tasks.training.records import write_json

GRIDS = {96: (56, 56), 128: (56, 56), 192: (28, 28), 384: (14, 14), 768: (7, 7), 1536: (7, 7)}
"""By the width of a stage of Swin, at 224 pixels."""
DTYPES = {
    "float32": (torch.float32, torch.float32),
    "bfloat16": (torch.bfloat16, torch.bfloat16),
    "float16": (torch.float16, torch.float16),
    "autocast": (torch.float32, torch.bfloat16),
    "mixed": (torch.bfloat16, torch.float32),
}
"""Of tokens and of matrix products."""


class NoDevice:
    """What the compiler asks a driver for, where there is no device."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        """Returns what to compile for."""
        return self.target

    def get_current_device(self) -> int:
        """Returns a key of the compiler's cache."""
        return self.target.arch

    def get_current_stream(self, device: int) -> int:
        """Returns the default stream."""
        return 0


@contextmanager
def compiling_only(capability: int) -> Iterator[dict[str, Any]]:
    """Has kernels compiled where they would be launched; yields them by name."""
    compiled: dict[str, Any] = {}
    run = triton.JITFunction.run

    def compile_only(kernel: triton.JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        compiled[kernel.__name__] = run(kernel, *args, grid=grid, warmup=True, **kwargs)

    triton.runtime.driver.set_active(NoDevice(capability))
    triton.JITFunction.run = compile_only
    try:
        yield compiled
    finally:
        triton.JITFunction.run = run


def resources(kernel: Any) -> dict[str, int]:
    """Returns registers and bytes of stack a thread, bytes of shared memory and warps a program."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(kernel.asm["cubin"])
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", path]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    registers, stack = (int(re.search(rf"\b{name}:(\d+)", output).group(1)) for name in ("REG", "STACK"))
    return {
        "registers": registers,
        "stack": stack,
        "shared": kernel.metadata.shared,
        "warps": kernel.metadata.num_warps,
    }


def compile_step(width: int, dtype: str, bottleneck: int, in_place: bool = True, prefix: int = 0) -> None:
    """Has the kernels of a forward and a backward pass with dropout compiled."""
    grid, (token_dtype, product_dtype) = GRIDS[width], DTYPES[dtype]
    mona = Mona(width, bottleneck)
    weights = fold(mona.weights(), mona.settings(), product_dtype)
    weights = type(weights)(*(tensor.detach() for tensor in weights))
    call = Call(grid, 0.1, draw_seed(), 1 / 0.9, in_place, ENGINE)
    x = torch.zeros(1, prefix + grid[0] * grid[1], width, dtype=token_dtype)
    result, p, statistics = ENGINE.forward(x, call, weights)
    ENGINE.backward(call, weights, type(weights)(*[True] * len(weights)), True)(x, result, p, statistics)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compiles, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", type=int, default=[80, 90], help="compute capabilities, times ten")
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=DTYPES)
    parser.add_argument("--widths", nargs="+", type=int, default=list(GRIDS), choices=GRIDS)
    parser.add_argument("--bottleneck", type=int, default=64)
    parser.add_argument("--output", type=Path, help="JSON with every kernel; the table has each one's worst width")
    args = parser.parse_args(arguments)
    records: list[dict[str, Any]] = []
    for target in args.targets:
        for dtype in args.dtypes:
            for width in args.widths:
                with compiling_only(target) as compiled:
                    compile_step(width, dtype, args.bottleneck)
                for name, kernel in compiled.items():
                    row = {"kernel": name, "target": target, "dtype": dtype, "width": width}
                    records.append(row | resources(kernel))
    if args.output:
        write_json(args.output, records)
    print(worst_table(records))


def worst_table(records: Sequence[dict[str, Any]]) -> str:
    """Returns for each kernel, target and dtype the largest figures over the widths."""
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault((record["kernel"], f"sm_{record['target']}", record["dtype"]), []).append(record)
    figures = ("registers", "stack", "shared", "warps")
    rows = [[*key, *(str(max(record[name] for record in group)) for name in figures)] for key, group in groups.items()]
    return table(["kernel", "target", "dtype", *figures], rows)


if __name__ == "__main__":
    main()
