"""What was predicted, drawn over the images."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image
from faster_coco_eval.core import mask as mask_api

from mona_peft.tasks.data.segmentation.loading import BACKGROUND
from mona_peft.tasks.reporting.overlays import (
    overlay_boxes,
    overlay_class_map,
    overlay_masks,
    overlay_text,
    palette,
    paste_legend,
)

MAX_CLASSES = 3
"""How many classes of an image are written on it."""


def draw_classes(image: PIL.Image.Image, scores: np.ndarray, labels: Sequence[str]) -> PIL.Image.Image:
    """Writes the classes of highest score on an image."""
    best = np.argsort(-scores, kind="stable")[:MAX_CLASSES]
    return overlay_text(image, [f"{labels[number]} {scores[number]:.2f}" for number in best])


def draw_objects(image: PIL.Image.Image, found: Sequence[dict[str, Any]], labels: Sequence[str]) -> PIL.Image.Image:
    """Draws boxes, and masks where there are any, the surest on top.

    Args:
        image: In RGB.
        found: Entries in COCO's format of results.
        labels: Names of the classes.
    """
    found = sorted(found, key=lambda entry: entry["score"])
    classes = [entry["category_id"] for entry in found]
    if found and "segmentation" in found[0]:
        image = image.copy()
        for entry in found:  # one at a time: the masks of a large image don't fit into the memory together
            left, top, width, height = (int(edge) for edge in entry["bbox"])
            mask = mask_api.decode(entry["segmentation"])[top : top + height, left : left + width].astype(bool)
            part = image.crop((left, top, left + width, top + height))
            image.paste(overlay_masks(part, mask[None], [entry["category_id"]], len(labels)), (left, top))
    boxes = np.array([entry["bbox"] for entry in found], dtype=float).reshape(-1, 4)
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    return overlay_boxes(image, corners, classes, labels, [entry["score"] for entry in found])


def draw_class_map(image: PIL.Image.Image, class_map: np.ndarray, labels: Sequence[str]) -> PIL.Image.Image:
    """Paints the classes of the pixels; the one called `background` is left unpainted. A legend names them."""
    unpainted = [number for number, label in enumerate(labels) if label == BACKGROUND]
    picture = overlay_class_map(image, class_map, len(labels), unpainted, opacity=0.5)
    present = [number for number in np.unique(class_map) if number not in unpainted]
    colours = palette(len(labels))
    return paste_legend(picture, {labels[number]: colours[number] for number in present})


def mask_image(class_map: np.ndarray, count: int) -> PIL.Image.Image:
    """Returns a class map as a picture whose pixels are class numbers, shown in the colours of the classes.

    More than 256 classes fit into no palette: then it has 16 bits and no colours.
    """
    picture = PIL.Image.fromarray(class_map)
    if count <= 256:
        picture.putpalette(palette(count).ravel().tolist())
    return picture


DRAW = {
    "image-classification": draw_classes,
    "semantic-segmentation": draw_class_map,
    "object-detection": draw_objects,
    "instance-segmentation": draw_objects,
}
"""From an image, a result and the names of the classes to a picture, by the names of the tasks on the command line."""
