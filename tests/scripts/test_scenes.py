"""Scenes of several objects: what their masks, boxes and class maps say is what is in the picture."""

from itertools import count

import numpy as np
import pytest
from PIL import Image

from scripts.demonstration import scenes
from scripts.demonstration.overlay import Variation
from scripts.demonstration.scenes import DigitScenes, LetterScenes, Scene, compose

SQUARES = Variation(size=(0.25, 0.25), angle=0, shear=0, stretch=1, contrast=60, opacity=1)
KINDS = {"digits": DigitScenes("test"), "letters": LetterScenes(seed=3)}


def squares(number: int, variation: Variation = SQUARES) -> Scene:
    """Filled squares on black, of the classes 0, 1, 2, ... from back to front."""
    classes = count()
    return compose(
        Image.new("RGB", (32, 32)),
        lambda random: (next(classes), Image.new("L", (8, 8), 255)),
        3,
        variation,
        np.random.default_rng(number),
    )


def touches(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two masks have pixels beside each other."""
    return bool((one[1:] & other[:-1]).any() or (one[:-1] & other[1:]).any())


def test_masks_are_the_pixels_of_each_object():
    for scene in map(squares, range(20)):
        pixels = np.asarray(scene.image)
        for mask, box in zip(scene.masks, scene.boxes, strict=True):
            assert len(np.unique(pixels[mask], axis=0)) == 1  # one object, one colour
            left, top, right, bottom = box
            assert right - left <= 8 >= bottom - top
            assert mask[top:bottom, left:right].sum() == mask.sum() >= scenes.MIN_VISIBLE * 64
            assert mask[top].any()
            assert mask[bottom - 1].any()
            assert mask[:, left].any()
            assert mask[:, right - 1].any()
        assert (pixels.any(-1) == scene.masks.any(0)).all()
        assert (scene.masks.sum(0) <= 1).all()
        assert scene.masks[-1].sum() == 64  # nothing lies over the last


def test_boxes_and_class_map_of_a_known_scene():
    masks = np.zeros((2, 4, 6), dtype=bool)
    masks[0, 1:3, 2:6] = True
    masks[1, 3, 0] = True
    scene = Scene(Image.new("RGB", (6, 4)), np.array([7, 0]), masks)
    assert scene.boxes.tolist() == [[2, 1, 6, 3], [0, 3, 1, 4]]
    assert scene.class_map.tolist() == [[0] * 6, [0, 0, 8, 8, 8, 8], [0, 0, 8, 8, 8, 8], [1, 0, 0, 0, 0, 0]]


def test_what_would_hide_another_is_left_out():
    # A square of the scene's size hides whatever is there, wherever it is laid.
    scene = squares(0, Variation(size=(1, 1), angle=0, shear=0, stretch=1, contrast=60, opacity=1))
    assert scene.classes.tolist() == [0]
    assert scene.masks.all()


@pytest.mark.parametrize("kind", KINDS)
def test_scenes_vary_overlap_and_are_the_same_every_time(kind):
    found = [KINDS[kind].scene(number) for number in range(40)]
    assert {len(scene.classes) for scene in found} == {1, 2, 3, 4}
    assert len({label for scene in found for label in scene.classes}) >= 10
    assert all(0 <= label < len(KINDS[kind].classes) for scene in found for label in scene.classes)
    sides = [max(right - left, bottom - top) for scene in found for left, top, right, bottom in scene.boxes]
    assert min(sides) < 30 < 40 < max(sides) <= 50
    assert all(scene.masks.any((1, 2)).all() and (scene.masks.sum(0) <= 1).all() for scene in found)
    assert any(touches(scene.masks[0], scene.masks[-1]) for scene in found if len(scene.classes) > 1)
    again = KINDS[kind].scene(7)
    assert again.image.tobytes() == found[7].image.tobytes() != found[8].image.tobytes()
    assert (again.class_map == found[7].class_map).all()
    assert again.image.size == (96, 96)


def test_splits_share_no_scan_and_no_photograph(monkeypatch):
    stencils, targets = scenes._scans()
    drawn: dict[str, set[int]] = {}
    grounds: dict[str, set[str]] = {}
    background = scenes.random_background

    class Recorded(list):
        def __getitem__(self, scan):
            drawn[split].add(int(scan))
            return super().__getitem__(scan)

    def recorded(group, *arguments):
        grounds[split].add(group)
        return background(group, *arguments)

    monkeypatch.setattr(scenes, "_scans", lambda: (Recorded(stencils), targets))
    monkeypatch.setattr(scenes, "random_background", recorded)
    for split in scenes.digits.SCANS:
        drawn[split], grounds[split] = set(), set()
        for number in range(50):
            DigitScenes(split).scene(number)
        assert grounds[split] == {split}  # groups of photographs are disjoint, see test_demonstration.py
        assert len(drawn[split]) > 50
        assert drawn[split] <= set(scenes.digits.SCANS[split])
    first = {split: DigitScenes(split).scene(0).image.tobytes() for split in drawn}
    assert len(set(first.values())) == 3


def test_letters_grow_harder():
    # On an even ground the commonest colour is nearly everywhere that no symbol is.
    easy, hard = (LetterScenes(ramp=ramp).scene(3) for ramp in ((100, 200), (-1, 0)))
    (even, photograph) = (np.asarray(scene.image)[~scene.masks.any(0)].std(0).mean() for scene in (easy, hard))
    assert even < 10 < photograph
