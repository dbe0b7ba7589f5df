"""Makes every layout of files that the loaders know, a few images each, loads it, and writes `docs/data_formats.md`.

python -m scripts.data_formats
"""

import json
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from mona_peft.tasks.data.arguments import choose_decoding
from mona_peft.tasks.data.classification import DataArguments, load_image_classification
from mona_peft.tasks.data.classification import class_names as image_classes
from mona_peft.tasks.data.objects.loading import ObjectDataArguments, class_names, load_objects
from mona_peft.tasks.data.segmentation.loading import SegmentationDataArguments, load_semantic_segmentation

PAGE = Path(__file__).resolve().parents[1] / "docs" / "data_formats.md"
BOXES = {"cat": (4, 4, 12, 12), "dog": (30, 2, 6, 30)}
"""Left, top, width and height of the two objects of every image with objects, 48 x 40 pixels."""

BOTH = ("train", "val")
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


def picture(path: Path, seed: int, size: tuple[int, int] = (48, 40)) -> Path:
    """Writes noise that no other seed has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def text(path: Path, content: Any) -> None:
    """Writes a text, or anything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def folders(*names: str, count: int = 3, suffix: str = ".png") -> Callable[[Path], None]:
    """Images in folders."""

    def build(folder: Path) -> None:
        for number, name in enumerate(names):
            for image in range(count):
                picture(folder / name / f"{image}{suffix}", 100 * number + image)

    return build


def linked(folder: Path) -> None:
    """A class folder that is a link."""
    folders("cat")(folder)
    folders("dog")(folder.parent / "elsewhere")
    os.symlink(folder.parent / "elsewhere" / "dog", folder / "dog")


def table(name: str, lines: Sequence[str], place: str = "images", count: int = 6) -> Callable[[Path], None]:
    """Images and a table; `{}` in a line is the number of the image."""

    def build(folder: Path) -> None:
        for number in range(count):
            picture(folder / place / f"{number}.png", number)
        heading, *rows = lines
        body = [rows[number % len(rows)].format(number) for number in range(count)]
        text(folder / name, "\n".join([heading, *body] if heading else body) + "\n")

    return build


def coco(names: Sequence[str], annotation: str, image: str, write: Callable[[dict], None] = lambda content: None):
    """COCO's format; `{split}` in the places is the split's name."""

    def build(folder: Path) -> None:
        for part, split in enumerate(names):
            content: dict[str, list] = {"images": [], "annotations": [], "categories": []}
            content["categories"] = [{"id": number, "name": name} for number, name in enumerate(BOXES, 1)]
            for number in range(3):
                file = picture(folder / image.format(split=split) / f"{part}_{number}.jpg", 10 * part + number)
                content["images"].append({"id": number, "file_name": file.name, "width": 48, "height": 40})
                for category, (x, y, w, h) in enumerate(BOXES.values(), 1):
                    polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
                    entry = {"image_id": number, "category_id": category, "bbox": [x, y, w, h], "area": w * h}
                    entry |= {"id": len(content["annotations"]) + 1, "segmentation": [polygon], "iscrowd": 0}
                    content["annotations"].append(entry)
            write(content)
            text(folder / annotation.format(split=split), content)

    return build


def grouped(content: dict) -> None:
    """Roboflow's category 0, which groups the others."""
    content["categories"] = [
        {"id": 0, "name": "pets", "supercategory": "none"},
        *({**entry, "supercategory": "pets"} for entry in content["categories"]),
    ]


def in_subfolder(content: dict) -> None:
    """Label Studio's names of files, with backslashes."""
    for image in content["images"]:
        image["file_name"] = "images\\" + image["file_name"]


def without_boxes(content: dict) -> None:
    """Masks alone."""
    for entry in content["annotations"]:
        entry["bbox"] = []


def yolo(polygons: bool, yaml: bool = True, order: str = "{kind}/{split}") -> Callable[[Path], None]:
    """YOLO's format."""

    def build(folder: Path) -> None:
        for part, split in enumerate(("train", "val") if yaml else ("",)):
            for number in range(3):
                place = folder / order.format(kind="images", split=split)
                picture(place / f"{part}_{number}.jpg", 10 * part + number)
                lines = []
                for category, (x, y, w, h) in enumerate(BOXES.values()):
                    corners = [x, y, x + w, y, x + w, y + h, x, y + h]
                    shares = [value / (48, 40)[axis % 2] for axis, value in enumerate(corners)]
                    box = [(x + w / 2) / 48, (y + h / 2) / 40, w / 48, h / 40]
                    lines.append(" ".join(map(str, [category, *(shares if polygons else box)])))
                place = folder / order.format(kind="labels", split=split)
                text(place / f"{part}_{number}.txt", "\n".join(lines) + "\n")
        if yaml:
            places = {name: order.format(kind="images", split=name) for name in ("train", "val")}
            text(
                folder / "data.yaml",
                f"train: ../{places['train']}\nval: ../{places['val']}\nnc: 2\nnames: [cat, dog]\n",
            )
        else:
            text(folder / "classes.txt", "cat\ndog\n")

    return build


def voc(lists: bool, suffix: str = ".jpg") -> Callable[[Path], None]:
    """Pascal VOC's format."""

    def build(folder: Path) -> None:
        for number in range(5):
            name = f"my image {number}"
            picture(folder / "JPEGImages" / f"{name}{suffix}", number)
            objects = "".join(
                f"<object><name>{label}</name><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + w}</xmax>"
                f"<ymax>{y + h}</ymax></bndbox></object>"
                for label, (x, y, w, h) in BOXES.items()
            )
            text(folder / "Annotations" / f"{name}.xml", f"<annotation>{objects}</annotation>")
        if lists:
            text(folder / "ImageSets/Main/train.txt", "my image 0\nmy image 1\nmy image 2\n")
            text(folder / "ImageSets/Main/val.txt", "my image 3\nmy image 4\n")

    return build


def numbers(number: int) -> Image.Image:
    """A mask of two class numbers."""
    return Image.fromarray((np.indices((40, 48))[1] > 20 + number).astype(np.uint8))


def black_and_white(number: int) -> Image.Image:
    """A mask of 0 and 255."""
    return numbers(number).point(lambda value: 255 * value)


def palette(number: int) -> Image.Image:
    """A mask of numbers in a palette."""
    mask = numbers(number).convert("P")
    mask.putpalette([0, 0, 0, 200, 30, 30])
    return Image.fromarray(np.asarray(numbers(number))).convert("P") if mask.getpalette() is None else mask


def sixteen_bits(number: int) -> Image.Image:
    """A mask of numbers of 16 bits."""
    return Image.fromarray(np.asarray(numbers(number)).astype(np.uint16))


def coloured(number: int) -> Image.Image:
    """A mask in red and green."""
    return Image.fromarray(np.array([[255, 0, 0], [0, 255, 0]], np.uint8)[np.asarray(numbers(number))])


def masks(
    image: str,
    mask: str,
    draw: Callable[[int], Image.Image] = numbers,
    splits: Sequence[str] = ("train", "val"),
    **more,
) -> Callable[[Path], None]:
    """Images and masks; `{split}` and `{number}` in the places stand for those; further texts by their names."""

    def build(folder: Path) -> None:
        for part, split in enumerate(splits):
            for number in range(4):
                name = f"{part}{number}"
                picture(folder / image.format(split=split, number=name), 10 * part + number)
                path = folder / mask.format(split=split, number=name)
                path.parent.mkdir(parents=True, exist_ok=True)
                draw(number).save(path)
        for name, content in more.items():
            text(folder / name.replace("__", "."), content)

    return build


def deep(folder: Path) -> None:
    """Grey images of 12 bits in 16."""
    for part, name in enumerate(("cat", "dog")):
        for number in range(3):
            (folder / name).mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(3 * part + number).integers(0, 4096, (40, 48)).astype(np.uint16)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def five_channels(folder: Path) -> None:
    """Satellite images."""
    for part, name in enumerate(("cat", "dog")):
        for number in range(3):
            (folder / name).mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(3 * part + number).integers(0, 9999, (40, 48, 5)).astype(np.uint16)
            tifffile.imwrite(folder / name / f"{number}.tif", pixels, photometric="minisblack", planarconfig="contig")


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
    Layout("five channels, none chosen", CLASSIFICATION, five_channels, refused="--channels"),
    Layout("boxes, where masks are needed", TASKS[2:3], yolo(False), refused="has no segmentation"),
    Layout(
        "masks as JPEG",
        SEMANTIC,
        masks("images/{split}/{number}.jpg", "masks/{split}/{number}.jpg"),
        refused="changes numbers at edges",
    ),
]
ARGUMENTS = dict(
    zip(TASKS, (DataArguments, ObjectDataArguments, ObjectDataArguments, SegmentationDataArguments), strict=True)
)


def load(task: str, options: Sequence[str]) -> tuple[Any, list[str]]:
    """Loads a dataset as the command does, and returns its splits and the names of its classes."""
    from transformers import HfArgumentParser

    (args,) = HfArgumentParser(ARGUMENTS[task]).parse_args_into_dataclasses(list(options))
    if task in CLASSIFICATION:
        splits = load_image_classification(args, 0)
        classes = image_classes(splits)
    elif task in OBJECTS:
        splits = load_objects(args, 0, with_masks=task == "instance-segmentation")
        classes = class_names(splits)
    else:
        splits, classes, _ = load_semantic_segmentation(args, 0)
    choose_decoding(splits, args)
    return splits, classes


def attempt(layout: Layout, task: str) -> tuple[str, list[str]]:
    """Builds a layout and loads it.

    Returns:
        What came of it, or the message with which it was refused, and what was said meanwhile.
    """
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())
    logger = logging.getLogger("mona_peft.tasks.data")
    logger.addHandler(handler)
    try:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place, "data")
            layout.build(folder)
            try:
                splits, classes = load(task, [option.replace("DATA", str(folder)) for option in layout.options])
            except ValueError as error:
                result = f"refused: {error}".replace(str(folder), "DATA")
            else:
                counts = ", ".join(f"{split} {len(rows)}" for split, rows in splits.items())
                result = f"{counts}; classes {', '.join(classes)}"
            return result, [message.replace(str(folder), "DATA") for message in said]
    finally:
        logger.removeHandler(handler)


def main() -> None:
    """Writes the page."""
    lines = [
        "# Data formats",
        "",
        "Each row was made in its real format with a few images and loaded (`python -m scripts.data_formats` writes",
        "this page). Commands go on with `--model NAME --output_dir RUN`; what stands in italics is said on the way.",
        "",
    ]
    for refused, heading in ((False, "Read"), (True, "Refused")):
        lines += [f"## {heading}", "", "| layout | command | result |", "| --- | --- | --- |"]
        for layout in LAYOUTS:
            if bool(layout.refused) == refused:
                result, said = attempt(layout, layout.tasks[0])
                notes = "".join(f"<br>*{message}*" for message in dict.fromkeys(said))
                command = f"`mona-peft train {layout.tasks[0]} {' '.join(layout.options)}`"
                cells = (layout.title, command, result.removeprefix("refused: ") + notes)
                lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
        lines.append("")
    PAGE.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
