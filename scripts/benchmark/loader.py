"""Measures how many images a second are read, changed and prepared for a model, without the model.

    python -m scripts.benchmark loader
    python -m scripts.benchmark loader --workers 0 2 --images 32 --page docs/performance.md

What is compared reads the same JPEGs, in turns: the images of `train image-classification`, the same without drafts (a
large JPEG decoded at a part of its size), what transformers' example script does, by torchvision where that can be
imported and spelled out in Pillow, and decoding alone. Then the images of all four tasks. Images a second are of wall
time, and so of a quiet machine; the milliseconds of an image are the processor time of one process.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from mona_peft.tasks.reporting.pages import fill_page, table
from mona_peft.tasks.task import TASKS
from mona_peft.tasks.training.records import write_json
from scripts.benchmark.loader_inputs import photograph, pipelines, task_images, with_torchvision
from scripts.benchmark.provenance import measured_on, surroundings

SIZES = {"500 × 375": (500, 375), "1632 × 1224": (1632, 1224), "2304 × 1728": (2304, 1728)}
"""(width, height) of the JPEGs: 0.2, 2 and 4 megapixels."""

BATCH_SIZE = 8
Figures = dict[str, dict[str, Any]]


def epoch(images: Dataset, workers: int) -> tuple[float, float]:
    """Reads all images once and returns the seconds of wall time, and of this process's processor time, an image.

    Workers have begun before: a training starts them once.
    """
    loader = DataLoader(
        images, BATCH_SIZE, num_workers=workers, collate_fn=list, persistent_workers=workers > 0, drop_last=False
    )
    if workers:
        for _ in loader:
            pass
    wall, busy = time.perf_counter(), time.process_time()
    for _ in loader:
        pass
    count = len(images)
    return (time.perf_counter() - wall) / count, (time.process_time() - busy) / count


def measure(named: Mapping[str, Dataset], workers: Sequence[int], rounds: int) -> Figures:
    """Reads images by each pipeline in turns, with each number of workers.

    Returns:
        By the names of the pipelines: medians over the rounds of `per_second`, by number of workers, and of
        `milliseconds` of processor time an image without workers.
    """
    wall: dict[tuple[str, int], list[float]] = {}
    busy: dict[str, list[float]] = {}
    for _ in range(rounds):
        for count in dict.fromkeys((0, *workers)):
            for name, images in named.items():
                seconds, processor = epoch(images, count)
                wall.setdefault((name, count), []).append(seconds)
                if count == 0:
                    busy.setdefault(name, []).append(processor)
    return {
        name: {
            "per_second": {count: 1 / statistics.median(wall[name, count]) for count in workers},
            "milliseconds": 1e3 * statistics.median(busy[name]),
        }
        for name in named
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", nargs="*", type=int, default=[0, 1, 2, 4, 8], help="none: processor time alone")
    parser.add_argument("--images", type=int, default=32, help="of each size")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=SIZES)
    parser.add_argument("--output", type=Path, default=Path("outputs/loader.json"))
    parser.add_argument("--page", type=Path, help="page in which the tables are to be replaced")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    record: dict[str, Any] = {
        "settings": {name: getattr(args, name) for name in ("workers", "images", "rounds")},
        **surroundings(),
        "torchvision": with_torchvision() is not None,
        "pipelines": {},
        "tasks": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        for title in args.sizes:
            paths = [photograph(Path(folder, f"{title} {seed}.jpg"), SIZES[title], seed) for seed in range(args.images)]
            record["pipelines"][title] = measure(pipelines(paths), args.workers, args.rounds)
            write_json(args.output, record)
        for task in TASKS:
            named = {name: task_images(task, paths, drafts) for name, drafts in (("drafts", True), ("none", False))}
            record["tasks"][task] = measure(named, [], args.rounds)
            write_json(args.output, record)
    print("\n\n".join(tables(record).values()))
    if args.page is not None:
        fill_page(args.page, "loader", tables(record))


def tables(record: Mapping[str, Any]) -> dict[str, str]:
    """Returns the tables of a page, and where their figures come from."""
    workers = record["settings"]["workers"]
    header = ["JPEGs", "pipeline", "CPU ms an image", *(f"{count} workers" for count in workers)]
    rows = [
        [title, name, _number(figures["milliseconds"]), *map(_number, figures["per_second"].values())]
        for title, named in record["pipelines"].items()
        for name, figures in named.items()
    ]
    last = list(record["pipelines"])[-1]
    dense = [
        [task, *(_number(named[name]["milliseconds"]) for name in ("none", "drafts"))]
        for task, named in record["tasks"].items()
    ]
    missing = "" if record["torchvision"] else " torchvision was not there and is left out."
    settings = record["settings"]
    source = f"medians of {settings['rounds']} rounds of {settings['images']} images; {measured_on(record)}.{missing}"
    return {
        "pipelines": table(header, rows),
        "tasks": table([f"{last}, CPU ms an image", "read at full size", "with drafts"], dense),
        "provenance": source,
    }


def _number(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


if __name__ == "__main__":
    main()
