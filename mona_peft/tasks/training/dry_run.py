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
from mona_peft.tasks.data.stored import UNREADABLE, read_header
from mona_peft.tasks.messages import first_of
from mona_peft.tasks.reporting.overlays import overlay_boxes, overlay_class_map, overlay_masks, save_grid
from mona_peft.tasks.training.setup import Data

PICTURE = "data.png"
NUM_PICTURES = 10
MOST_COMPARED = 500
"""How many images of a split are compared, to find those that look the same."""

TINY, UNEVEN = 8, 20
"""Side in pixels of a tiny box; and how many times rarer than the commonest a class is where it is told of."""


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
    lines += [f"  odd: {text}" for text in _odd(data, decoding)]
    shown = _evenly(data.splits["train"], NUM_PICTURES)
    pictures = [_draw(row, read_image(row["image"], decoding), data) for row in shown]
    output_dir.mkdir(parents=True, exist_ok=True)
    save_grid(pictures, output_dir / PICTURE, columns=2, title="training images")
    lines.append(f"  {len(pictures)} of them with their annotation are in {output_dir / PICTURE}. Nothing was trained.")
    return "\n".join(lines)


def _evenly(rows: Dataset, count: int) -> Dataset:
    return rows.select(np.unique(np.linspace(0, len(rows) - 1, count).round().astype(int)))


def _odd(data: Data, decoding: Any) -> Iterator[str]:
    """Yields what is odd: rare classes, tiny boxes, images that look the same."""
    rows = data.splits["train"]
    counts = None
    if "label" in rows.features:
        counts = image_counts(rows)
    elif "objects" in rows.features:
        counts = object_counts(rows)
        boxes = [box for boxes in rows.flatten()["objects.bbox"][:] for box in boxes]
        tiny = sum(min(box[2:]) < TINY for box in boxes)
        if tiny:
            yield f"{tiny} of {len(boxes)} boxes have a side of less than {TINY} pixels"
    if counts is not None:
        rare = {name: count for name, count in zip(data.classes, counts, strict=True) if count * UNEVEN < max(counts)}
        if rare:
            told = first_of([f"{name} {count}" for name, count in rare.items()])
            yield f"{len(rare)} classes are more than {UNEVEN} times rarer than the commonest, {max(counts)}: {told}"
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
    """Draws the annotation of a row over its image."""
    count = len(data.classes)
    if "mask" in row:
        return overlay_class_map(image, data.masks.class_map(row["mask"], "mask"), count)
    if "objects" in row:
        objects = row["objects"]
        if "mask" in objects:
            image = overlay_masks(image, decode_masks(objects, *image.size), objects["category"], count)
        boxes = np.array(objects["bbox"], dtype=float).reshape(-1, 4)
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
        return overlay_boxes(image, corners, objects["category"], data.classes)
    label = row["label"] if isinstance(row["label"], list) else [row["label"]]
    corner = np.array([[0, 0, image.width, image.height]] * len(label), dtype=float).reshape(-1, 4)
    return overlay_boxes(image, corner, label, data.classes)
