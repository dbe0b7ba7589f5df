"""The pictures of the demonstration on solar cells: confusion matrices, and cells with what Mona changed."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from peft import PeftModel

from mona_peft.tasks.reporting.plots import save_figure
from scripts.demonstration.solar_cells import CLASSES, SolarCells

JUDGED = ("functional", "functional, unsure", "defective, unsure", "defective")
"""What the experts said, by three times the probability of a defect."""

SHOWN = ((1, 1, 4), (1, 0, 2), (0, 0, 4), (0, 1, 2))
"""Label, prediction and number of the cells that are shown: the first ones among the test cells."""


def draw_matrices(
    cells: SolarCells,
    test: np.ndarray,
    scores: Mapping[str, np.ndarray],
    titles: Mapping[str, str],
    output_dir: Path,
) -> None:
    """Draws `demo.png`: what experts said of the test cells, and what each way says.

    Args:
        cells: All.
        test: Numbers of the test cells.
        scores: Of the test cells by each way, (N, 2).
        titles: Of the ways.
        output_dir: Of the file.
    """
    figure = Figure(figsize=(12, 2.9), layout="constrained")
    figure.suptitle("Test cells by what experts said and what the model says")
    for axes, (name, values) in zip(figure.subplots(1, len(scores)), scores.items(), strict=True):
        _confusion(axes, np.rint(3 * cells.probabilities[test]).astype(int), values.argmax(-1), titles[name])
    save_figure(figure, output_dir / "demo.png")


def draw_cells(
    cells: SolarCells, test: np.ndarray, scores: np.ndarray, model: PeftModel, pixels: torch.Tensor, output_dir: Path
) -> None:
    """Draws `cells.png`: test cells right and wrong, and what Mona changed in them.

    It holds images of the dataset, which may be shared under their own licence alone; so it stays with the user.

    Args:
        cells: All.
        test: Numbers of the test cells.
        scores: Of the test cells by Mona, (N, 2).
        model: Adapted by Mona.
        pixels: The test cells as the model takes them.
        output_dir: Of the file.
    """
    figure = Figure(figsize=(12, 6.6), layout="constrained")
    figure.suptitle(
        "The first test cells of each kind, and where Mona pushes towards defective (red) or functional (blue); "
        "errors in red frames"
    )
    predicted, labels = scores.argmax(-1), cells.labels[test]
    chosen = [
        place
        for label, said, count in SHOWN
        for place in np.flatnonzero((labels == label) & (predicted == said))[:count]
    ]
    changes = pushed(model, pixels[chosen])
    strongest = np.abs(changes).max()
    columns = sum(count for *_, count in SHOWN) // 2
    grid = figure.subplots(4, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for index, place in enumerate(chosen):
        row, column = 2 * (index // columns), index % columns
        image, is_right = cells.images[test[place]], labels[place] == predicted[place]
        plain, warm = grid[row, column], grid[row + 1, column]
        plain.imshow(image, cmap="gray", vmin=0, vmax=255)
        plain.set_title(
            f"says {CLASSES[predicted[place]]}\n(experts: {JUDGED[round(3 * cells.probabilities[test[place]])]})",
            color="black" if is_right else "tab:red",
            fontsize=8,
        )
        warm.imshow(image, cmap="gray", vmin=0, vmax=255)
        height, width = image.shape
        warm.imshow(
            changes[index],
            cmap="RdBu_r",
            alpha=0.5,
            extent=(-0.5, width - 0.5, height - 0.5, -0.5),
            interpolation="bicubic",
            vmin=-strongest,
            vmax=strongest,
        )
        for axes in (plain, warm):
            axes.set_axis_on()
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set(color="tab:green" if is_right else "tab:red", linewidth=3)
    figure.supxlabel("Images: ELPV dataset, Buerhop-Lutz et al., CC BY-NC-SA 4.0", fontsize=7)
    save_figure(figure, output_dir / "cells.png")


@torch.no_grad()
def pushed(model: PeftModel, pixels: torch.Tensor) -> np.ndarray:
    """Returns by how much Mona pushes the score of each patch towards defective, (N, H, W).

    The head is linear in the mean of the patches, so that its logit is a mean of scores of patches, besides what the
    class token adds. The same head scores the patches with Mona and without.
    """
    classifier = model.get_base_model()
    with torch.autocast(pixels.device.type, torch.bfloat16):
        after = classifier.dinov2(pixels.to(model.device)).last_hidden_state[:, 1:].float()
        with model.disable_adapter():
            before = classifier.dinov2(pixels.to(model.device)).last_hidden_state[:, 1:].float()
    functional, defective = classifier.classifier.weight[:, after.shape[-1] :].float()
    scores = (after - before) @ (defective - functional)
    side = int(scores.shape[1] ** 0.5)
    return scores.unflatten(1, (side, side)).cpu().numpy()


def _confusion(axes: Axes, judged: np.ndarray, predicted: np.ndarray, title: str) -> None:
    counts = np.array([[np.sum((judged == row) & (predicted == column)) for column in (0, 1)] for row in range(4)])
    shares = counts / counts.sum(1, keepdims=True).clip(1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, f"{count}", ha="center", va="center", color=colour)
    axes.set_xticks([0, 1], CLASSES)
    axes.set_yticks(range(4), JUDGED)
    accuracy = ((judged > 1) == predicted).mean()
    axes.set_title(f"{title}: {accuracy:.1%} right", fontsize=10)
