"""Folders in COCO's format: images, and one JSON file of instances a split."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mona_peft.tasks.data.files import picture_files
from mona_peft.tasks.data.objects.annotated_images import AnnotatedImage, AnnotatedSplit, missing_images

LAYOUT = (
    "FOLDER/annotations/instances_train.json beside FOLDER/train/*.jpg (or FOLDER/images/train/, FOLDER/images/), or "
    "FOLDER/train/_annotations.coco.json beside the images"
)


IN_WORDS = {int: "an integer", str: "text", list: "a list"}
"""What messages call the types of an entry's values."""


def coco_splits(folder: Path) -> dict[str, Path]:
    """Returns the annotation files of a folder, by split: `train` for `instances_train2017.json`.

    Args:
        folder: Laid out as COCO itself, or with one folder a split that holds its images and `_annotations.coco.json`.
    """
    files = {path.parent.name: path for path in sorted(folder.glob("*/_annotations.coco.json"))}
    for path in sorted([*folder.glob("annotations/*.json"), *folder.glob("*.json")]):
        if path.stem.startswith(("instances_", "train", "val", "test")):
            files[path.stem.removeprefix("instances_")] = path
    without_year = {re.sub(r"_?\d{4}$", "", name): path for name, path in files.items()}
    return without_year if len(without_year) == len(files) else files


def read_coco(path: Path, folder: Path) -> AnnotatedSplit:
    """Reads a file of instances.

    Args:
        path: Of the JSON.
        folder: That holds it and the images.

    Raises:
        ValueError: The file is broken, or an entry names what is not there, or images are
            missing. The message names file and entry.
    """
    content = _read(path)
    classes: dict[Any, str] = {}
    for entry, where in _entries(content, "categories", {"id": int, "name": object}, path):
        if entry["id"] in classes:
            raise ValueError(f"{where}: another category has this id.")
        classes[entry["id"]] = str(entry["name"])

    images: dict[Any, AnnotatedImage] = {}
    files: list[Path] = []
    listed = list(_entries(content, "images", {"id": int, "file_name": str}, path))
    directory = _image_directory(path, folder, [entry["file_name"] for entry, _ in listed])
    for entry, where in listed:
        if entry["id"] in images:
            raise ValueError(f"{where}: another image has this id.")
        file = directory / entry["file_name"]
        size = (entry.get("width"), entry.get("height"))
        if not all(side is None or isinstance(side, (int, float)) for side in size):
            raise ValueError(f"{where}: width and height must be numbers, not {size[0]!r} and {size[1]!r}.")
        images[entry["id"]] = AnnotatedImage(entry["id"], str(file), [], size if all(size) else None)
        files.append(file)
    missing_images(files, str(path))

    for entry, where in _entries(content, "annotations", {"image_id": int, "category_id": int, "bbox": list}, path):
        if entry["image_id"] not in images:
            raise ValueError(f"{where}: there is no image with the id {entry['image_id']!r}.")
        if entry["category_id"] not in classes:
            raise ValueError(
                f"{where}: there is no category with the id {entry['category_id']!r}. There are: "
                f"{', '.join(map(str, classes))}."
            )
        images[entry["image_id"]].objects.append({**entry, "category": entry["category_id"], "where": where})
    return AnnotatedSplit(classes, list(images.values()), picture_files(files))


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # neither JSON nor UTF-8
        raise ValueError(f"{path} is not a JSON file ({error}).") from error
    needed = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(name), list) for name in needed):
        has = content.items() if isinstance(content, dict) else [("the file", content)]
        has = ", ".join(f"{name} ({type(value).__name__})" for name, value in has) or "nothing"
        raise ValueError(
            f"{path} is no file of COCO instances: it needs the lists {', '.join(needed)}, and has: {has}."
        )
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


def _image_directory(path: Path, folder: Path, file_names: list[str]) -> Path:
    """Returns the first of the usual directories that has the first image; without one, the most usual."""
    name = path.stem.removeprefix("instances_")
    if path.parent.name != "annotations":
        candidates = [path.parent, path.parent / name, path.parent / "images" / name, path.parent / "images"]
    else:
        candidates = [folder / name, folder / "images" / name, folder / "images", folder]
    return next((place for place in candidates if file_names and (place / file_names[0]).is_file()), candidates[0])
