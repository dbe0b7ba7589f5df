"""Scenes as annotated images, in the form of `scripts.common.coco_data`."""

import io
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict
from faster_coco_eval.core import mask as mask_api

from scripts.common.coco_data import objects_features
from scripts.demonstration.scenes import DigitScenes, Scene, SymbolScenes

NUM_SCENES = {"train": 2000, "validation": 200, "test": 500}


def digit_scenes() -> DatasetDict:
    """Builds scenes of handwritten digits, the same every time: `train`, `validation` and `test`."""
    return DatasetDict({split: scene_rows(DigitScenes(split), count) for split, count in NUM_SCENES.items()})


def scene_rows(scenes: DigitScenes | SymbolScenes, count: int, one_class: str | None = None) -> Dataset:
    """Returns the first scenes of a set as rows in the form of `coco_data`, with masks.

    Args:
        scenes: The set.
        count: How many.
        one_class: Name of a class that takes the place of all others.
    """
    classes = list(scenes.classes) if one_class is None else [one_class]
    rows = [_row(number, scenes.scene(number), one_class is not None) for number in range(count)]
    return Dataset.from_list(rows, features=objects_features(classes, with_masks=True))


def _row(number: int, scene: Scene, one_class: bool) -> dict[str, Any]:
    encoded = io.BytesIO()
    scene.image.save(encoded, "PNG", compress_level=1)
    boxes = scene.boxes
    boxes[:, 2:] -= boxes[:, :2]
    masks = mask_api.encode(np.asfortranarray(scene.masks.transpose(1, 2, 0), dtype=np.uint8))
    return {
        "image": {"bytes": encoded.getvalue(), "path": None},
        "image_id": number,
        "width": scene.image.width,
        "height": scene.image.height,
        "objects": {
            "bbox": boxes.tolist(),
            "category": [0] * len(boxes) if one_class else scene.classes.tolist(),
            "area": scene.masks.sum((1, 2)).tolist(),
            "iscrowd": [False] * len(boxes),
            "mask": [mask["counts"].decode() for mask in masks],
        },
    }
