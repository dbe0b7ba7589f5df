"""Scenes as rows of object detection and instance segmentation data."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from datasets import Dataset, DatasetDict
from faster_coco_eval.core import mask as mask_api

from mona_peft.tasks.data.objects.check import Objects
from mona_peft.tasks.data.objects.loading import objects_features
from mona_peft.tasks.data.stored import stored_png
from scripts.demonstration.scenes import NUM_SCENES, DigitScenes, Scene


class Scenes(Protocol):
    """Scenes by number, each object of one class."""

    def scene(self, number: int) -> Scene:
        """Returns the scene of a number."""


def scene_objects(scene: Scene, with_masks: bool = True) -> Objects:
    """Returns the objects of a scene.

    Args:
        scene: The scene.
        with_masks: Whether objects have masks.
    """
    corners = scene.boxes
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    objects: Objects = {
        "bbox": boxes.astype(float).tolist(),
        "category": scene.classes.tolist(),
        "area": scene.masks.sum((1, 2)).astype(float).tolist(),
        "iscrowd": [False] * len(boxes),
    }
    if with_masks:
        masks = mask_api.encode(np.asfortranarray(scene.masks.transpose(1, 2, 0), dtype=np.uint8))
        objects["mask"] = [mask["counts"].decode() for mask in masks]
    return objects


def scene_rows(
    scenes: Scenes,
    numbers: Iterable[int],
    classes: Sequence[str],
    with_masks: bool = True,
) -> Dataset:
    """Returns scenes in the form of `data.objects.loading`.

    Args:
        scenes: The scenes.
        numbers: Of those wanted.
        classes: Names of the classes.
        with_masks: As in `scene_objects`.
    """
    rows: list[Mapping[str, Any]] = []
    for number in numbers:
        scene = scenes.scene(number)
        width, height = scene.image.size
        rows.append(
            {
                "image": stored_png(scene.image),
                "image_id": number,
                "width": width,
                "height": height,
                "objects": scene_objects(scene, with_masks),
            }
        )
    return Dataset.from_list(rows, features=objects_features(list(classes), with_masks))


def digit_scenes(with_masks: bool = True) -> DatasetDict:
    """Returns the splits `train`, `validation` and `test` of the embedded default, the same every time.

    No two splits share a scan or a photograph.

    Args:
        with_masks: Whether objects have masks.
    """
    return DatasetDict(
        {
            split: scene_rows(DigitScenes(split), range(count), DigitScenes.classes, with_masks=with_masks)
            for split, count in NUM_SCENES.items()
        }
    )
