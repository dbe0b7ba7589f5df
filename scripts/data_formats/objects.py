"""Images with objects in the formats of COCO, YOLO and Pascal VOC, a few each."""

from collections.abc import Callable, Sequence
from pathlib import Path

from scripts.data_formats.images import picture, text

BOXES = {"cat": (4, 4, 12, 12), "dog": (30, 2, 6, 30)}
"""Left, top, width and height of the two objects of every image with objects, 48 x 40 pixels."""


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


def voc_years(folder: Path) -> None:
    """Pascal VOC's of two years, read together."""
    for year in ("VOC2007", "VOC2012"):
        voc(True)(folder / year)


def pose(folder: Path) -> None:
    """YOLO's poses: a box and three points, each with whether it is seen."""
    yolo(False)(folder)
    text(folder / "data.yaml", (folder / "data.yaml").read_text() + "kpt_shape: [3, 3]\n")
    for path in folder.glob("labels/*/*.txt"):
        text(path, "".join(f"{line} {'0.5 0.5 2 ' * 3}\n" for line in path.read_text().splitlines()))
