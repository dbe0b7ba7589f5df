"""Every layout of files that the page on data formats tells of: read whole, or refused with the line to type."""

import re

import pytest

from scripts.data_formats.layouts import LAYOUTS
from scripts.data_formats.loading import attempt

CASES = [(layout, task) for layout in LAYOUTS for task in layout.tasks]
DERIVED = {"masks in colours, no table": "#00ff00, #ff0000"}
COUNTS = {
    "images held out by share": "train 6, test 6, validation 4",
    "lists of Pascal VOC": "train 3, validation 1",
}
NUMBERED = (
    "images/ and masks/ by split",
    "by split, images/ and masks/",
    "side by side with _mask",
    "masks of 16 bits",
)


def expected_classes(layout, task) -> str:
    if layout.title in DERIVED:
        return DERIVED[layout.title]
    if task == "semantic-segmentation":
        if layout.title in (*NUMBERED, "grey masks stored as RGB"):
            return "0, 1"
        if "black and white" in layout.title:
            return "background, foreground"
        return "background, cat, dog" if "polygons" in layout.title else "ground, plant"
    return {
        "names with spaces, brackets, Unicode; an archive's folder around": "größe 1, größe 2",
        "classes whose names hold a split's word": "bus, crash-test, train",
    }.get(layout.title, "cat, dog")


@pytest.mark.parametrize(("layout", "task"), CASES, ids=[f"{layout.title} ({task})" for layout, task in CASES])
def test_layout(layout, task, tmp_path):
    result, _ = attempt(layout, task)
    if layout.refused:
        assert result.startswith("refused: ")
        assert layout.refused in result
        return
    counts, classes = result.split("; classes ")
    assert classes == expected_classes(layout, task)
    layout.build(tmp_path / "data")
    shown = [path for path in tmp_path.rglob("*") if re.search(r"\.(jpg|bmp|png|tif)$", path.name, re.I)]
    shown = [
        path
        for path in shown
        if task != "semantic-segmentation" or not re.search("mask|label|annotation", str(path.relative_to(tmp_path)))
    ]
    used = sum(int(count) for count in re.findall(r"\d+", counts))
    if layout.title in COUNTS:
        assert counts == COUNTS[layout.title]
    elif layout.title.startswith("table of the hub"):
        assert counts == "train 4, validation 2"
    else:
        assert used == len(shown)
