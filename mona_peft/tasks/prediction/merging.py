"""Large images in overlapping windows: where they lie, and what was found in them joined to one result."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as mask_api

from mona_peft.tasks.segmentation.inference import windows

Window = tuple[int, int, int, int]
"""Left, top, right and bottom edge in pixels."""

SAME_OBJECT = 0.5
"""Two findings of a class are one object if they share this part of the smaller one, as an object that a window cuts
has only a part of itself there (SAHI, arXiv:2202.06934)."""


def image_windows(width: int, height: int, side: int, overlap: float) -> Iterator[Window]:
    """Yields windows that cover an image, neighbours overlapping; those at the edges end there.

    Args:
        width: Of the image.
        height: Of the image.
        side: Of a window in pixels.
        overlap: Least share of the side that neighbours have in common.
    """
    stride = max(1, int(side * (1 - overlap)))
    for rows, columns in windows(height, width, side, stride):
        yield columns.start, rows.start, columns.stop, rows.stop


def merge_objects(
    parts: Sequence[Sequence[dict[str, Any]]], places: Sequence[Window], size: tuple[int, int]
) -> list[dict[str, Any]]:
    """Joins what was found in windows of an image.

    Findings of a class that are one object become one: with the score of the surest, and box and mask of all.

    Args:
        parts: What was found in each window, in its own pixels, in COCO's format of results.
        places: The windows.
        size: (height, width) of the image.
    """
    entries = [_placed(entry, place, size) for part, place in zip(parts, places, strict=True) for entry in part]
    entries.sort(key=lambda entry: -entry["score"])
    merged: list[dict[str, Any]] = []
    while entries:
        best, *entries = entries
        same = [_is_same(best, entry) for entry in entries]
        merged.append(_union([best, *(entry for entry, is_same in zip(entries, same, strict=True) if is_same)]))
        entries = [entry for entry, is_same in zip(entries, same, strict=True) if not is_same]
    return merged


def _placed(entry: dict[str, Any], place: Window, size: tuple[int, int]) -> dict[str, Any]:
    """Moves an entry from its window to its place in the image."""
    left, top, right, bottom = place
    x, y, width, height = entry["bbox"]
    placed = {**entry, "bbox": [x + left, y + top, width, height]}
    if "segmentation" in entry and (right - left, bottom - top) != size[::-1]:
        mask = np.zeros(size, dtype=np.uint8, order="F")
        mask[top:bottom, left:right] = mask_api.decode(entry["segmentation"])
        placed["segmentation"] = mask_api.encode(mask)
    return placed


def _is_same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    if one["category_id"] != other["category_id"]:
        return False
    (left, top, width, height), (x, y, w, h) = one["bbox"], other["bbox"]
    across, down = min(left + width, x + w) - max(left, x), min(top + height, y + h) - max(top, y)
    if across <= 0 or down <= 0:
        return False
    if "segmentation" in one:
        masks = [one["segmentation"], other["segmentation"]]
        return mask_api.area(mask_api.merge(masks, True)) >= SAME_OBJECT * min(map(mask_api.area, masks))
    return across * down >= SAME_OBJECT * min(width * height, w * h)


def _union(same: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns several findings of an object, the surest first, as one."""
    joined = dict(same[0])
    if "segmentation" in joined:
        joined["segmentation"] = mask_api.merge([entry["segmentation"] for entry in same], False)
        joined["bbox"] = mask_api.toBbox(joined["segmentation"]).tolist()
        return joined
    boxes = np.array([entry["bbox"] for entry in same])
    left, top = boxes[:, :2].min(0)
    right, bottom = (boxes[:, :2] + boxes[:, 2:]).max(0)
    joined["bbox"] = [float(left), float(top), float(right - left), float(bottom - top)]
    return joined


def join_class_maps(parts: Sequence[np.ndarray], places: Sequence[Window], size: tuple[int, int]) -> np.ndarray:
    """Lays class maps of windows together: each pixel is that of the window in whose middle it lies most.

    At a window's edge a model sees one side of things only. Scores are not averaged: those of all classes, of a large
    image, would need gigabytes.

    Args:
        parts: Class maps of the windows.
        places: The windows.
        size: (height, width) of the image.
    """
    joined = np.zeros(size, dtype=parts[0].dtype)
    depth = np.full(size, -1, dtype=np.int32)
    for part, (left, top, right, bottom) in zip(parts, places, strict=True):
        # At an edge of the image there is nothing more to see, so it does not count as an edge of the window.
        rows = _depth(top, bottom, size[0])[:, None]
        columns = _depth(left, right, size[1])[None]
        inside = np.minimum(rows, columns)
        better = inside > depth[top:bottom, left:right]
        joined[top:bottom, left:right][better] = part[better]
        depth[top:bottom, left:right][better] = inside[better]
    return joined


def _depth(start: int, stop: int, length: int) -> np.ndarray:
    """Returns how far each pixel of a window lies from those of its edges that are none of the image."""
    pixels = np.arange(stop - start, dtype=np.int32)
    far = np.iinfo(np.int32).max
    return np.minimum(pixels if start > 0 else far, pixels[::-1] if stop < length else far)
