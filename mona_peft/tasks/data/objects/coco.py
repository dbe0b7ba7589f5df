"""COCO's format: images, and one JSON file of instances a split, as COCO, Roboflow, CVAT and Label Studio write it."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mona_peft.tasks.data.files import ImageIndex, find_images, folders_in, read_text
from mona_peft.tasks.data.objects.annotated_images import (
    AnnotatedImage,
    AnnotatedSplit,
    Found,
    missing_images,
    tell_of_unannotated,
)
from mona_peft.tasks.data.splits import role_of
from mona_peft.tasks.data.stored import picture_files

LAYOUT = (
    "FOLDER/annotations/instances_train.json beside FOLDER/train/*.jpg (or FOLDER/images/train/, FOLDER/images/), "
    "FOLDER/train/_annotations.coco.json beside the images, or FOLDER/annotations.json and FOLDER/images/*.jpg"
)

ROBOFLOW = "_annotations.coco.json"
OTHER_PARTS = ("captions", "person_keypoints", "panoptic", "stuff", "image_info")
"""Beginnings of the names of COCO's other files."""

LISTS = ("images", "annotations", "categories")
IN_WORDS = {int: "an integer", str: "text", list: "a list"}
"""What messages call the types of an entry's values."""


def find_coco(folder: Path) -> Found:
    """Returns the splits of a folder, by their names; a single file that tells no split has the name `train`."""
    files: dict[str, Path] = {
        place.name: place / ROBOFLOW for place in folders_in(folder) if (place / ROBOFLOW).is_file()
    }
    for place in (folder / "annotations", folder):
        named = {} if files or not place.is_dir() else _by_split(sorted(place.glob("*.json")))
        files = files or named
    if not files:
        inside = {
            place.name: _by_split(sorted(place.glob("*.json"))) for place in folders_in(folder) if role_of(place.name)
        }
        files = {name: path for name, found in inside.items() for path in found.values()}
    return {name: partial(read_coco, path, folder) for name, path in files.items()}


def named_files(paths: Sequence[str], image_dir: str | None) -> Found:
    """Returns the splits of files that the user names, in the order train, validation, test if their names do not tell.

    Raises:
        ValueError: A file is not there.
    """
    files = [Path(path) for path in paths]
    for path in files:
        if not path.is_file():
            raise ValueError(f"--annotations {path}: there is no such file.")
    names = [_split_of(path) for path in files]
    if None in names or len(set(names)) < len(names):
        names = ["train", "validation", "test"][: len(files)]
    if len(names) < len(files):
        raise ValueError(f"--annotations: {len(files)} files are given; three at most, for train, validation and test.")
    places = {path: Path(image_dir or path.parent) for path in files}
    return {name: partial(read_coco, path, places[path]) for name, path in zip(names, files, strict=True)}


def _by_split(paths: Sequence[Path]) -> dict[str, Path]:
    instances = [path for path in paths if path.stem.startswith("instances")]
    paths = instances or [path for path in paths if not path.stem.startswith(OTHER_PARTS) and _is_coco(path)]
    named = [(_split_of(path), path) for path in paths]
    if len(paths) == 1 and named[0][0] is None:
        return {"train": paths[0]}
    files: dict[str, Path] = {}
    for name, path in named:
        name = name or path.stem
        if name in files:
            raise ValueError(
                f"{files[name]} and {path} may both be the annotation of {name}. Say which with --annotations."
            )
        files[name] = path
    return files


def _split_of(path: Path) -> str | None:
    """Returns the word in the name of a file that says which split it is, without a year."""
    words = re.sub(r"_?\d{4}$", "", path.stem.removeprefix("instances_"))
    parts = [words, *re.split(r"[^A-Za-z]+", words)]
    return next((part for part in parts if role_of(part)), None)


def _is_coco(path: Path) -> bool:
    """Tells whether a JSON file has the lists of COCO's, without reading all of a large one."""
    with path.open(encoding="utf-8", errors="replace") as file:
        head = file.read(1 << 20)
    if path.stat().st_size > 1 << 20:
        return any(f'"{name}"' in head for name in LISTS)
    return (
        sum(f'"{name}"' in head for name in LISTS) == len(LISTS) or path.stem == "annotations" or bool(_split_of(path))
    )


def read_coco(path: Path, folder: Path) -> AnnotatedSplit:
    """Reads a file of instances.

    Args:
        path: Of the JSON.
        folder: That holds the images, and mostly the JSON.

    Raises:
        ValueError: The file is broken, or an entry names what is not there, or images are missing. The message names
            file and entry.
    """
    content = _read(path)
    classes: dict[Any, str] = {}
    above: set[str] = set()
    for entry, where in _entries(content, "categories", {"id": int, "name": object}, path):
        if entry["id"] in classes:
            raise ValueError(f"{where}: another category has this id.")
        classes[entry["id"]] = str(entry["name"])
        if str(entry.get("supercategory")) != str(entry["name"]):
            above.add(str(entry.get("supercategory")))
    count = Counter(classes.values())

    images: dict[Any, AnnotatedImage] = {}
    listed = list(_entries(content, "images", {"id": int, "file_name": str}, path))
    files = _find_files(path, folder, [entry["file_name"] for entry, _ in listed])
    seen: dict[Path, str] = {}
    for (entry, where), file in zip(listed, files, strict=True):
        if entry["id"] in images:
            raise ValueError(f"{where}: another image has this id.")
        if (other := seen.setdefault(file, where)) != where:
            raise ValueError(f"{where} is the file of {other} once more. Join the two, or remove one.")
        size = (entry.get("width"), entry.get("height"))
        if not all(side is None or isinstance(side, (int, float)) for side in size):
            raise ValueError(f"{where}: width and height must be numbers, not {size[0]!r} and {size[1]!r}.")
        images[entry["id"]] = AnnotatedImage(entry["id"], str(file), [], size if all(size) else None)

    for entry, where in _entries(content, "annotations", {"image_id": int, "category_id": int}, path):
        if entry["image_id"] not in images:
            raise ValueError(f"{where}: there is no image with the id {entry['image_id']!r}.")
        if entry["category_id"] not in classes:
            raise ValueError(
                f"{where}: there is no category with the id {entry['category_id']!r}. There are: "
                f"{', '.join(map(str, classes))}."
            )
        if not entry.get("bbox") and not entry.get("segmentation"):
            raise ValueError(f"{where} has neither bbox nor segmentation. It has: {', '.join(entry)}.")
        images[entry["image_id"]].objects.append({**entry, "category": entry["category_id"], "where": where})
    groups = {number for number, name in classes.items() if name in above or count[name] > 1}
    return AnnotatedSplit(classes, list(images.values()), picture_files(files), groups)


def _find_files(path: Path, folder: Path, names: Sequence[str]) -> list[Path]:
    """Returns the images of a file, from the usual folders, or from wherever they lie below the folder.

    Raises:
        ValueError: Some are missing, or several have one name; names the first ones.
    """
    written = [Path(name.replace("\\", "/")) for name in names]
    usual = _usual_places(path, folder)
    place = next((place for place in usual if any((place / name).is_file() for name in written[:100])), None)
    if place is None:
        index = ImageIndex(folder)
        found = [index.find(name) for name in names]
        if any(found):
            files = [file or folder / name for file, name in zip(found, written, strict=True)]
            missing_images(files, str(path))
            return files
        place = usual[0]
    files = [place / name for name in written]
    missing_images(files, str(path))
    if place.name == _split_of(path) or _split_of(path) is None or path.parent == place:  # the folder is its own
        tell_of_unannotated(set(find_images(place)), set(files), path)
    return files


def _usual_places(path: Path, folder: Path) -> list[Path]:
    name = path.stem.removeprefix("instances_")
    short = _split_of(path) or name
    inside = [folder / part / split for part in (".", "images") for split in dict.fromkeys((name, short))]
    if path.parent.name != "annotations":
        return [path.parent, *inside, path.parent / "images", folder / "images"]
    return [*inside, folder / "images", folder]


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(path))
    except ValueError as error:  # neither JSON nor UTF-8
        raise ValueError(f"{path} is not a JSON file ({error}).") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(name), list) for name in LISTS):
        has = content.items() if isinstance(content, dict) else [("the file", content)]
        has = ", ".join(f"{name} ({type(value).__name__})" for name, value in has) or "nothing"
        raise ValueError(f"{path} is no file of COCO instances: it needs the lists {', '.join(LISTS)}, and has: {has}.")
    return content


def _entries(
    content: dict[str, Any], kind: str, keys: dict[str, type], path: Path
) -> Iterator[tuple[dict[str, Any], str]]:
    """Yields the entries of a list, each with its place for messages, after checking some of their keys.

    Args:
        content: Of the file.
        kind: Name of the list.
        keys: That an entry needs, and what must stand there.
        path: Of the file.

    Raises:
        ValueError: An entry lacks a key, or something else stands there; names it.
    """
    for number, entry in enumerate(content[kind]):
        where = f"{path}: {kind}[{number}]"
        if not isinstance(entry, dict):
            raise ValueError(f"{where} must be an object with {', '.join(keys)}, not {entry!r:.80}.")
        where = f"{where} (id {entry['id']})" if "id" in entry else where
        lacking = [key for key in keys if key not in entry]
        if lacking:
            raise ValueError(f"{where} has no {', '.join(lacking)}. It has: {', '.join(entry)}.")
        for key, needed in keys.items():
            if not isinstance(entry[key], needed):
                raise ValueError(f"{where}: {key} must be {IN_WORDS[needed]}, not {entry[key]!r:.80}.")
        yield entry, where
