"""YOLO's format: a text file an image with a line an object, boxes or polygons in shares of the image's sides."""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from mona_peft.tasks.data.checks import read_headers
from mona_peft.tasks.data.files import ImageIndex, find_images, folders_in, read_lines, read_text
from mona_peft.tasks.data.objects.annotated_images import AnnotatedImage, AnnotatedSplit, Found, missing_images
from mona_peft.tasks.data.splits import ROLES, role_of
from mona_peft.tasks.data.stored import picture_files, stored_file
from mona_peft.tasks.messages import first_of

LAYOUT = (
    "FOLDER/data.yaml with names, train and val, images in FOLDER/images/train/ (or FOLDER/train/images/) and *.txt of "
    "the same names in FOLDER/labels/train/ (FOLDER/train/labels/); or FOLDER/classes.txt, images/ and labels/"
)

NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels", "names.txt")
"""Names of the classes, one a line, where there is no data.yaml."""

IMAGE_FOLDERS, LABEL_FOLDERS = ("images", "imgs", "JPEGImages"), ("labels", "annotations")
logger = logging.getLogger(__name__)


def find_yolo(folder: Path) -> Found:
    """Returns the splits of a folder by name."""
    settings = next((path for path in sorted(folder.glob("*.y*ml")) if _settings(path) is not None), None)
    if settings is not None:
        return read_yaml(settings)
    names = next((folder / name for name in NAME_FILES if (folder / name).is_file()), None)
    if names is None or not any(path.suffix == ".txt" and path != names for path in _texts(folder)):
        return {}
    classes = dict(enumerate(read_lines(names)))
    places = _places(folder)
    return {name: partial(_read, find_images(place), classes, folder) for name, place in places.items()}


def read_yaml(path: Path) -> Found:
    """Returns the splits that a `data.yaml` names.

    Raises:
        ValueError: It lacks names, or a split that it names is not there.
    """
    settings = _settings(path) or {}
    names = settings.get("names")
    classes = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(classes, dict) or not classes:
        raise ValueError(f"{path} needs `names`, the names of the classes by number, and has: {', '.join(settings)}.")
    classes = {int(number): str(name) for number, name in classes.items()}
    if settings.get("nc") not in (None, len(classes)):
        raise ValueError(f"{path}: nc is {settings['nc']}, and there are {len(classes)} names.")
    root = path.parent / str(settings.get("path") or ".")
    roots = [place for place in (root, path.parent) if place.is_dir()]
    poses = bool(settings.get("kpt_shape"))
    if poses:
        logger.warning("%s is of poses (kpt_shape): their boxes are read, and their points are left out.", path)
    splits = {name: value for name, value in settings.items() if name in sum(ROLES.values(), ()) and value}
    if not splits:
        raise ValueError(f"{path} names no images: `train` and `val` are needed. It has: {', '.join(settings)}.")
    return {
        name: partial(_read_split, value if isinstance(value, list) else [value], roots, classes, path, poses)
        for name, value in splits.items()
    }


def _settings(path: Path) -> dict[str, Any] | None:
    """Returns the content of a YAML file if it is a data set's."""
    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML that can be read ({error}).") from error
    return content if isinstance(content, dict) and ("names" in content or "nc" in content) else None


def _texts(folder: Path) -> list[Path]:
    places = [folder, *folders_in(folder), *(inside for place in folders_in(folder) for inside in folders_in(place))]
    return [path for place in places for path in sorted(place.glob("*.txt"))[:2]]


def _places(folder: Path) -> dict[str, Path]:
    """Returns the folders of images by split, where no data.yaml names them."""
    images = next((folder / name for name in IMAGE_FOLDERS if (folder / name).is_dir()), folder)
    places = {place.name: place for place in folders_in(images) if role_of(place.name)}
    places = places or {
        place.name.removeprefix("obj_").removesuffix("_data"): place for place in folder.glob("obj_*_data")
    }
    return places or {"train": images}


def _read_split(
    values: Sequence[str], roots: Sequence[Path], classes: dict[int, str], where: Path, poses: bool
) -> AnnotatedSplit:
    images: list[Path] = []
    for value in map(str, values):
        # Exports name folders from where they were made, such as ../train/images.
        plain = value.replace("\\", "/")
        while plain.startswith("../"):
            plain = plain.removeprefix("../")
        places = [root / name for root in roots for name in dict.fromkeys((value, plain))]
        place = next((place for place in places if place.exists()), None)
        if place is None:
            raise ValueError(f"{where} names {value}, which is not in {' nor in '.join(map(str, roots))}.")
        if place.is_dir():
            images += find_images(place)
        else:
            index = ImageIndex(where.parent, place.parent, *roots)
            listed = read_lines(place)
            found = [index.find(name) or place.parent / name for name in listed]
            missing_images(found, str(place))
            images += found
    return _read(images, classes, roots[0], poses)


def _read(images: list[Path], classes: dict[int, str], root: Path, poses: bool = False) -> AnnotatedSplit:
    """Reads the texts of images; an image without one has no object.

    Args:
        images: The files.
        classes: Names by number.
        root: Of the data set, for messages.
        poses: Whether points stand behind the boxes; these alone are taken.

    Raises:
        ValueError: No image has a text, or a line is broken; names it.
    """
    headers = read_headers([stored_file(path) for path in images], [str(path) for path in images])
    annotated, without = [], 0
    for number, (path, header) in enumerate(zip(images, headers, strict=True)):
        text = _text_of(path)
        without += text is None
        lines = read_lines(text) if text else []
        objects = [
            _object(line, header.size, f"{text}: line {row + 1}", classes, poses) for row, line in enumerate(lines)
        ]
        annotated.append(AnnotatedImage(number, str(path), objects))
    if images and without == len(images):
        raise ValueError(
            f"None of the {len(images)} images in {images[0].parent} has a text of its objects "
            f"({_candidates(images[0])[0]} for the first). YOLO's format has {LAYOUT}."
        )
    if without:
        logger.warning(
            "%d of %d images in %s have no text and are taken to show no object.", without, len(images), root
        )
    return AnnotatedSplit(classes, annotated, picture_files(images))


def _candidates(image: Path) -> list[Path]:
    parts = list(image.parts)
    candidates = []
    for number in range(len(parts) - 2, -1, -1):
        if parts[number] in IMAGE_FOLDERS:
            candidates += [
                Path(*parts[:number], name, *parts[number + 1 :]).with_suffix(".txt") for name in LABEL_FOLDERS
            ]
    return [*candidates, image.with_suffix(".txt")]


def _text_of(image: Path) -> Path | None:
    return next((path for path in _candidates(image) if path.is_file()), None)


def _object(line: str, size: tuple[int, int], where: str, classes: dict[int, str], poses: bool) -> dict[str, Any]:
    try:
        number, *values = (float(word) for word in line.split())
    except ValueError as error:
        raise ValueError(f"{where}: numbers are wanted, not {line!r:.80}.") from error
    if poses:
        values = values[:4]
    if number not in classes:
        raise ValueError(f"{where}: there is no class {number:g}. There are: {first_of(list(classes))}.")
    if len(values) not in (4, 5) and (len(values) < 6 or len(values) % 2):
        raise ValueError(
            f"{where}: a class and then 4 numbers of a box, or 3 points at least of a polygon, are wanted, not "
            f"{len(values)} numbers."
        )
    if any(not -0.01 <= value <= 1.01 for value in values):
        raise ValueError(f"{where}: shares of the image's sides from 0 to 1 are wanted, not {line!r:.80}.")
    entry = {"category": int(number), "where": where}
    if len(values) < 6:
        x, y, width, height = (value * size[axis % 2] for axis, value in enumerate(values[:4]))
        return {**entry, "bbox": [x - width / 2, y - height / 2, width, height]}
    polygon = [value * size[axis % 2] for axis, value in enumerate(values)]
    left, top = min(polygon[::2]), min(polygon[1::2])
    box = [left, top, max(polygon[::2]) - left, max(polygon[1::2]) - top]
    return {**entry, "bbox": box, "segmentation": [polygon]}
