"""`--dry_run`: what is read is shown and told, and nothing is trained."""

import numpy as np
import pytest
from PIL import Image

from mona_peft.tasks.training.dry_run import dry_run
from mona_peft.tasks.training.setup import Data
from scripts.data_formats.layouts import LAYOUTS
from scripts.data_formats.loading import ARGUMENTS, load
from scripts.data_formats.objects import BOXES

BY_TITLE = {layout.title: layout for layout in LAYOUTS}


@pytest.mark.parametrize(
    ("title", "task"),
    [
        ("class folders", "image-classification"),
        ("several labels an image", "image-classification"),
        ("COCO", "object-detection"),
        ("COCO", "instance-segmentation"),
        ("images/ and masks/ by split", "semantic-segmentation"),
    ],
)
def test_data_are_told_of_and_drawn(tmp_path, title, task):
    BY_TITLE[title].build(tmp_path / "data")
    splits, classes = load(task, ["--dataset", str(tmp_path / "data")])
    args = ARGUMENTS[task](dataset=str(tmp_path / "data"))
    told = dry_run(Data(splits, classes, "DATA"), args, tmp_path / "run")
    assert f"{len(classes)} classes ({', '.join(classes)})" in told
    for split, rows in splits.items():
        assert f"{split}: {len(rows)} images, from 48 × 40 to 48 × 40 pixels" in told
    assert np.ptp(np.asarray(Image.open(tmp_path / "run" / "data.png"))) > 0
    if task == "object-detection":
        assert "3 of 6 boxes have a side of less than 8 pixels" in told
        assert min(BOXES["dog"][2:]) < 8


def test_images_that_look_the_same_are_told_of(tmp_path):
    BY_TITLE["class folders"].build(tmp_path / "data")
    image = Image.open(tmp_path / "data" / "cat" / "0.png")
    image.point(lambda level: min(255, level + 1)).save(tmp_path / "data" / "dog" / "copy.png")
    splits, classes = load("image-classification", ["--dataset", str(tmp_path / "data")])
    told = dry_run(Data(splits, classes, "DATA"), ARGUMENTS["image-classification"](), tmp_path / "run")
    assert "2 images look like others" in told


@pytest.mark.parametrize(
    ("title", "task", "contents"),
    [
        ("class folders", "image-classification", "images of each class: cat 3, dog 2"),
        ("COCO", "object-detection", "6 objects: cat 3, dog 3"),
        ("palette, with names", "semantic-segmentation", "pixels of each class: ground 46.9%, plant 53.1%, sky 0.0%"),
    ],
)
def test_what_images_show_is_counted_and_empty_and_rare_classes_are_odd(tmp_path, title, task, contents):
    BY_TITLE[title].build(tmp_path / "data")
    if task == "semantic-segmentation":
        (tmp_path / "data" / "classes.txt").write_text("ground\nplant\nsky\n")
    splits, classes = load(task, ["--dataset", str(tmp_path / "data")])
    told = dry_run(Data(splits, classes, "DATA"), ARGUMENTS[task](), tmp_path / "run")
    assert contents in told
    if task == "semantic-segmentation":
        assert "1 of 3 classes have nothing to train on: sky 0" in told
        assert "2 of 3 classes have fewer than 5 to train on: ground 4, plant 4" in told
    else:
        assert "2 of 2 classes have fewer than 5 to train on: cat 3, dog " in told
