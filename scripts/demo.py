"""The main job on the embedded default: the head alone, then Mona, on handwritten digits over photographs.

    python -m scripts.demo

Trains both with `scripts.train_image_classification`, prints what they reach and cost, reloads the adapter in a fresh
process and compares its predictions, and draws one picture. Everything is in the output directory; what an earlier
demonstration left there is replaced.
"""

import shutil
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from datasets import Dataset
from matplotlib.figure import Figure
from safetensors.numpy import load_file

from mona_peft.tasks.reporting.pages import table
from mona_peft.tasks.reporting.plots import draw_loss, draw_metric, save_figure
from mona_peft.tasks.training.records import write_json
from scripts.demonstration.digits import handwritten_digits
from scripts.train_image_classification import parse, train

METHODS = {"fixed": "head alone", "mona": "Mona and head"}
"""Methods in the order in which they are trained, and what a person reads for them."""

OUTPUTS = {*METHODS, "demo.json", "demo.md", "demo.png"}
NUM_SHOWN = 12
MIN_SAME = 0.99
"""Share of predictions that are the same after reloading; on a CPU all are, and a GPU may round a tie otherwise."""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the demonstration.

    Args:
        argv: `--output_dir`; all other arguments go to both trainings.

    Raises:
        ValueError: The output directory holds something else, or other images are given.
    """
    parser = ArgumentParser(description=__doc__.split("\n", 1)[0], allow_abbrev=False)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/demo"))
    options, training_arguments = parser.parse_known_args(argv)
    if any(argument.split("=")[0] == "--dataset" for argument in training_arguments):
        raise ValueError(
            "--dataset: the demonstration is about its own. Your images: `mona-peft train image-classification`."
        )
    output_dir = options.output_dir
    _clear(output_dir)

    records, predictions = {}, {}
    for method, title in METHODS.items():
        print(f"\nTraining: {title}", flush=True)
        started = time.monotonic()
        arguments = ["--method", method, "--output_dir", str(output_dir / method), *training_arguments]
        record, output = train(*parse(arguments))
        records[method] = record | {"seconds": round(time.monotonic() - started)}
        predictions[method] = output.predictions.argmax(-1)

    digits = handwritten_digits()["test"]
    results = results_table(records)
    draw(records, digits, predictions, output_dir / "demo.png")
    (output_dir / "demo.md").write_text(results + "\n", encoding="utf-8")
    write_json(output_dir / "demo.json", records)
    print(f"\n{results}\n")

    reloaded = _reload(output_dir / "mona" / "adapter")
    same = int((reloaded == predictions["mona"]).sum())
    print(f"Reloaded in a fresh process by the code on its card: {same} of {len(digits)} predictions are the same.")
    if same < MIN_SAME * len(digits):
        raise SystemExit("The reloaded adapter predicts otherwise than the trained one: please report this.")
    print(f"Picture, adapter, model card, curves and metrics are in {output_dir}.")


def _clear(output_dir: Path) -> None:
    """Removes what an earlier demonstration left.

    Raises:
        ValueError: The directory holds something else.
    """
    foreign = sorted({path.name for path in output_dir.glob("*")} - OUTPUTS)
    if foreign:
        raise ValueError(
            f"--output_dir {output_dir} holds {', '.join(foreign[:5])}, which no demonstration wrote, so nothing was "
            "removed. Choose another directory."
        )
    shutil.rmtree(output_dir, ignore_errors=True)


def results_table(records: dict[str, dict[str, Any]]) -> str:
    """Returns what each method reaches and costs, as a Markdown table."""
    columns = ("test accuracy", "trained parameters", "of them in the backbone", "share of the model", "file", "time")
    rows = [
        [
            METHODS[method],
            f"{record['results']['test']['top1']:.1%}",
            f"{record['parameters']['trainable']:,}",
            f"{record['parameters']['adapter']:,}",
            f"{record['parameters']['trainable_share']:.2%}",
            f"{record['adapter_bytes'] / 1000:,.0f} kB",
            f"{record['seconds']} s",
        ]
        for method, record in records.items()
    ]
    return table(["", *columns], rows)


def draw(records: dict[str, dict[str, Any]], digits: Dataset, predictions: dict[str, np.ndarray], path: Path) -> None:
    """Draws the curves of both trainings, and test images with both predictions.

    Args:
        records: Records of the trainings by method.
        digits: Test images and labels.
        predictions: Predicted digits of shape (B,) by method.
        path: Of the PNG.
    """
    figure = Figure(figsize=(12, 7.5), layout="constrained")
    curves, pictures = figure.subfigures(2, 1, height_ratios=[1, 1])
    histories = {METHODS[method]: record["history"] for method, record in records.items()}
    loss_axes, metric_axes = curves.subplots(1, 2)
    draw_loss(loss_axes, histories)
    draw_metric(metric_axes, histories, "top1", "accuracy")
    pictures.suptitle("The first test images; in red what is wrong")
    for index, axes in enumerate(pictures.subplots(2, NUM_SHOWN // 2).flat):
        label = digits[index]["label"]
        axes.imshow(digits[index]["image"], interpolation="nearest")
        axes.set_axis_off()
        for place, (method, predicted) in enumerate(predictions.items()):
            colour = "tab:green" if predicted[index] == label else "tab:red"
            text = f"{METHODS[method].split()[0]}: {predicted[index]}"
            axes.text(place, 1.03, text, color=colour, ha=("left", "right")[place], transform=axes.transAxes)
    save_figure(figure, path)


def _reload(adapter: Path) -> np.ndarray:
    """Returns the digits that the adapter predicts in a process of its own."""
    with TemporaryDirectory() as folder:
        scores_file = Path(folder, "scores.safetensors")
        subprocess.run(
            [sys.executable, "-m", "scripts.demonstration.reload", str(adapter), str(scores_file)], check=True
        )
        return load_file(scores_file)["scores"].argmax(-1)


if __name__ == "__main__":
    main()
