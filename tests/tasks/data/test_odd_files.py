"""Links, copies, empty folders, rows that contradict each other: nothing is lost or mixed up without a word."""

import json
import os
import shutil

import pytest

from scripts.data_formats.images import folders, picture, text
from scripts.data_formats.loading import load
from scripts.data_formats.objects import BOXES, coco, voc, yolo

CLASSIFICATION = "image-classification"


def pets(folder):
    folders("cat", "dog")(folder)
    return folder


def counts(folder, task: str = CLASSIFICATION, *options: str) -> tuple[dict[str, int], list[str]]:
    splits, classes = load(task, ["--dataset", str(folder), *options])
    return {name: len(rows) for name, rows in splits.items()}, classes


def test_a_link_to_another_class_is_refused(tmp_path):
    os.symlink(pets(tmp_path) / "cat", tmp_path / "kitten")
    with pytest.raises(ValueError, match=r"cat and .*kitten are one folder, by a link"):
        counts(tmp_path)


def test_links_back_up_are_no_classes(tmp_path):
    os.symlink(tmp_path, pets(tmp_path) / "loop")
    os.symlink(tmp_path / "cat", tmp_path / "cat" / "loop")
    assert counts(tmp_path) == ({"train": 5, "validation": 1}, ["cat", "dog"])


def test_links_that_lead_nowhere_and_empty_folders_are_told_of(tmp_path, caplog):
    os.symlink(tmp_path / "nowhere", pets(tmp_path) / "gone")
    (tmp_path / "val").mkdir()
    assert counts(tmp_path)[1] == ["cat", "dog"]
    assert "1 links lead nowhere and are left out" in caplog.text
    assert "1 folders hold no image and are left out" in caplog.text
    os.symlink(tmp_path / "nowhere.png", tmp_path / "cat" / "gone.png")
    with pytest.raises(ValueError, match=r"1 of 7 images can't be read.*\n.*gone.png: FileNotFoundError"):
        counts(tmp_path)


def test_one_image_in_two_classes_and_copies_that_are_held_out_are_told_of(tmp_path, caplog):
    shutil.copy(pets(tmp_path) / "cat" / "0.png", tmp_path / "dog" / "9.png")
    for number in range(5):
        shutil.copy(tmp_path / "cat" / "1.png", tmp_path / "cat" / f"copy{number}.png")
    counts(tmp_path, CLASSIFICATION, "--validation_fraction", "0.5")
    assert "2 images are the same, byte for byte, as images of other classes" in caplog.text
    assert "images of the validation split stand in the train split too" in caplog.text


def test_images_without_a_suffix_are_told_of_and_other_files_are_not(tmp_path, caplog):
    shutil.copy(pets(tmp_path) / "cat" / "0.png", tmp_path / "cat" / "photo")
    (tmp_path / "cat" / "LICENSE").write_text("none")
    counts(tmp_path)
    assert "1 without a suffix: name them after what they are, .png for instance): photo." in caplog.text


def table(folder, *rows: str):
    for number in range(4):
        picture(folder / f"{number}.png", number)
    text(folder / "labels.csv", "\n".join(["image,label", *rows]))
    return folder


def test_rows_that_contradict_each_other_are_refused_and_those_that_repeat_are_counted(tmp_path, caplog):
    rows = [f"{number}.png,{'cat' if number % 2 else 'dog'}" for number in range(4)]
    assert sum(counts(table(tmp_path / "again", *rows, *rows[:2]))[0].values()) == 4
    assert "2 rows say again what others say" in caplog.text
    with pytest.raises(ValueError, match=r"1 images different labels in different rows: 0.png \(dog and cat\)"):
        counts(table(tmp_path / "other", *rows, "0.png,cat"))


def test_lists_of_voc_with_suffixes_and_annotation_in_capitals(tmp_path):
    voc(lists=True)(tmp_path)
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("my image 0.jpg\nmy image 1.JPG\n")
    for path in (tmp_path / "Annotations").iterdir():
        path.rename(path.with_suffix(".XML"))
    assert counts(tmp_path, "object-detection") == ({"train": 2, "validation": 2}, ["cat", "dog"])


def test_classes_of_yolo_that_are_not_there_are_told_with_those_that_are(tmp_path):
    yolo(polygons=False)(tmp_path)
    text(tmp_path / "data.yaml", "train: images/train\nval: images/val\nnames: {1: cat, 2: dog}\n")
    with pytest.raises(ValueError, match=r"there is no class 0\. There are: 1, 2\."):
        counts(tmp_path, "object-detection")


def coco_with(folder, change, **options):
    """COCO's format after a change of the training split."""
    coco(("train", "val"), "annotations/instances_{split}.json", "{split}")(folder)
    path = folder / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return load("object-detection", ["--dataset", str(folder), *options.get("options", [])])[0]["train"]


def test_boxes_that_are_cut_off_are_counted(tmp_path, caplog):
    rows = coco_with(tmp_path, lambda content: content["annotations"][0].update(bbox=[-5, -4, 20, 20]))
    assert rows[0]["objects"]["bbox"][0] == [0, 0, 15, 16]
    assert "train split: 1 of 6 boxes reach outside of their images and are cut off at the edges" in caplog.text


def test_corners_in_files_are_read_as_the_message_says(tmp_path):
    def corners(content):
        for entry in content["annotations"]:
            x, y, w, h = entry["bbox"]
            entry["bbox"] = [x, y, x + w, y + h]

    with pytest.raises(ValueError, match="say --box_format xyxy"):
        coco_with(tmp_path / "asked", corners)
    path = tmp_path / "told" / "annotations" / "instances_val.json"
    coco(("train", "val"), "annotations/instances_{split}.json", "{split}")(tmp_path / "told")
    content = json.loads(path.read_text())
    corners(content)
    path.write_text(json.dumps(content))
    rows = coco_with(tmp_path / "told", corners, options=["--box_format", "xyxy", "--validation_split", "none"])
    assert rows[0]["objects"]["bbox"] == [list(box) for box in BOXES.values()]


def test_a_file_that_stands_for_two_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"images\[3\] \(id 77\) is the file of .*images\[0\] \(id 0\) once more"):
        coco_with(tmp_path, lambda content: content["images"].append({**content["images"][0], "id": 77}))


def test_corners_are_not_for_formats_that_say_what_boxes_are(tmp_path):
    voc(lists=True)(tmp_path)
    with pytest.raises(ValueError, match="--box_format xyxy: Pascal VOC's format says itself"):
        counts(tmp_path, "object-detection", "--box_format", "xyxy")
