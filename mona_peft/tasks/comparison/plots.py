"""Pictures of a comparison."""

from pathlib import Path

from matplotlib import colormaps
from matplotlib.figure import Figure

from mona_peft.tasks.comparison.rows import METHOD_ROWS, REFERENCE
from mona_peft.tasks.comparison.summary import Summary, evaluated_splits
from mona_peft.tasks.comparison.tables import Summaries
from mona_peft.tasks.reporting.plots import save_figure
from mona_peft.tasks.task import Task

COLOURS = {row.name: colormaps["tab20"]((2 * number + number // 10) % 20) for number, row in enumerate(METHOD_ROWS)}
COLOURS[REFERENCE] = (0.0, 0.0, 0.0, 1.0)
FAR_BELOW = 0.5
"""Results below this share of the best one are drawn at the lower edge, for the others to be told apart."""


def draw_results(summaries: Summaries, task: Task, path: Path) -> None:
    """Draws results on the last split, mean and spread over seeds, against the number of trained parameters.

    Nothing is drawn where there are no methods to compare, but widths or designs alone.
    """
    shown = {row: summaries[row.name] for row in METHOD_ROWS if row.name in summaries}
    if not shown:
        return
    *_, split = evaluated_splits(summaries)
    results = {row: summary.result(split) for row, summary in shown.items()}
    best = max(result.mean for result in results.values())
    lowest = min(
        result.mean - (result.deviation or 0) for result in results.values() if result.mean >= FAR_BELOW * best
    )
    figure = Figure(figsize=(10, 5), layout="constrained")
    axes = figure.subplots()
    for row, summary in shown.items():
        result, label = results[row], row.title
        is_far_below = result.mean < FAR_BELOW * best
        if is_far_below:
            label += f" ({100 * result.mean:.1f} %, far below)"
        axes.errorbar(
            summary.first["parameters"]["trainable"],
            100 * (lowest if is_far_below else result.mean),
            yerr=None if result.deviation is None or is_far_below else 100 * result.deviation,
            linestyle="none",
            marker="v" if is_far_below else "*" if row.name == REFERENCE else "o",
            markersize=15 if row.name == REFERENCE else 7,
            capsize=3,
            color=COLOURS[row.name],
            label=label,
        )
    axes.set(
        xscale="log",
        xlabel="trained parameters, head included",
        ylabel=f"{task.metrics[task.main_metric]} on the {split} images, %",
    )
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=9)
    save_figure(figure, path)


def draw_curves(summaries: Summaries, task: Task, path: Path) -> None:
    """Draws losses and validation results at the chosen rates, means over seeds (the first as the paper's Figure 5)."""
    curves = {
        "loss": "training loss",
        "eval_loss": "validation loss",
        f"eval_{task.main_metric}": f"{task.metrics[task.main_metric]}, validation",
    }
    figure = Figure(figsize=(16, 5), layout="constrained")
    for axes, (key, label) in zip(figure.subplots(1, len(curves)), curves.items(), strict=True):
        for row in METHOD_ROWS:
            if row.name in summaries:
                epochs, losses = mean_curve(summaries[row.name], key)
                width = 2.5 if row.name == REFERENCE else 1.2
                axes.plot(epochs, losses, label=row.title, color=COLOURS[row.name], linewidth=width)
        axes.set(xlabel="epoch", ylabel=label)
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
