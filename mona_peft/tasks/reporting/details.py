"""What a report shows of one evaluation besides the task's metrics: tables, figures and pictures, a task each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import PIL.Image
from matplotlib.figure import Figure

from mona_peft.tasks.data.dataset import ImageDataset
from mona_peft.tasks.objects.evaluation import CocoTrainer, class_precisions, precision_recall
from mona_peft.tasks.reporting.overlays import overlay_text
from mona_peft.tasks.segmentation.evaluation import SegmentationMetrics

MAX_MISTAKES = 12
MAX_IN_FIGURE = 20
"""Of more classes the figures show those that most is to be said of."""


@dataclass
class Table:
    """A table: one row a class, or a true class; a large one is in a file of its own alone."""

    title: str
    header: list[str]
    rows: list[list[Any]]
    in_page: bool = True


@dataclass
class Details:
    """What is to be shown of an evaluation.

    Attributes:
        tables: Written as CSV too.
        figures: By their titles.
        pictures: With what is to be said of each.
        pictures_title: What they are.
    """

    tables: list[Table] = field(default_factory=list)
    figures: dict[str, Figure] = field(default_factory=dict)
    pictures: list[tuple[str, PIL.Image.Image]] = field(default_factory=list)
    pictures_title: str = ""


@dataclass
class Evaluated:
    """What is left of an evaluation, as far as its task has it.

    Attributes:
        predictions: (B, num_classes) Scores.
        label_ids: (B,) True classes.
        confusion: (C, C) Number of pixels, true classes in rows.
        objects: COCO's evaluations, by the prefixes of the metrics.
    """

    predictions: np.ndarray | None = None
    label_ids: np.ndarray | None = None
    confusion: np.ndarray | None = None
    objects: dict[str, Any] = field(default_factory=dict)


def evaluated_by(trainer: Any) -> Evaluated:
    """Returns what is left of the last evaluation of a trainer."""
    output, metrics = trainer.last_output, trainer.compute_metrics
    return Evaluated(
        output.predictions,
        output.label_ids,
        metrics.last_confusion if isinstance(metrics, SegmentationMetrics) else None,
        trainer.evaluations if isinstance(trainer, CocoTrainer) else {},
    )


def classification_details(evaluated: Evaluated, images: ImageDataset, classes: Sequence[str]) -> Details:
    """Shows precision and recall of each class, which are taken for which, and the most confident mistakes."""
    scores = np.asarray(evaluated.predictions, dtype=np.float64)
    truth, predicted = np.asarray(evaluated.label_ids), scores.argmax(-1)
    if truth.ndim == 2:
        return _several_classes(scores, truth, classes)
    confusion = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(confusion, (truth, predicted), 1)
    hits, true, found = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    columns = (true.tolist(), _shares(hits, found), _shares(hits, true), _shares(2 * hits, true + found))
    rows = [[name, *numbers] for name, *numbers in zip(classes, *columns, strict=True)]
    details = Details(
        [
            Table("Classes", ["class", "images", "precision", "recall", "F1"], rows),
            Table(
                "Confusion matrix (true classes in rows)",
                ["", *classes],
                [[name, *row] for name, row in zip(classes, confusion.tolist(), strict=True)],
                in_page=len(classes) <= MAX_IN_FIGURE,  # a thousand classes are a million cells
            ),
        ],
        {"Confusion matrix, in shares of the images of a class": confusion_figure(confusion, classes)},
        pictures_title="Most confident mistakes",
    )
    probabilities = np.exp(scores - scores.max(-1, keepdims=True))
    probabilities /= probabilities.sum(-1, keepdims=True)
    sureness = np.where(predicted == truth, -1, probabilities.max(-1))
    for row in np.argsort(-sureness, kind="stable")[:MAX_MISTAKES]:
        if sureness[row] >= 0:
            lines = [f"{classes[predicted[row]]} {sureness[row]:.2f}", f"true: {classes[truth[row]]}"]
            details.pictures.append((images.name(int(row)), overlay_text(images.image(int(row)), lines)))
    return details


def _several_classes(logits: np.ndarray, truth: np.ndarray, classes: Sequence[str]) -> Details:
    """Shows precision and recall of classes of which an image may show several: those of a score above a half."""
    true, found = truth > 0, logits > 0
    hits, counts, predicted = (some.sum(0) for some in (true & found, true, found))
    columns = (counts.tolist(), _shares(hits, predicted), _shares(hits, counts), _shares(2 * hits, counts + predicted))
    rows = [[name, *numbers] for name, *numbers in zip(classes, *columns, strict=True)]
    return Details([Table("Classes", ["class", "images", "precision", "recall", "F1"], rows)])


def confusion_figure(confusion: np.ndarray, classes: Sequence[str]) -> Figure:
    """Draws a confusion matrix, of many classes those that are taken for another most often."""
    wrong = confusion.sum(0) + confusion.sum(1) - 2 * np.diag(confusion)
    shown = np.sort(np.argsort(-wrong, kind="stable")[:MAX_IN_FIGURE])
    shares = confusion[np.ix_(shown, shown)] / np.maximum(confusion.sum(1)[shown, None], 1)
    side = 2.5 + 0.4 * len(shown)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    drawn = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(drawn, ax=axes, shrink=0.7)
    names = [classes[number] for number in shown]
    axes.set_xticks(range(len(shown)), names, rotation=90)
    axes.set_yticks(range(len(shown)), names)
    axes.set(xlabel="predicted", ylabel="true")
    if len(shown) <= 12:
        for row, column in np.ndindex(shares.shape):
            colour = "white" if shares[row, column] > 0.5 else "black"
            count = confusion[shown[row], shown[column]]
            axes.text(column, row, count, ha="center", va="center", color=colour, fontsize=8)
    return figure


def segmentation_details(evaluated: Evaluated, images: ImageDataset, classes: Sequence[str]) -> Details:
    """Shows the intersection over union of each class, and which are taken for which."""
    confusion = evaluated.confusion
    hits, true, found = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    pixels = np.full_like(true, confusion.sum())
    columns = (_shares(true, pixels), _shares(hits, true + found - hits), _shares(hits, found), _shares(hits, true))
    rows = [[name, *numbers] for name, *numbers in zip(classes, *columns, strict=True)]
    return Details(
        [Table("Classes", ["class", "share of pixels", "IoU", "precision", "recall"], rows)],
        {"Confusion matrix, in shares of the pixels of a class": confusion_figure(confusion, classes)},
    )


def object_details(evaluated: Evaluated, images: ImageDataset, classes: Sequence[str]) -> Details:
    """Shows the average precision of each class, of small, medium and large objects, and how recall costs precision."""
    details = Details()
    for prefix, evaluation in evaluated.objects.items():
        header = ["class", "objects", "AP", "AP50", "AP75", "AP, small", "AP, medium", "AP, large"]
        numbers = class_precisions(evaluation)
        rows = [[name, *numbers[number]] for number, name in enumerate(classes)]
        details.tables.append(Table(f"Classes, by {prefix}", header, rows))
        figure = Figure(figsize=(7, 5), layout="constrained")
        axes = figure.subplots()
        recall, precision = precision_recall(evaluation)  # (101,), (classes, 101)
        known = [number for number in range(len(classes)) if (precision[number] >= 0).any()]
        shown = sorted(known, key=lambda number: precision[number].mean())[:MAX_IN_FIGURE]
        for number in sorted(shown):
            axes.plot(recall, precision[number], label=classes[number], linewidth=1)
        if known:
            axes.plot(recall, precision[known].mean(0), "k--", label="mean of all", linewidth=2)
            axes.legend(fontsize=7, ncols=2)
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        axes.grid(alpha=0.3)
        details.figures[f"Precision and recall, by {prefix}, at an overlap of 0.5"] = figure
    return details


def _shares(parts: np.ndarray, wholes: np.ndarray) -> list[float | None]:
    return [part / whole if whole else None for part, whole in zip(parts.tolist(), wholes.tolist(), strict=True)]


DETAILS: dict[str, Callable[[Evaluated, ImageDataset, Sequence[str]], Details]] = {
    "image-classification": classification_details,
    "semantic-segmentation": segmentation_details,
    "object-detection": object_details,
    "instance-segmentation": object_details,
}
"""From an evaluation, the images and the names of the classes, by the names of the tasks on the command line."""
