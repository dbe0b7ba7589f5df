"""Measures how long a training step with Mona takes beside one with LoRA, for each family of docs/backbones.md.

    python -m scripts.benchmark families
    python -m scripts.benchmark families --names swin vit --rounds 9 --output mine.json

Models are of the size that the page names, with random weights, for one image of their own size, on one thread of a
CPU. A family whose step with LoRA takes more multiplications than `--limit`, by docs/backbones.json, is left out.
`python -m scripts.backbones_page` shows the record; half an hour of processor time makes it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mona_peft.tasks.training.records import write_json
from scripts.backbone_costs import ADAPTED, COSTS, FAMILIES, adapted, image_for, step, train_blocks
from scripts.benchmark.measure import Clock, interleaved, ratios
from scripts.benchmark.provenance import surroundings
from tests.backbones import BACKBONES

REFERENCE = "LoRA"
SEED = 0


def measure(name: str, rounds: int, warmup: int) -> dict[str, Any]:
    """Returns how long both steps took."""
    work = {}
    for method in ADAPTED:
        torch.manual_seed(SEED)
        model = train_blocks(adapted(BACKBONES[name], method, "cpu"))
        work[method] = partial(step, model, torch.randn_like(image_for(model)))
    return ratios(interleaved(work, Clock(torch.device("cpu")), rounds, warmup), REFERENCE)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", nargs="+", default=list(BACKBONES), choices=BACKBONES, metavar="NAME")
    parser.add_argument("--rounds", type=int, default=5, help="of each family, after the warm-up")
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--limit", type=float, default=400, help="billions of multiplications in a step with LoRA")
    parser.add_argument("--output", type=Path, default=Path("outputs/families.json"))
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    settings = {"seed": SEED, **{name: getattr(args, name) for name in ("rounds", "warmup", "limit")}}
    record: dict[str, Any] = {"settings": settings, **surroundings(), "families": {}}
    # Not counted here: in models that ran without data, transformers keeps tensors without data in its caches.
    costs = json.loads(COSTS.read_text())[FAMILIES]
    for name in args.names:
        if costs[name]["multiplications_of_lora"] > args.limit * 1e9:
            print(f"{name} is too large", flush=True)
            continue
        record["families"][name] = measure(name, args.rounds, args.warmup)
        write_json(args.output, record)  # after each, so that an interrupted run is not lost
        print(f"{name} is done", flush=True)


if __name__ == "__main__":
    main()
