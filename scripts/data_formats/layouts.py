"""The layouts: what each is called, which tasks it is for, and which words stand in the message where it is refused."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scripts.data_formats import hub
from scripts.data_formats.images import deep, five_channels, folders, linked, linked_twice, table
from scripts.data_formats.masks import black_and_white, coloured, masks, numbers, palette, sixteen_bits, voc_masks
from scripts.data_formats.objects import coco, grouped, in_subfolder, pose, voc, voc_years, without_boxes, yolo

TASKS = ("image-classification", "object-detection", "instance-segmentation", "semantic-segmentation")


@dataclass(frozen=True)
class Layout:
    """A layout of files.

    Attributes:
        title: What a person reads.
        tasks: Names of the tasks that it is for.
        build: Writes it to a folder.
        options: Of the command; DATA stands for the folder.
        refused: Words of the message, where it is refused.
    """

    title: str
    tasks: tuple[str, ...]
    build: Callable[[Path], None]
    options: tuple[str, ...] = ("--dataset", "DATA")
    refused: str | None = None


CLASSIFICATION, OBJECTS, SEMANTIC = TASKS[:1], TASKS[1:3], TASKS[3:]
DETECTION = TASKS[1:2]
IMAGES, MASKS, LABELS = "images/{split}/{number}.jpg", "masks/{split}/{number}.png", "labels/{split}/{number}.png"
CSV = "name,r,g,b\nground,255,0,0\nplant,0,255,0\n"
LAYOUTS = [
    Layout("class folders", CLASSIFICATION, folders("cat", "dog")),
    Layout(
        "splits of class folders, in capitals",
        CLASSIFICATION,
        folders("Train/cat", "Train/dog", "Test/cat", "Test/dog"),
    ),
    Layout(
        "names with spaces, brackets, Unicode; an archive's folder around",
        CLASSIFICATION,
        folders("my [data]/größe 1", "my [data]/größe 2", suffix=".JPG"),
    ),
    Layout("classes whose names hold a split's word", CLASSIFICATION, folders("train", "crash-test", "bus")),
    Layout("a linked class folder", CLASSIFICATION, linked),
    Layout(
        "CSV beside images", CLASSIFICATION, table("labels.csv", ["\ufefffilename,label", "{}.png,cat", "{}.png,dog"])
    ),
    Layout(
        "CSV with a column of splits",
        CLASSIFICATION,
        table(
            "data.csv",
            ["path;class;split", "images\\{}.png;cat;train", "images\\{}.png;dog;train", "images\\{}.png;cat;valid"],
        ),
    ),
    Layout(
        "metadata.jsonl",
        CLASSIFICATION,
        table(
            "metadata.jsonl",
            ["", '{{"file_name": "{}.png", "label": "cat"}}', '{{"file_name": "{}.png", "label": "dog"}}'],
            ".",
        ),
    ),
    Layout(
        "a table by itself, images elsewhere",
        CLASSIFICATION,
        table("t/a.csv", ["id,species", "{},cat", "{},dog"]),
        ("--dataset", "DATA/t/a.csv", "--image_dir", "DATA/images", "--label_column", "species"),
    ),
    Layout(
        "several labels an image",
        CLASSIFICATION,
        table("labels.csv", ["image,tags", "{}.png,cat|dog", "{}.png,dog", "{}.png,"]),
    ),
    Layout(
        "several labels as columns (Roboflow)",
        CLASSIFICATION,
        table("_classes.csv", ["filename,cat,dog", "{}.png,1,1", "{}.png,0,1"], "."),
    ),
    Layout("12 bits in 16", CLASSIFICATION, deep),
    Layout("five channels", CLASSIFICATION, five_channels, ("--dataset", "DATA", "--channels", "3", "2", "1")),
    Layout(
        "images held out by share",
        CLASSIFICATION,
        folders("cat", "dog", count=10),
        ("--dataset", "DATA", "--validation_fraction", "0.2", "--test_fraction", "0.3", "--max_train_samples", "6"),
    ),
    Layout("table of the hub, image and label", CLASSIFICATION, hub.classes),
    Layout("COCO", OBJECTS, coco(("train", "val"), "annotations/instances_{split}2017.json", "{split}2017")),
    Layout(
        "COCO of Roboflow, with a grouping category",
        OBJECTS,
        coco(("train", "valid", "test"), "{split}/_annotations.coco.json", "{split}", grouped),
    ),
    Layout("COCO of CVAT", OBJECTS, coco(("default",), "annotations/instances_{split}.json", "images")),
    Layout("COCO of Label Studio", OBJECTS, coco(("",), "result.json", "images", in_subfolder)),
    Layout(
        "one annotations.json, masks without boxes", OBJECTS, coco(("",), "annotations.json", "images", without_boxes)
    ),
    Layout(
        "annotations/*_train*.json",
        OBJECTS,
        coco(("train", "val"), "annotations/pets_{split}_v2.json", "images/{split}"),
    ),
    Layout(
        "files by hand",
        OBJECTS,
        coco(("a", "b"), "json/{split}.json", "jpg"),
        ("--annotations", "DATA/json/a.json", "DATA/json/b.json", "--image_dir", "DATA/jpg"),
    ),
    Layout("YOLO, polygons", OBJECTS, yolo(True)),
    Layout("YOLO, boxes, splits at the top (Roboflow)", DETECTION, yolo(False, order="{split}/{kind}")),
    Layout("YOLO of Label Studio", DETECTION, yolo(False, yaml=False)),
    Layout("Pascal VOC, names with spaces, suffixes in capitals", DETECTION, voc(True, ".JPG")),
    Layout("Pascal VOC without lists", DETECTION, voc(False, ".bmp")),
    Layout("Pascal VOC, several years", DETECTION, voc_years),
    Layout("table of the hub, a column of objects (cppe-5)", DETECTION, hub.cppe5),
    Layout(
        "table of the hub, instance maps (ade20k-mini)",
        TASKS[2:3],
        hub.ade20k_mini,
        ("--dataset", "DATA", "--reduce_labels"),
    ),
    Layout("YOLO, poses: boxes are read", DETECTION, pose),
    Layout("table of the hub, id2label.json (sidewalk-semantic)", SEMANTIC, hub.sidewalk),
    Layout("lists of Pascal VOC", SEMANTIC, voc_masks),
    Layout("images/ and masks/ by split", SEMANTIC, masks(IMAGES, MASKS)),
    Layout(
        "by split, images/ and masks/", SEMANTIC, masks("{split}/images/{number}.jpg", "{split}/masks/{number}.png")
    ),
    Layout(
        "images/ and masks/ flat, black and white",
        SEMANTIC,
        masks("images/{number}.jpg", "masks/{number}.png", black_and_white, ("",)),
    ),
    Layout("side by side with _mask", SEMANTIC, masks("{split}/{number}.jpg", "{split}/{number}_mask.png")),
    Layout(
        "CamVid: train, train_labels, class_dict.csv",
        SEMANTIC,
        masks("{split}/{number}.png", "{split}_labels/{number}_L.png", coloured, class_dict__csv=CSV),
    ),
    Layout(
        "masks in colours, no table",
        SEMANTIC,
        masks(IMAGES, LABELS, coloured),
    ),
    Layout(
        "masks in colours, CVAT's labelmap.txt",
        SEMANTIC,
        masks(
            "images/{split}/{number}.jpg",
            "labels/{split}/{number}.png",
            coloured,
            labelmap__txt="# label:color_rgb:parts:actions\nground:255,0,0::\nplant:0,255,0::\n",
        ),
    ),
    Layout(
        "palette, with names",
        SEMANTIC,
        masks(
            "images/{split}/{number}.jpg", "annotations/{split}/{number}.png", palette, classes__txt="ground\nplant\n"
        ),
    ),
    Layout("masks of 16 bits", SEMANTIC, masks(IMAGES, MASKS, sixteen_bits)),
    Layout(
        "grey masks stored as RGB",
        SEMANTIC,
        masks(
            "images/{split}/{number}.jpg", "masks/{split}/{number}.png", lambda number: numbers(number).convert("RGB")
        ),
    ),
    Layout(
        "polygons of COCO drawn to masks",
        SEMANTIC,
        coco(("train", "val"), "annotations/instances_{split}.json", "{split}"),
    ),
    Layout("poses, where masks are needed", TASKS[2:3], pose, refused="has no segmentation"),
    Layout("no classes", CLASSIFICATION, folders("photos"), refused="two or more class folders"),
    Layout(
        "splits and classes mixed up",
        CLASSIFICATION,
        folders("train/cat", "train/dog", "val"),
        refused="can't be told what is a split",
    ),
    Layout(
        "a test split without classes",
        CLASSIFICATION,
        folders("train/cat", "train/dog", "test"),
        refused="--test_split none",
    ),
    Layout(
        "two splits of one kind",
        CLASSIFICATION,
        folders("train/a", "train/b", "val/a", "val/b", "valid/a"),
        refused="--validation_split",
    ),
    Layout(
        "a table that names what is not there",
        CLASSIFICATION,
        table("labels.csv", ["file,label", "{}.webp,cat", "no{}.png,dog"]),
        refused="are not in",
    ),
    Layout(
        "rows that contradict each other",
        CLASSIFICATION,
        table("labels.csv", ["image,label", "0.png,cat", "0.png,dog"]),
        refused="different labels in different rows",
    ),
    Layout(
        "a class folder that is a link to another", CLASSIFICATION, linked_twice, refused="are one folder, by a link"
    ),
    Layout("five channels, none chosen", CLASSIFICATION, five_channels, refused="--channels"),
    Layout("boxes, where masks are needed", TASKS[2:3], yolo(False), refused="has no segmentation"),
    Layout(
        "masks as JPEG",
        SEMANTIC,
        masks("images/{split}/{number}.jpg", "masks/{split}/{number}.jpg"),
        refused="changes numbers at edges",
    ),
]
