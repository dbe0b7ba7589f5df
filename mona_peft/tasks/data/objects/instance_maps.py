"""Datasets whose instances are drawn into a picture beside each image: red tells the class, green the instance.

As in transformers' example of instance segmentation, and in sets such as `qubvel-hf/ade20k-mini`.
"""

import json
from typing import Any

import datasets
import numpy as np
from datasets import Dataset
from faster_coco_eval.core import mask as mask_api

from mona_peft.tasks.data.objects.annotated_images import AnnotatedImage, AnnotatedSplit
from mona_peft.tasks.data.stored import open_stored

MAP_NAMES = ("annotation", "annotations", "mask", "label", "instance_map")
NAMES_COLUMN = "semantic_class_to_id"


def has_instance_maps(dataset: Dataset, image_column: str | None = None) -> bool:
    """Tells whether a dataset has a column of instance maps beside that of its images."""
    return _map_column(dataset, image_column) is not None and NAMES_COLUMN in dataset.features


def _map_column(dataset: Dataset, image_column: str | None) -> str | None:
    images = [name for name, kind in dataset.features.items() if isinstance(kind, datasets.Image)]
    return next((name for name in MAP_NAMES if name in images and name != image_column), None)


def read_instance_maps(
    dataset: Dataset, split: str, image_column: str | None, reduce_labels: bool = False
) -> AnnotatedSplit:
    """Reads a split.

    Args:
        dataset: The split, with images, instance maps and `semantic_class_to_id`.
        split: What a message says of it.
        image_column: None takes the other column of images.
        reduce_labels: Whether the class 0 stands for what is no object.

    Raises:
        ValueError: A map is no picture in colours, or tells a class without a name; names the row.
    """
    column = _map_column(dataset, image_column)
    others = [name for name, kind in dataset.features.items() if isinstance(kind, datasets.Image) and name != column]
    numbers = dataset[0][NAMES_COLUMN]
    numbers = json.loads(numbers) if isinstance(numbers, str) else numbers
    names = {int(number): name for name, number in numbers.items() if number is not None}
    if reduce_labels or names.get(0, "").casefold() in ("background", "wall and other", "other"):
        names.pop(0, None)
    pictures = dataset.select_columns([image_column or others[0]]).rename_columns({image_column or others[0]: "image"})
    maps = dataset.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    images = []
    for row, values in enumerate(maps):
        where = f"row {row} of the {split} split"
        with open_stored(values[column]) as stored:
            if stored.mode not in ("RGB", "RGBA"):
                raise ValueError(f"The {column} of {where} is a picture in {stored.mode}; instance maps are in RGB.")
            pixels = np.asarray(stored)
        images.append(AnnotatedImage(row, f"The image of {where}", _objects(pixels, names, where, 0 not in names)))
    return AnnotatedSplit(names, images, pictures.cast_column("image", datasets.Image(decode=False)))


def _objects(pixels: np.ndarray, names: dict[int, str], where: str, skip_zero: bool) -> list[dict[str, Any]]:
    codes = pixels[..., 0].astype(np.int32) * 256 + pixels[..., 1]
    objects = []
    for code in np.unique(codes):
        category = int(code) // 256
        if category == 0 and skip_zero:
            continue
        if category not in names:
            raise ValueError(f"{where}: its map has the class {category}, which has no name in {NAMES_COLUMN}.")
        mask = mask_api.encode(np.asfortranarray(codes == code, dtype=np.uint8))
        place = f"{where}, instance {code % 256} of class {names[category]}"
        objects.append(
            {
                "bbox": mask_api.toBbox([mask])[0].tolist(),
                "segmentation": {"size": mask["size"], "counts": mask["counts"].decode()},
                "category": category,
                "where": place,
            }
        )
    return objects
