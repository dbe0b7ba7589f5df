"""Pictures of a run. Figures are made without pyplot: no display, no state that outlives a call."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mona_peft.tasks.task import Task
from mona_peft.tasks.training.run_directory import replace_file

History = Sequence[Mapping[str, Any]]
"""`Trainer.state.log_history`: records with `epoch` and what was logged then."""


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG, whole or not at all."""
    with replace_file(path) as new:
        figure.savefig(new, dpi=150)


def plot_curves(histories: Mapping[str, History], path: Path, task: Task) -> None:
    """Draws loss and a task's main validation metric over epochs.

    Args:
        histories: One history a method, by the name in the legend.
        path: Of the PNG.
        task: What was trained for.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    loss_axes, metric_axes = figure.subplots(1, 2)
    draw_loss(loss_axes, histories)
    draw_metric(metric_axes, histories, task.main_metric, task.metrics[task.main_metric])
    save_figure(figure, path)


def draw_loss(axes: Axes, histories: Mapping[str, History]) -> None:
    """Draws training loss (solid) and validation loss (dashed, with marks)."""
    for number, (name, history) in enumerate(histories.items()):
        axes.plot(*_series(history, "loss"), color=f"C{number}", label=f"{name}, training")
        axes.plot(*_series(history, "eval_loss"), "o--", markersize=3, color=f"C{number}", label=f"{name}, validation")
    axes.set(xlabel="epoch", ylabel="loss")
    axes.grid(alpha=0.3)
    axes.legend()


def draw_metric(axes: Axes, histories: Mapping[str, History], metric: str, label: str) -> None:
    """Draws a validation metric."""
    for number, (name, history) in enumerate(histories.items()):
        axes.plot(*_series(history, f"eval_{metric}"), "o-", markersize=3, color=f"C{number}", label=name)
    axes.set(xlabel="epoch", ylabel=f"{label}, validation")
    axes.grid(alpha=0.3)
    axes.legend()


def _series(history: History, key: str) -> tuple[list[float], list[float]]:
    points = [(record["epoch"], record[key]) for record in history if key in record]
    return [epoch for epoch, _ in points], [value for _, value in points]
