"""Object data: COCO's and Pascal VOC's formats and hub datasets in one form; what is broken is named."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from PIL import Image as PILImage

from mona_peft.tasks.data.objects.check import ObjectCheck, decode_masks
from mona_peft.tasks.data.objects.loading import ObjectDataArguments, class_names, load_objects
from tests.folders import coco_instances, write_coco, write_voc

SQUARE, BAR, CROWD = [2.0, 4.0, 12.0, 12.0], [32.0, 0.0, 3.0, 40.0], [0.0, 30.0, 20.0, 8.0]


@pytest.fixture
def coco(tmp_path) -> Path:
    write_coco(tmp_path / "data", train=4, val=3)
    return tmp_path / "data"


def change(folder: Path, edit, split: str = "train") -> None:
    """Rewrites an annotation file after `edit` of its content."""
    path = folder / "annotations" / f"instances_{split}2017.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def load(folder: Path, with_masks: bool = True, **arguments) -> DatasetDict:
    return load_objects(ObjectDataArguments(dataset=str(folder), **arguments), 0, with_masks)


def test_coco_folder_with_polygons_and_both_kinds_of_rle(coco):
    splits = load(coco)
    assert list(splits) == ["train", "validation"]
    assert class_names(splits) == ["square", "bar"]
    rows = splits["train"]
    assert rows["image_id"][:] == [10, 20, 30, 40]
    assert [len(objects["bbox"]) for objects in rows["objects"]] == [2, 3, 2, 0]  # the last image is kept
    second = rows[1]["objects"]
    assert second["bbox"] == [[6.0, *SQUARE[1:]], BAR, CROWD]
    assert (second["category"], second["iscrowd"]) == ([0, 1, 0], [False, False, True])
    assert second["area"] == [144, 120, 160]
    for row in rows.select(range(3)):
        masks = decode_masks(row["objects"], row["width"], row["height"])
        assert masks.shape == (len(row["objects"]["bbox"]), 40, 48)
        for mask, box in zip(masks, row["objects"]["bbox"], strict=True):
            expected = np.zeros((40, 48), dtype=bool)
            left, top, width, height = map(int, box)
            expected[top : top + height, left : left + width] = True
            np.testing.assert_array_equal(mask, expected)
    assert "mask" not in load(coco, with_masks=False)["train"].features["objects"]


def test_one_folder_a_split(coco, tmp_path):
    for split in ("train", "val"):
        folder = coco / f"{split}2017"
        (coco / "annotations" / f"instances_{split}2017.json").rename(folder / "_annotations.coco.json")
        folder.rename(coco / {"train": "train", "val": "valid"}[split])
    (coco / "annotations").rmdir()
    assert {name: len(rows) for name, rows in load(coco).items()} == {"train": 4, "validation": 3}


def test_pascal_voc_gives_the_boxes_of_coco(coco, tmp_path):
    write_voc(tmp_path / "devkit" / "VOC2007", train=3, val=2)
    voc = load(tmp_path / "devkit", with_masks=False)
    assert class_names(voc) == ["bar", "square"]
    assert voc["train"]["objects"][1]["bbox"] == [[6.0, *SQUARE[1:]], BAR, CROWD]
    assert voc["train"]["objects"][1]["category"] == [1, 0, 1]
    assert voc["train"]["objects"][1]["iscrowd"] == [False, False, True]
    assert [len(objects["bbox"]) for objects in voc["validation"]["objects"]] == [2, 0]


def hub_dataset(folder: Path, kind: str) -> Dataset:
    """Saves a dataset with a column of objects as parquet."""
    content = coco_instances(4)
    by_image = [
        [entry for entry in content["annotations"] if entry["image_id"] == image["id"]] for image in content["images"]
    ]
    name_of = {3: "square", 7: "bar"}
    if kind == "structs":
        objects = [
            [
                {"bbox": list(map(float, entry["bbox"])), "categories": name_of[entry["category_id"]]}
                for entry in entries
            ]
            for entries in by_image
        ]
        feature = List({"bbox": List(Value("float32")), "categories": Value("string")})
    else:
        objects = [
            {
                "bbox": [list(map(float, entry["bbox"])) for entry in entries],
                "category": [[3, 7].index(entry["category_id"]) for entry in entries],
                "area": [entry["area"] for entry in entries],
            }
            for entries in by_image
        ]
        feature = {
            "bbox": List(List(Value("float32"))),
            "category": List(ClassLabel(names=["square", "bar"])),
            "area": List(Value("int64")),
        }
    pictures = [PILImage.new("RGB", (48, 40), (number, 0, 0)) for number in range(4)]
    features = Features({"image": Image(), "objects": feature, "split_id": Value("int64")})
    rows = Dataset.from_dict({"image": pictures, "objects": objects, "split_id": [0] * 4}, features=features)
    folder.mkdir()
    rows.to_parquet(folder / "train.parquet")
    return rows


@pytest.mark.parametrize(("kind", "classes"), [("structs", ["bar", "square"]), ("lists", ["square", "bar"])])
def test_column_of_objects(tmp_path, kind, classes):
    hub_dataset(tmp_path / "hub", kind)
    splits = load(tmp_path / "hub", with_masks=False, validation_fraction=0.25)
    assert class_names(splits) == classes
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 3, "validation": 1}
    rows = [row for split in splits.values() for row in split]
    (second,) = (row for row in rows if row["image_id"] == 1)
    assert second["objects"]["bbox"] == [[6.0, *SQUARE[1:]], BAR, CROWD]
    assert [classes[number] for number in second["objects"]["category"]] == ["square", "bar", "square"]
    assert (second["width"], second["height"]) == (48, 40)


def test_corners_taken_for_sizes_are_noticed(tmp_path):
    content = coco_instances(4)
    for entry in content["annotations"]:
        left, top, width, height = entry["bbox"]
        entry["bbox"] = [left, top, left + width, top + height]
    rows = hub_dataset(tmp_path / "hub", "structs")
    objects = [
        [
            {"bbox": list(map(float, entry["bbox"])), "categories": "bar"}
            for entry in content["annotations"]
            if entry["image_id"] == image["id"]
        ]
        for image in content["images"]
    ]
    rows = rows.remove_columns("objects").add_column("objects", objects, feature=rows.features["objects"])
    rows.to_parquet(tmp_path / "hub" / "train.parquet")
    with pytest.raises(ValueError, match=r"4 of the 7 boxes of the train split reach outside .* --box_format xyxy"):
        load(tmp_path / "hub", with_masks=False, validation_fraction=0.25)
    splits = load(tmp_path / "hub", with_masks=False, validation_fraction=0.25, box_format="xyxy")
    assert BAR in splits["train"]["objects"][0]["bbox"] + splits["train"]["objects"][1]["bbox"]


def test_boxes_without_an_area_and_outside_are_left_out_and_counted(coco, caplog):
    def edit(content):
        content["annotations"][0]["bbox"] = [5, 5, 0, 10]
        content["annotations"][2]["bbox"] = [48, 5, 10, 10]
        content["annotations"][1]["bbox"] = [40, 35, 20, 20]  # reaches outside: its inner part is kept

    change(coco, edit)
    with caplog.at_level(logging.WARNING):
        rows = load(coco)["train"]
    assert "train split: 2 of 7 objects are left out: boxes outside of their image or without an area" in caplog.text
    assert rows["objects"][0]["bbox"] == [[40.0, 35.0, 8.0, 5.0]]
    assert len(rows["objects"][1]["bbox"]) == 2


def test_many_boxes_outside_are_refused():
    check = ObjectCheck(with_masks=False)
    check([{"bbox": [10, 10, 30, 30], "category": 0}] * 3, 32, 32, "image")
    with pytest.raises(ValueError, match="3 of the 3 boxes of the train split reach outside"):
        check.check_boxes_are_in_pixels("train")


@pytest.mark.parametrize("corners", [False, True])
def test_boxes_in_shares_of_the_sides_are_refused(coco, corners):
    def edit(content):
        for entry in content["annotations"]:
            left, top, width, height = entry["bbox"]
            right, bottom = (left + width, top + height) if corners else (width, height)
            entry["bbox"] = [left / 48, top / 40, right / 48, bottom / 40]

    change(coco, edit)
    with pytest.raises(ValueError, match=r"No box of the train split reaches over the first two pixels .* shares"):
        load(coco)


def test_split_of_crowds_alone_is_refused(coco):
    change(coco, lambda content: [entry.update(iscrowd=1) for entry in content["annotations"]], "val")
    with pytest.raises(ValueError, match="There is no object in any of the 3 images of the validation split"):
        load(coco)


def set_in(kind: str, number: int, **values):
    return lambda content: content[kind][number].update(values)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda c: c.pop("annotations"),
            r"train2017.json is no file of COCO instances.*has: images \(list\), categories \(list\)",
        ),
        (set_in("annotations", 2, image_id=5), r"annotations\[2\] \(id 102\): there is no image with the id 5"),
        (set_in("annotations", 2, category_id=4), r"annotations\[2\] \(id 102\): .*no category with the id 4.*: 3, 7"),
        (set_in("annotations", 2, bbox=[1, 2, 3]), r"annotations\[2\] \(id 102\): bbox must be four finite numbers"),
        (set_in("annotations", 2, bbox=[1, 2, 3, float("nan")]), r"annotations\[2\] .*four finite numbers"),
        (set_in("annotations", 2, bbox=[], segmentation=[]), r"annotations\[2\] \(id 102\) has neither bbox nor segm"),
        (set_in("annotations", 0, segmentation=[[1, 2, 3]]), r"annotations\[0\] \(id 100\): a polygon must be an even"),
        (set_in("annotations", 0, segmentation=None), r"annotations\[0\] .* has no segmentation. Instances need"),
        (set_in("annotations", 0, segmentation="RLE"), r"annotations\[0\] .*segmentation must be polygons or RLE"),
        (set_in("annotations", 2, category_id=[3]), r"annotations\[2\] .*category_id must be an integer, not \[3\]"),
        (set_in("annotations", 2, area="big"), r"annotations\[2\] .*area must be a number .*, not 'big'"),
        (set_in("annotations", 2, area=-4), r"annotations\[2\] .*area must be a number .*, not -4"),
        (set_in("annotations", 2, iscrowd="0"), r"annotations\[2\] .*iscrowd must be 0 or 1, not '0'"),
        (set_in("annotations", 1, segmentation={"size": 5}), r"annotations\[1\] .*the mask's size is 5"),
        (set_in("images", 1, file_name=None), r"images\[1\] \(id 20\): file_name must be text, not None"),
        (set_in("images", 1, width="48"), r"images\[1\] .*width and height must be numbers, not '48'"),
        (
            set_in("annotations", 1, segmentation={"size": [48, 40], "counts": "PX1h3X`0"}),
            r"annotations\[1\] \(id 101\): the mask's size is \[48, 40\], that of the image \[40, 48\]",
        ),
        (
            set_in("annotations", 1, segmentation={"size": [40, 48], "counts": [1, 2]}),
            r"annotations\[1\] .*counts are no run-length encoding of 48 × 40 pixels",
        ),
        (set_in("images", 1, width=40), r"2.png is 48 × 40 pixels, but its annotation says 40 × 40"),
        (set_in("images", 1, id=10), r"images\[1\] \(id 10\): another image has this id"),
        (set_in("images", 1, id="10"), r"images\[1\] \(id 10\): id must be an integer, not '10'"),
        (set_in("images", 1, file_name="x.png"), r"names 4 images, and 1 of them are missing: .*train2017/x.png"),
        (set_in("categories", 1, name="pole"), "The category 7 is 'bar' in the validation split and 'pole' in another"),
        (lambda c: c.update(annotations=[]), "There is no object in any of the 4 images of the train split"),
    ],
)
def test_broken_annotation_is_named_before_training(coco, edit, message):
    change(coco, edit)
    with pytest.raises(ValueError, match=message):
        load(coco)


def test_file_that_is_no_json_is_named(coco):
    (coco / "annotations" / "instances_val2017.json").write_text('{"images": [')
    with pytest.raises(ValueError, match=r"instances_val2017.json is not a JSON file \(Expecting value"):
        load(coco)


def test_unreadable_image_is_named(coco):
    (coco / "train2017" / "2.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(ValueError, match=r"(?s)1 of 4 images can't be read.*train2017/2.png"):
        load(coco)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("Annotations/1.xml", "<object>", "<objekt>", "1.xml is not XML that can be read"),
        ("Annotations/1.xml", "<xmin>3<", "<xmin>three<", "1.xml: object 0 needs a name and a bndbox"),
        ("Annotations/1.xml", "<name>square<", "<name> <", "1.xml: object 0 needs a name"),
        (
            "Annotations/1.xml",
            "<difficult>0<",
            "<difficult>no<",
            r"difficult, where given, must be 0 or 1.*It has: <object>.*<difficult>no<",
        ),
        ("Annotations/1.xml", "annotation>", "html>", "is not XML that can be read"),
        ("Annotations/1.xml", "<annotation>", "<?xml version='1.0' encoding='gb18030'?><annotation>", "to UTF-8"),
        ("ImageSets/Main/train.txt", "1\n", "9\n", "JPEGImages/9"),
    ],
)
def test_broken_voc_is_named(tmp_path, file, old, new, message):
    write_voc(tmp_path / "voc", train=2, val=2)
    path = tmp_path / "voc" / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "voc", with_masks=False)


def test_xml_of_another_kind_is_named(tmp_path):
    write_voc(tmp_path / "voc", train=2, val=2)
    (tmp_path / "voc" / "Annotations" / "1.xml").write_text("<html><body/></html>")
    with pytest.raises(ValueError, match=r"1.xml holds <html>, not the <annotation> of Pascal VOC"):
        load(tmp_path / "voc", with_masks=False)


def test_missing_voc_annotation_is_named(tmp_path):
    write_voc(tmp_path / "voc", train=2, val=2)
    (tmp_path / "voc" / "Annotations" / "1.xml").unlink()
    with pytest.raises(ValueError, match=r"Annotations/1.xml is missing"):
        load(tmp_path / "voc", with_masks=False)


def test_dataset_without_objects_lists_its_columns(tmp_path):
    rows = Dataset.from_dict(
        {"image": [PILImage.new("RGB", (8, 8))], "text": ["a"]},
        features=Features({"image": Image(), "text": Value("string")}),
    )
    (tmp_path / "hub").mkdir()
    rows.to_parquet(tmp_path / "hub" / "train.parquet")
    message = r"0 columns of objects, .*with bbox and category, not one. It has: image \(Image\), text \(Value\)"
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "hub", with_masks=False)


NOTHING = {"bbox": [[0.0, 0.0, 4.0, 4.0]], "category": [0], "area": [16]}


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        (NOTHING | {"bbox": None}, "row 2 of the train split, object 0: bbox must be four finite numbers"),
        (NOTHING | {"category": [0, 1]}, r"objects of row 2 .*one length, and have .*'bbox': 1, 'category': 2"),
        (NOTHING | {"bbox": [None]}, "row 2 of the train split, object 0: bbox must be four finite numbers"),
    ],
)
@pytest.mark.parametrize("box_format", ["xywh", "xyxy"])
def test_row_of_a_table_with_broken_objects_is_named(tmp_path, objects, message, box_format):
    rows = hub_dataset(tmp_path / "hub", "lists")
    column = [*rows["objects"][:2], objects, rows["objects"][3]]
    rows = rows.remove_columns("objects").add_column("objects", column, feature=rows.features["objects"])
    rows.to_parquet(tmp_path / "hub" / "train.parquet")
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "hub", with_masks=False, box_format=box_format)


@pytest.mark.parametrize("spoilt", [None, {"bytes": b"\xff\xd8\xff broken", "path": None}])
def test_row_of_a_table_with_an_unreadable_image_is_named(tmp_path, spoilt):
    rows = hub_dataset(tmp_path / "hub", "lists").cast_column("image", Image(decode=False))
    column = [*rows["image"][:2], spoilt, rows["image"][3]]
    rows = rows.remove_columns("image").add_column("image", column, feature=rows.features["image"])
    rows.to_parquet(tmp_path / "hub" / "train.parquet")
    with pytest.raises(ValueError, match=r"(?s)1 of 4 images can't be read.*The image of row 2 of the train split: "):
        load(tmp_path / "hub", with_masks=False)


def test_empty_object_of_a_table_is_named(tmp_path):
    rows = hub_dataset(tmp_path / "hub", "structs")
    column = [*rows["objects"][:2], [None], rows["objects"][3]]
    rows = rows.remove_columns("objects").add_column("objects", column, feature=rows.features["objects"])
    rows.to_parquet(tmp_path / "hub" / "train.parquet")
    with pytest.raises(ValueError, match="row 2 of the train split, object 0"):
        load(tmp_path / "hub", with_masks=False)


def test_broken_metadata_is_told_of(tmp_path):
    PILImage.new("RGB", (8, 8)).save(tmp_path / "0.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "0.png", "objects"\n')
    with pytest.raises(ValueError, match=r"--dataset \S+: can't be read \("):
        load(tmp_path, with_masks=False)


def test_empty_folder_says_what_it_needs(tmp_path):
    with pytest.raises(ValueError, match=r"no annotations in this folder. COCO's .*YOLO's .*Pascal VOC's format"):
        load(tmp_path)


def test_unknown_split_lists_the_splits(coco):
    with pytest.raises(ValueError, match=r"--test_split minival: the dataset has no such split. It has: train, val"):
        load(coco, test_split="minival")
