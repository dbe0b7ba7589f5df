"""Images on disk as a user has them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = ["blue", "green", "red"]


def write_images(folder: Path, per_class: int, classes: list[str] = CLASSES) -> None:
    """Writes noise with one strong colour channel a class, 48 x 40 pixels, to FOLDER/CLASS/NUMBER.png."""
    generator = np.random.default_rng(per_class)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = generator.integers(0, 120, (40, 48, 3), dtype=np.uint8)
            pixels[..., ["red", "green", "blue"].index(name)] += 100
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


COCO_CATEGORIES = [{"id": 3, "name": "square"}, {"id": 7, "name": "bar"}]  # ids with gaps, as COCO's


def coco_instances(count: int) -> dict[str, Any]:
    """Instances of `count` images of 48 x 40 pixels: a square as polygon, a bar as RLE; the last image has none.

    The bar's RLE is compressed in even images and not compressed in odd ones. The second image has a crowd, too.
    """
    images = [
        {"id": 10 * number, "file_name": f"{number}.png", "width": 48, "height": 40} for number in range(1, count + 1)
    ]
    annotations: list[dict[str, Any]] = []
    for number, image in enumerate(images[:-1]):
        left = 2 + 4 * (number % 4)
        square = {"category_id": 3, "bbox": [left, 4, 12, 12], "area": 144, "iscrowd": 0}
        polygon = [[left, 4, left + 12, 4, left + 12, 16, left, 16]]
        bar = {"category_id": 7, "bbox": [32, 0, 3, 40], "area": 120, "iscrowd": 0}
        # Columns first: 32 columns of nothing, 3 of the bar, 13 of nothing.
        counts = [32 * 40, 3 * 40, 13 * 40] if number % 2 else "PX1h3X`0"
        crowd = {"category_id": 3, "bbox": [0, 30, 20, 8], "area": 160, "iscrowd": 1}
        annotations += [
            {"image_id": image["id"], **square, "segmentation": polygon},
            {"image_id": image["id"], **bar, "segmentation": {"size": [40, 48], "counts": counts}},
        ]
        if number == 1:
            segmentation = {"size": [40, 48], "counts": [30, *[8, 32] * 19, 8, 2 + 28 * 40]}
            annotations.append({"image_id": image["id"], **crowd, "segmentation": segmentation})
    for number, annotation in enumerate(annotations):
        annotation["id"] = 100 + number
    return {"images": images, "annotations": annotations, "categories": COCO_CATEGORIES}


def write_pictures(folder: Path, content: dict[str, Any]) -> None:
    """Writes the images of COCO instances: squares red, bars blue, over noise."""
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for image in content["images"]:
        pixels = generator.integers(0, 90, (image["height"], image["width"], 3), dtype=np.uint8)
        for annotation in content["annotations"]:
            if annotation["image_id"] == image["id"]:
                left, top, width, height = annotation["bbox"]
                channel = 0 if annotation["category_id"] == 3 else 2
                pixels[top : top + height, left : left + width, channel] = 230
        Image.fromarray(pixels).save(folder / image["file_name"])


def write_coco(folder: Path, **counts: int) -> None:
    """Writes a folder in COCO's own layout: FOLDER/annotations/instances_SPLIT2017.json and FOLDER/SPLIT2017/1.png.

    Args:
        folder: To write to.
        counts: Number of images by split.
    """
    (folder / "annotations").mkdir(parents=True)
    for split, count in counts.items():
        content = coco_instances(count)
        (folder / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
        write_pictures(folder / f"{split}2017", content)


OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{left}</xmin><ymin>{top}</ymin>
<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"""


def write_voc(folder: Path, **counts: int) -> None:
    """Writes the pictures and objects of `write_coco` as Pascal VOC's: crowds are difficult, edges count from 1.

    Args:
        folder: To write to.
        counts: Number of images by split.
    """
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "Annotations").mkdir()
    total = coco_instances(sum(counts.values()))
    write_pictures(folder / "JPEGImages", total)
    names = [Path(image["file_name"]).stem for image in total["images"]]
    for split, count in counts.items():
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names[:count]))
        names = names[count:]
    (folder / "ImageSets" / "Main" / "bar_train.txt").write_text("1  1\n")
    class_of = {category["id"]: category["name"] for category in COCO_CATEGORIES}
    for image in total["images"]:
        objects = [entry for entry in total["annotations"] if entry["image_id"] == image["id"]]
        lines = [
            OBJECT.format(
                name=class_of[entry["category_id"]],
                difficult=entry["iscrowd"],
                left=entry["bbox"][0] + 1,
                top=entry["bbox"][1] + 1,
                right=entry["bbox"][0] + entry["bbox"][2],
                bottom=entry["bbox"][1] + entry["bbox"][3],
            )
            for entry in objects
        ]
        size = f"<size><width>{image['width']}</width><height>{image['height']}</height><depth>3</depth></size>"
        content = f"<annotation>{size}{''.join(lines)}</annotation>"
        (folder / "Annotations" / f"{Path(image['file_name']).stem}.xml").write_text(content)


SHAPES = ["ground", "red", "green"]
"""Classes of `write_masks`."""


def write_masks(
    folder: Path, counts: dict[str, int], size: tuple[int, int] = (48, 40), masks: str = "masks", first: int = 0
) -> None:
    """Writes noise with a red and a green rectangle, and their class maps, of (width, height) `size`.

    Args:
        folder: Gets images/SPLIT/NUMBER.jpg, and NUMBER.png in the folder of masks.
        counts: Number of images by split.
        size: Of every second image; those between are turned by a right angle.
        masks: Name of the folder of masks.
        first: Number of the first class in the masks. The left upper pixel is of no class: 255, or 0 below `first`.
    """
    for split, count in counts.items():
        generator = np.random.default_rng(count)
        for kind in ("images", masks):
            (folder / kind / split).mkdir(parents=True)
        for number in range(count):
            width, height = size if number % 2 == 0 else size[::-1]
            pixels = generator.integers(0, 60, (height, width, 3), dtype=np.uint8)
            class_map = np.full((height, width), first, dtype=np.uint8)
            for label in (1, 2):
                top, left = generator.integers(0, height - 16), generator.integers(0, width - 16)
                pixels[top : top + 16, left : left + 16, label - 1] += 180
                class_map[top : top + 16, left : left + 16] = first + label
            class_map[0, 0] = 0 if first else 255
            # Two rectangles that overlap are two colours mixed; the class is the upper one's.
            Image.fromarray(pixels).save(folder / "images" / split / f"{number}.jpg", quality=95)
            Image.fromarray(class_map).save(folder / masks / split / f"{number}.png")
