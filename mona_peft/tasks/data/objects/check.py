"""Checks of annotated objects before training starts: boxes, masks and what is left of them inside their image."""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as mask_api

MAX_OUTSIDE = 1 / 3
"""From this share of boxes on that reach outside of their image, they are taken for something else than boxes there."""

Objects = dict[str, list]
"""The objects of one image: `bbox` (x, y, width, height in pixels), `category`, `area`, `iscrowd` and, where masks are
wanted, `mask`, the `counts` of a compressed run-length encoding (RLE)."""


@dataclass
class ObjectCheck:
    """Turns the objects of images into one form, and counts what it leaves out.

    Attributes:
        with_masks: Whether masks are wanted.
        skipped: Number of objects left out, by reason.
        num_boxes: Number of all boxes.
        num_outside: Number of boxes that reach outside of their image by more than a pixel.
        reach: Farthest edge of all boxes.
    """

    with_masks: bool
    skipped: Counter[str] = field(default_factory=Counter)
    num_boxes: int = 0
    num_outside: int = 0
    reach: float = 0.0

    def __call__(self, entries: list[dict[str, Any]], width: int, height: int, where: str) -> Objects:
        """Checks the objects of one image and cuts their boxes off at its edges.

        Args:
            entries: One an object: `bbox`, `category` and, where known, `area`, `iscrowd`, `segmentation` (polygons, or
                RLE, compressed or not) and `where`, its place in the file.
            width: Of the image.
            height: Of the image.
            where: What a message says of the image.

        Raises:
            ValueError: A box or a mask is no such thing, or a mask is missing or of another size than its image; names
                file and entry.
        """
        objects: Objects = {name: [] for name in ("bbox", "category", "area", "iscrowd")}
        if self.with_masks:
            objects["mask"] = []
        for entry in entries:
            place = entry.get("where", where)
            segmentation = entry.get("segmentation")
            box = entry.get("bbox") or (_outer_box(segmentation, width, height, place) if segmentation else None)
            box = self._box(box, width, height, place)
            if box is None:
                self.skipped["boxes outside of their image or without an area"] += 1
                continue
            if self.with_masks:
                rle = mask_rle(segmentation, width, height, place)
                if mask_api.area(rle) == 0:
                    self.skipped["masks without a pixel"] += 1
                    continue
                objects["mask"].append(rle["counts"].decode())
            objects["bbox"].append(box)
            objects["category"].append(entry["category"])
            objects["area"].append(
                _area(entry.get("area"), place) or float(mask_api.area(rle) if self.with_masks else box[2] * box[3])
            )
            crowd = entry.get("iscrowd") or 0
            if crowd not in (0, 1):
                raise ValueError(f"{place}: iscrowd must be 0 or 1, not {crowd!r}.")
            objects["iscrowd"].append(bool(crowd))
        return objects

    def check_boxes_are_in_pixels(self, split: str) -> None:
        """Checks that boxes are what they are taken for.

        Raises:
            ValueError: Many reach outside of their images, or none over the first pixel.
        """
        if self.num_boxes and self.reach <= 2:  # and not 1, for corners that are read as sizes
            raise ValueError(
                f"No box of the {split} split reaches over the first two pixels of its image: they seem to be shares "
                "of the image's sides. Boxes must be (x, y, width, height) in pixels; convert them."
            )
        if self.num_outside > MAX_OUTSIDE * self.num_boxes:
            raise ValueError(
                f"{self.num_outside} of the {self.num_boxes} boxes of the {split} split reach outside of their images. "
                "They are read as (x, y, width, height) in pixels; if they are (left, top, right, bottom), say "
                "--box_format xyxy. Boxes as shares of the image's sides must be converted first."
            )

    def _box(self, box: Any, width: int, height: int, where: str) -> list[float] | None:
        """Returns the part of a box that lies in the image, None if there is none."""
        if not is_numbers(box, 4):
            raise ValueError(f"{where}: bbox must be four finite numbers (x, y, width, height), not {box!r}.")
        left, top = (min(max(float(edge), 0.0), limit) for edge, limit in zip(box[:2], (width, height), strict=True))
        right, bottom = min(box[0] + box[2], float(width)), min(box[1] + box[3], float(height))
        self.num_boxes += 1
        self.reach = max(self.reach, right, bottom)
        self.num_outside += min(box[:2]) < -1 or box[0] + box[2] > width + 1 or box[1] + box[3] > height + 1
        return [left, top, right - left, bottom - top] if right > left and bottom > top else None


def _outer_box(segmentation: Any, width: int, height: int, where: str) -> list[float]:
    """Returns the box around a mask, as annotation of masks alone lacks it."""
    return mask_api.toBbox([mask_rle(segmentation, width, height, where)])[0].tolist()


def mask_rle(segmentation: Any, width: int, height: int, where: str) -> dict[str, Any]:
    """Returns a mask of COCO's format as compressed RLE.

    Args:
        segmentation: A list of polygons, each x, y, x, y, ... in pixels; or RLE with `size` and `counts`.
        width: Of the image.
        height: Of the image.
        where: What a message says of the object.

    Raises:
        ValueError: It is none, or of another size than the image.
    """
    if isinstance(segmentation, dict):
        return _checked_rle(segmentation, width, height, where)
    if not segmentation:
        raise ValueError(
            f"{where} has no segmentation. Instances need polygons or RLE; boxes alone are for object detection."
        )
    if not isinstance(segmentation, list):
        raise ValueError(f"{where}: segmentation must be polygons or RLE (size and counts), not {segmentation!r:.80}.")
    reach = max(width, height)  # no limit of the format, but of what can be meant: far points exhaust the memory
    for polygon in segmentation:
        if not is_numbers(polygon) or len(polygon) % 2 or any(not -reach <= number <= 2 * reach for number in polygon):
            raise ValueError(
                f"{where}: a polygon must be an even number of coordinates in pixels, in or near the image of "
                f"{width} × {height}, not {polygon!r:.80}."
            )
    polygons = [polygon for polygon in segmentation if len(polygon) >= 6]
    return mask_api.merge(mask_api.frPyObjects([*polygons, [0.0] * 6], height, width))


def _checked_rle(rle: dict[str, Any], width: int, height: int, where: str) -> dict[str, Any]:
    if rle.get("size") not in ([height, width], (height, width)):
        raise ValueError(
            f"{where}: the mask's size is {rle.get('size')}, that of the image {[height, width]} (height, width)."
        )
    try:
        rle = mask_api.segmToRle({"size": [height, width], "counts": rle.get("counts")}, width, height)
        mask_api.decode(rle)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{where}: the mask's counts are no run-length encoding of {width} × {height} pixels."
        ) from error
    return rle


def decode_masks(objects: Objects, width: int, height: int, step: int = 1) -> np.ndarray:
    """Returns the masks of an image's objects, of shape (N, H, W): bool.

    Args:
        objects: Of the image.
        width: Of the image.
        height: Of the image.
        step: Every so many rows and columns alone, for an image that was read at a part of its size.
    """
    masks = np.zeros((len(objects["mask"]), -(-height // step), -(-width // step)), dtype=bool)
    for mask, counts in zip(masks, objects["mask"], strict=True):  # one by one: each fits into the processor's cache
        mask[:] = mask_api.decode({"size": [height, width], "counts": counts.encode()})[::step, ::step]
    return masks


def _area(area: Any, where: str) -> float:
    """Returns an object's area as annotated, 0 where it is not known."""
    if area is not None and (not is_numbers([area]) or area < 0):
        raise ValueError(f"{where}: area must be a number of square pixels, or left out, not {area!r}.")
    return float(area or 0)


def is_numbers(values: Any, count: int | None = None) -> bool:
    """Tells whether something is a list of finite numbers, so many where that is said, and one at least."""
    return (
        isinstance(values, (list, tuple))
        and len(values) > 0
        and count in (None, len(values))
        and all(isinstance(value, (int, float)) and math.isfinite(value) for value in values)
    )
