"""Without the network: the head alone, then Mona, on handwritten digits over photographs."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from matplotlib.figure import Figure

from mona_peft.tasks.reporting.pages import table
from mona_peft.tasks.reporting.plots import draw_loss, draw_metric, save_figure
from mona_peft.tasks.training.records import write_json
from scripts.demonstration.digits import handwritten_digits
from scripts.demonstration.outputs import check_reloaded, clear
from scripts.train_image_classification import parse, train

METHODS = {"fixed": "head alone", "mona": "Mona and head"}
"""Methods in the order in which they are trained, and what a person reads for them."""

NUM_SHOWN = 12


def main(output_dir: Path, training_arguments: Sequence[str] = ()) -> None:
    """Runs the demonstration.

    Args:
        output_dir: Gets everything.
        training_arguments: For `scripts.train_image_classification`, in both trainings.

    Raises:
        ValueError: The output directory holds something else, or other images are given.
    """
    if any(argument.split("=")[0] == "--dataset" for argument in training_arguments):
        raise ValueError(
            "--dataset: the demonstration is about its own. Your images: `mona-peft train image-classification`."
        )
    clear(output_dir)

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

    adapter = str(output_dir / "mona" / "adapter")
    check_reloaded("scripts.demonstration.reload", [adapter], predictions["mona"])
    print(f"Picture, adapter, model card, curves and metrics are in {output_dir}.")


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
