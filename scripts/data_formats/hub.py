"""Datasets as the hub has them: tables in Parquet, a few rows each, and what lies beside them."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image

from scripts.data_formats.images import text
from scripts.data_formats.objects import BOXES

NAMES = ["cat", "dog"]
SPLITS = {"train": 4, "validation": 2}


def hub(features: dict[str, Any], row: Callable[[int], dict[str, Any]], **more: Any) -> Callable[[Path], None]:
    """A table a split; further files by their names."""

    def build(folder: Path) -> None:
        for part, (split, count) in enumerate(SPLITS.items()):
            rows = [row(10 * part + number) for number in range(count)]
            place = folder / "data" / f"{split}-00000-of-00001.parquet"
            place.parent.mkdir(parents=True, exist_ok=True)
            Dataset.from_list(rows, features=Features(features)).to_parquet(place)
        for name, content in more.items():
            text(folder / name.replace("__", "."), content)

    return build


def stored(pixels: np.ndarray) -> dict[str, Any]:
    """A picture as it lies in a table."""
    content = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(content, "PNG")
    return {"bytes": content.getvalue(), "path": None}


def noise(seed: int) -> dict[str, Any]:
    """A picture that no other seed has."""
    return stored(np.random.default_rng(seed).integers(0, 255, (40, 48, 3)))


def instance_map(seed: int) -> dict[str, Any]:
    """Red tells the class from 1, green the instance, as in `qubvel-hf/ade20k-mini`."""
    pixels = np.zeros((40, 48, 3))
    for number, (x, y, w, h) in enumerate(BOXES.values(), 1):
        pixels[y : y + h, x : x + w, :2] = number, seed % 5
    return stored(pixels)


def class_map(seed: int) -> dict[str, Any]:
    """Numbers of two classes."""
    return stored(np.indices((40, 48))[1] > 20 + seed % 5)


classes = hub(
    {"image": ImageFeature(), "label": ClassLabel(names=NAMES)},
    lambda number: {"image": noise(number), "label": number % 2},
)
cppe5 = hub(
    {
        **{"image_id": Value("int64"), "image": ImageFeature(), "width": Value("int32"), "height": Value("int32")},
        "objects": {
            **{
                "id": List(Value("int64")),
                "area": List(Value("int64")),
                "bbox": List(List(Value("float32"), length=4)),
            },
            "category": List(ClassLabel(names=NAMES)),
        },
    },
    lambda number: {
        **{"image_id": number, "image": noise(number), "width": 48, "height": 40},
        "objects": {
            "id": [2 * number, 2 * number + 1],
            "area": [w * h for _, _, w, h in BOXES.values()],
            "bbox": list(BOXES.values()),
            "category": [0, 1],
        },
    },
)
ade20k_mini = hub(
    {
        **{"image": ImageFeature(), "annotation": ImageFeature()},
        "semantic_class_to_id": {name: Value("int64") for name in ("nothing", *NAMES)},
    },
    lambda number: {
        **{"image": noise(number), "annotation": instance_map(number)},
        "semantic_class_to_id": {"nothing": 0, "cat": 1, "dog": 2},
    },
)
sidewalk = hub(
    {"pixel_values": ImageFeature(), "label": ImageFeature()},
    lambda number: {"pixel_values": noise(number), "label": class_map(number)},
    id2label__json={"0": "ground", "1": "plant"},
)
