"""Profiles one adapted block and says where the time of a forward and backward pass goes.

    python -m scripts.benchmark.profile_block --size swin-tiny --stage 1 --batch_size 4

Times are of the operations themselves, without what they call, in share of the whole; on a GPU those of its kernels.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from scripts.benchmark.measure import Clock, interleaved, ratios
from scripts.benchmark.models import METHODS, SIZES, blocks_of, build, stock_model


def main(arguments: Sequence[str] | None = None) -> None:
    """Profiles a block."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="swin-tiny", choices=SIZES)
    parser.add_argument("--stage", type=int, default=1, help="from 1")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--method", default="Mona", choices=METHODS)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--rows", type=int, default=20, help="operations to show")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=1, help="on a CPU")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    base = stock_model(args.size, args.image_size).to(device, getattr(torch, args.dtype))
    work = {
        name: _pass(build(name, base), args.stage, args.batch_size)
        for name in dict.fromkeys(["norm-tuning", "LoRA", args.method])
    }
    for name, summary in ratios(interleaved(work, Clock(device), args.rounds, 2), "norm-tuning").items():
        spread = f"{summary['low']:.2f}-{summary['high']:.2f}"
        print(f"{name}: {summary['ratio']:.2f} ({spread}) x the block with trained norms")
    activities = [ProfilerActivity.CUDA] if device.type == "cuda" else [ProfilerActivity.CPU]
    with profile(activities=activities) as profiler:
        for _ in range(args.rounds):
            work[args.method]()
    attribute = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    rows = sorted(profiler.key_averages(), key=lambda row: getattr(row, attribute), reverse=True)
    total = sum(getattr(row, attribute) for row in rows)
    print(f"\n{args.method}: {total / args.rounds / 1e3:.2f} ms a pass\n{'share':>6} {'ms':>8} {'calls':>6}  operation")
    for row in rows[: args.rows]:
        spent = getattr(row, attribute)
        print(f"{spent / total:6.1%} {spent / args.rounds / 1e3:8.3f} {row.count / args.rounds:6.0f}  {row.key}")


def _pass(model: nn.Module, stage: int, batch_size: int):
    """Return the forward and backward pass of the last block of a stage."""
    grids = list(dict.fromkeys(grid for _, grid in blocks_of(model)))
    block, grid = [(block, grid) for block, grid in blocks_of(model) if grid == grids[stage - 1]][-1]
    weight = block.layernorm_before.weight
    hidden = torch.randn(batch_size, grid[0] * grid[1], len(weight), device=weight.device, dtype=weight.dtype)
    hidden.requires_grad_()
    grad = torch.randn_like(hidden)

    def run() -> None:
        block(hidden, grid)[0].backward(grad)
        hidden.grad = None
        model.zero_grad(set_to_none=True)

    return run


if __name__ == "__main__":
    main()
