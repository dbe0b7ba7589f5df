"""Windows cover images, and what is found in several of them becomes one."""

from itertools import pairwise

import numpy as np
import pytest
from faster_coco_eval.core import mask as mask_api

from mona_peft.tasks.prediction.merging import image_windows, join_class_maps, merge_objects

SIZE = (100, 160)


@pytest.mark.parametrize(
    ("width", "height", "side", "overlap"), [(160, 100, 64, 0.2), (50, 30, 64, 0.2), (99, 7, 10, 0.5)]
)
def test_windows_cover_every_pixel_and_overlap(width, height, side, overlap):
    seen = np.zeros((height, width), dtype=int)
    places = list(image_windows(width, height, side, overlap))
    for left, top, right, bottom in places:
        assert (right - left, bottom - top) == (min(side, width), min(side, height))
        seen[top:bottom, left:right] += 1
    assert seen.min() >= 1
    for axis, length in ((0, width), (1, height)):
        starts = sorted({place[axis] for place in places})
        shared = [start + side - after for start, after in pairwise(starts)]
        assert all(share >= int(side * overlap) for share in shared)
        assert starts[-1] == max(0, length - side)


def entry(box, score, label=0, place=(0, 0, 160, 100), masks=False):
    """An object at a box of the image, as it is found in a window."""
    left, top, right, bottom = place
    x, y = max(box[0], left), max(box[1], top)
    w, h = min(box[0] + box[2], right) - x, min(box[1] + box[3], bottom) - y
    found = {"bbox": [x - left, y - top, w, h], "score": score, "category_id": label}
    if masks:
        mask = np.zeros((bottom - top, right - left), dtype=np.uint8, order="F")
        mask[y - top : y - top + h, x - left : x - left + w] = 1
        found["segmentation"] = mask_api.encode(mask)
    return found


@pytest.mark.parametrize("masks", [False, True])
def test_an_object_that_windows_cut_is_found_once_and_whole(masks):
    places = [(0, 0, 160, 100), (0, 0, 90, 100), (70, 0, 160, 100)]
    car, cat, far = [60, 20, 50, 30], [65, 22, 10, 8], [5, 80, 10, 10]
    parts = [
        [entry(car, 0.6, masks=masks)],
        [entry(car, 0.7, place=places[1], masks=masks), entry(cat, 0.5, 1, places[1], masks)],
        [entry(car, 0.9, place=places[2], masks=masks), entry(far, 0.4, place=(0, 0, 160, 100), masks=masks)][:1],
    ]
    merged = merge_objects(parts, places, SIZE)
    assert [(found["score"], found["category_id"], found["bbox"]) for found in merged] == [(0.9, 0, car), (0.5, 1, cat)]
    if masks:
        assert mask_api.area(merged[0]["segmentation"]) == 50 * 30
        assert merged[0]["segmentation"]["size"] == list(SIZE)


def test_neighbours_stay_apart():
    places = [(0, 0, 90, 100), (70, 0, 160, 100)]
    boxes = [[10, 10, 30, 30], [30, 10, 30, 30], [75, 10, 10, 10]]  # the first two share a third
    parts = [[entry(boxes[0], 0.9, place=places[0]), entry(boxes[1], 0.8, place=places[0])]]
    parts += [[entry(boxes[2], 0.7, place=places[1])]]
    assert [found["bbox"] for found in merge_objects(parts, places, SIZE)] == boxes


def test_class_maps_come_from_the_middle_of_windows():
    """Windows that are right but for their edges: where there is another window, it is asked."""
    truth = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) % 7
    places = list(image_windows(SIZE[1], SIZE[0], 64, 0.25))
    parts = []
    for left, top, right, bottom in places:
        part = truth[top:bottom, left:right].copy()
        rows = [row for row, edge in ((0, top > 0), (-1, bottom < SIZE[0])) if edge]
        columns = [column for column, edge in ((0, left > 0), (-1, right < SIZE[1])) if edge]
        for depth in range(5):
            for row in rows:
                part[depth if row == 0 else -1 - depth] = 9
            for column in columns:
                part[:, depth if column == 0 else -1 - depth] = 9
        parts.append(part)
    assert any((part == 9).any() for part in parts)
    np.testing.assert_array_equal(join_class_maps(parts, places, SIZE), truth)
