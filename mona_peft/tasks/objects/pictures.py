"""Pictures of objects: what is there, and what a model finds before and after it is trained."""

from collections.abc import Sequence
from copy import copy
from pathlib import Path

import numpy as np
from PIL import Image

from mona_peft.tasks.data.dataset import ImageDataset
from mona_peft.tasks.data.objects.check import Objects, decode_masks
from mona_peft.tasks.objects.evaluation import CocoTrainer, Detections
from mona_peft.tasks.reporting.overlays import overlay_boxes, overlay_masks
from mona_peft.tasks.reporting.pictures import PredictionPictures

NUM_PICTURES = 6
MIN_SCORE = 0.5
"""From here on, what was found is drawn; in the metrics all of it counts."""


def object_pictures(trainer: CocoTrainer, images: ImageDataset, classes: Sequence[str]) -> PredictionPictures:
    """Returns the callback that writes `predictions.png`: the first images, the truth, and what was found.

    Args:
        trainer: Holds the model, in whatever state it is when a picture is asked for.
        images: With rows in the form of `data.objects.loading`.
        classes: Names of the classes.
    """
    shown = copy(images)
    shown.rows = images.rows.select(range(min(NUM_PICTURES, len(images))))
    columns = {
        "input": [shown.image(index) for index in range(len(shown))],
        "truth": draw_truth(shown, classes),
    }
    path = Path(trainer.args.output_dir, "predictions.png")
    return PredictionPictures(path, columns, lambda: draw_detections(shown, classes, trainer.find(shown)))


def draw_truth(images: ImageDataset, classes: Sequence[str]) -> list[Image.Image]:
    """Draws the annotated boxes and masks over their images.

    Args:
        images: With rows in the form of `data.objects.loading`.
        classes: Names of the classes.
    """
    return [_draw(images.image(index), row["objects"], classes) for index, row in enumerate(images.rows)]


def draw_detections(images: ImageDataset, classes: Sequence[str], detections: Detections) -> list[Image.Image]:
    """Draws detected objects with a score of at least `MIN_SCORE` over their images, the surest on top.

    Args:
        images: With rows in the form of `data.objects.loading`.
        classes: Names of the classes.
        detections: What was found in them.
    """
    pictures = []
    for index, row in enumerate(images.rows):
        found = [entry for entry in detections.get(row["image_id"], []) if entry["score"] >= MIN_SCORE]
        found.sort(key=lambda entry: entry["score"])
        objects = {
            "bbox": [entry["bbox"] for entry in found],
            "category": [entry["category_id"] for entry in found],
        }
        if all("segmentation" in entry for entry in found):
            objects["mask"] = [entry["segmentation"]["counts"].decode() for entry in found]
        pictures.append(_draw(images.image(index), objects, classes, [entry["score"] for entry in found]))
    return pictures


def _draw(
    image: Image.Image, objects: Objects, classes: Sequence[str], scores: Sequence[float] | None = None
) -> Image.Image:
    boxes = np.array(objects["bbox"]).reshape(-1, 4)
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    if "mask" in objects:
        masks = decode_masks(objects, image.width, image.height)
        image = overlay_masks(image, masks, objects["category"], len(classes))
    return overlay_boxes(image, corners, objects["category"], classes, scores)
