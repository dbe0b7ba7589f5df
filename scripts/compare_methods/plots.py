"""Pictures of a comparison."""

from pathlib import Path

from matplotlib import colormaps
from matplotlib.figure import Figure

from scripts.common.plots import save_figure
from scripts.compare_methods.rows import METHOD_ROWS, REFERENCE
from scripts.compare_methods.summary import Summary, test_split
from scripts.compare_methods.tables import Summaries

COLOURS = {row.name: colormaps["Paired"](number) for number, row in enumerate(METHOD_ROWS)}


def draw_accuracy(summaries: Summaries, path: Path) -> None:
    """Draws results on the test images, mean and spread over seeds, against the number of trained parameters."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for row in METHOD_ROWS:
        if row.name not in summaries:
            continue
        summary = summaries[row.name]
        result, trained = summary.result(test_split(summary.first)), summary.first["parameters"]["trainable"]
        axes.errorbar(
            trained,
            100 * result.mean,
            yerr=None if result.deviation is None else 100 * result.deviation,
            marker="*" if row.name == REFERENCE else "o",
            markersize=13 if row.name == REFERENCE else 6,
            capsize=3,
            color=COLOURS[row.name],
        )
        axes.annotate(row.title, (trained, 100 * result.mean), xytext=(7, 5), textcoords="offset points", fontsize=9)
    axes.set(xscale="log", xlabel="trained parameters, head included", ylabel="test accuracy, %")
    axes.margins(x=0.15)
    axes.grid(alpha=0.3)
    save_figure(figure, path)


def draw_loss(summaries: Summaries, path: Path) -> None:
    """Draws training and validation loss at the chosen rates, means over seeds (the former as the paper's Figure 5)."""
    figure = Figure(figsize=(12, 5), layout="constrained")
    for axes, key, label in zip(figure.subplots(1, 2), ("loss", "eval_loss"), ("training", "validation"), strict=True):
        for row in METHOD_ROWS:
            if row.name in summaries:
                epochs, losses = mean_curve(summaries[row.name], key)
                width = 2.5 if row.name == REFERENCE else 1.2
                axes.plot(epochs, losses, label=row.title, color=COLOURS[row.name], linewidth=width)
        axes.set(xlabel="epoch", ylabel=f"{label} loss")
        axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save_figure(figure, path)


def mean_curve(summary: Summary, key: str) -> tuple[list[float], list[float]]:
    """Returns epochs, and the mean over seeds of what was logged at each."""
    logged: dict[float, list[float]] = {}
    for run in summary.runs.values():
        for entry in run["history"]:
            if entry.get(key) is not None:
                logged.setdefault(entry["epoch"], []).append(entry[key])
    return list(logged), [sum(values) / len(values) for values in logged.values()]
