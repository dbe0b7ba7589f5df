"""What `--dry_run` shows: what was understood of the data, what is odd, and ten images as they are annotated."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from PIL import Image

from mona_peft.tasks.data.arguments import SharedDataArguments, choose_decoding
from mona_peft.tasks.data.classification import class_counts as image_counts
from mona_peft.tasks.data.decoding import read_image
from mona_peft.tasks.data.objects.check import decode_masks
from mona_peft.tasks.data.objects.loading import class_counts as object_counts
from mona_peft.tasks.data.segmentation.dataset import resize_class_map
from mona_peft.tasks.data.segmentation.masks import UNCOUNTED
from mona_peft.tasks.data.stored import UNREADABLE, read_header
from mona_peft.tasks.messages import first_of
from mona_peft.tasks.reporting.overlays import overlay_boxes, overlay_class_map, overlay_masks, palette, save_grid
from mona_peft.tasks.training.setup import Data

PICTURE = "data.png"
NUM_PICTURES = 10
MOST_COMPARED = 500
"""How many images of a split are compared, to find those that look the same."""

TINY, UNEVEN, FEW = 8, 20, 5
"""Side in pixels of a tiny box; how many times rarer than the commonest a class is where that is told; what is few."""

SIDE, MOST_NAMED = 288, 30
"""Longest side of a picture that is drawn on, in pixels; of how many classes it is told how many there are."""


def dry_run(data: Data, args: SharedDataArguments, output_dir: Path) -> str:
    """Reads data, writes ten annotated images to `data.png` in a folder, and returns what a person reads.

    Args:
        data: As loaded for training.
        args: How it was to be read.
        output_dir: The folder.

    Raises:
        ValueError: An image can't be read; names it.
    """
    decoding = choose_decoding(data.splits, args)
    lines = [f"{data.name}: {len(data.classes)} classes ({first_of(data.classes, 20)})"]
    for split, rows in data.splits.items():
        sizes = np.array([read_header(row["image"]).size for row in rows.select_columns("image")])
        middle = " × ".join(str(int(side)) for side in np.median(sizes, 0))
        lines.append(
            f"  {split}: {len(rows)} images, from {' × '.join(map(str, sizes.min(0)))} to "
            f"{' × '.join(map(str, sizes.max(0)))} pixels, in the middle {middle}"
        )
        lines.append(f"    {_contents(rows, data)}")
    lines += [f"  odd: {text}" for text in _odd(data, decoding)]
    shown = _evenly(data.splits["train"], NUM_PICTURES)
    pictures = [_draw(row, read_image(row["image"], decoding), data) for row in shown]
    output_dir.mkdir(parents=True, exist_ok=True)
    legend = dict(zip(data.classes, palette(len(data.classes)), strict=True))
    save_grid(pictures, output_dir / PICTURE, NUM_PICTURES // 2, "training images", legend)
    lines.append(f"  {len(pictures)} of them with their annotation are in {output_dir / PICTURE}. Nothing was trained.")
    return "\n".join(lines)


def _contents(rows: Dataset, data: Data) -> str:
    """Says what the images of a split show: how many of each class, or its share of the pixels."""
    if "mask" in rows.features:
        pixels = sum(_pixel_counts(row, data) for row in _evenly(rows, min(len(rows), MOST_COMPARED)))
        shares = [f"{name} {share:.1%}" for name, share in zip(data.classes, pixels / pixels.sum(), strict=True)]
        return f"pixels of each class: {first_of(shares, MOST_NAMED)}"
    counts = image_counts(rows) if "label" in rows.features else object_counts(rows)
    kind = "images of each class" if "label" in rows.features else f"{sum(counts)} objects"
    told = [f"{name} {count}" for name, count in zip(data.classes, counts, strict=True)]
    return f"{kind}: {first_of(told, MOST_NAMED)}"


def _pixel_counts(row: dict[str, Any], data: Data) -> np.ndarray:
    """Returns (C,) how many pixels of a mask each class has."""
    class_map = data.masks.class_map(row["mask"], "mask")
    return np.bincount(class_map[class_map != UNCOUNTED], minlength=len(data.classes))


def _evenly(rows: Dataset, count: int) -> Dataset:
    return rows.select(np.unique(np.linspace(0, len(rows) - 1, count).round().astype(int)))


def _odd(data: Data, decoding: Any) -> Iterator[str]:
    """Yields what is odd: empty and rare classes, tiny boxes, images that look the same."""
    rows = data.splits["train"]
    if "label" in rows.features:
        counts = image_counts(rows)
    elif "mask" in rows.features:  # images that show a class
        some = _evenly(rows, min(len(rows), MOST_COMPARED))
        counts = sum((_pixel_counts(row, data) > 0).astype(int) for row in some).tolist()
    else:
        counts = object_counts(rows)
        boxes = [box for boxes in rows.flatten()["objects.bbox"][:] for box in boxes]
        tiny = sum(min(box[2:]) < TINY for box in boxes)
        if tiny:
            yield f"{tiny} of {len(boxes)} boxes have a side of less than {TINY} pixels"
    by_name = dict(zip(data.classes, counts, strict=True))
    for says, is_so in {
        "nothing to train on": lambda count: count == 0,
        f"fewer than {FEW} to train on": lambda count: 0 < count < FEW,
        f"less than a {UNEVEN}th of the commonest, which has {max(counts)}": lambda count: (
            FEW <= count < max(counts) / UNEVEN
        ),
    }.items():
        if told := [f"{name} {count}" for name, count in by_name.items() if is_so(count)]:
            yield f"{len(told)} of {len(counts)} classes have {says}: {first_of(told)}"
    seen: dict[bytes, list[str]] = defaultdict(list)
    for split, part in data.splits.items():
        for number, row in enumerate(_evenly(part, min(len(part), MOST_COMPARED)).select_columns("image")):
            name = row["image"]["path"] or f"{split} {number}"
            try:
                small = read_image(row["image"], decoding, least=32).convert("L").resize((16, 16), Image.Resampling.BOX)
            except UNREADABLE as error:
                raise ValueError(f"The image {name} can't be read ({error}). Replace or remove it.") from error
            grey = np.asarray(small)
            if np.ptp(grey) > TINY:  # of one colour alone nothing can be told
                seen[(grey > grey.mean()).tobytes()].append(name)
    same = [names for names in seen.values() if len(names) > 1]
    if same:
        yield f"{sum(map(len, same))} images look like others, such as {first_of(same[0], 3)}"


def _draw(row: dict[str, Any], image: Image.Image, data: Data) -> Image.Image:
    """Draws the annotation of a row over its image, which is shrunk before that: names of classes stay legible."""
    count, whole = len(data.classes), image.size
    image.thumbnail((SIDE, SIDE))
    if "mask" in row:
        class_map = resize_class_map(data.masks.class_map(row["mask"], "mask"), image.size)
        return overlay_class_map(image, class_map, count, opacity=0.5)
    if "objects" in row:
        objects = row["objects"]
        if "mask" in objects:
            masks = [resize_class_map(mask, image.size) for mask in decode_masks(objects, *whole)]
            image = overlay_masks(image, np.array(masks).reshape(-1, *image.size[::-1]), objects["category"], count)
        scale = np.array(image.size * 2) / (whole * 2)
        boxes = np.array(objects["bbox"], dtype=float).reshape(-1, 4) * scale
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
        return overlay_boxes(image, corners, objects["category"], data.classes)
    label = row["label"] if isinstance(row["label"], list) else [row["label"]]
    corner = np.array([[0, 0, image.width, image.height]] * len(label), dtype=float).reshape(-1, 4)
    return overlay_boxes(image, corner, label, data.classes)
