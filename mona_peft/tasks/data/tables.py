"""Tables of images in CSV, TSV or JSONL: which columns hold paths, labels and splits, and where the images are."""

import csv
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mona_peft.tasks.data.files import ImageIndex, find_images, folders_in, read_text
from mona_peft.tasks.data.splits import role_of
from mona_peft.tasks.messages import first_of

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json")

STEMS = ("metadata", "labels", "annotations", "_classes", "classes", "data", "dataset", "index")
"""Usual names of a table beside its images."""

IMAGE_NAMES = (
    *("file_name", "filename", "file", "image", "image_path", "path", "filepath", "file_path", "img", "img_path"),
    *("image_name", "image_file", "image_id", "name", "id"),
)
LABEL_NAMES = (
    *("label", "labels", "class", "classes", "category", "categories", "class_name", "target", "tags", "class_label"),
)
SPLIT_NAMES = ("split", "subset", "set", "partition")
"""Usual names of columns, in capitals or small letters, the surest first."""

SEPARATORS = ("|", ";")
"""What stands between several labels of one image, without a word of the user's."""

Row = dict[str, Any]
logger = logging.getLogger(__name__)


def read_table(path: Path) -> list[Row]:
    """Returns the rows of a table.

    Raises:
        ValueError: It is broken, or has no rows; names it.
    """
    text = read_text(path)
    try:
        if path.suffix.lower() == ".jsonl":
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        elif path.suffix.lower() == ".json":
            rows = json.loads(text)
        else:
            heading = text.split("\n", 1)[0]
            delimiter = max("\t;,", key=heading.count)
            rows = list(csv.DictReader(text.splitlines(), delimiter=delimiter, skipinitialspace=True))
    except (json.JSONDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is broken ({error}).") from error
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path} is no table: rows with a name for each value are needed.")
    if any(None in row or None in row.values() for row in rows) and path.suffix.lower() in (".csv", ".tsv"):
        number = next(number for number, row in enumerate(rows) if None in row or None in row.values())
        raise ValueError(f"{path}: row {number + 2} has more or fewer values than the heading has names.")
    return [{str(name).strip(): value for name, value in row.items()} for row in rows]


def find_tables(folder: Path) -> dict[str, Path]:
    """Returns the tables of a folder by split; one for all of them has no name.

    Args:
        folder: With `metadata.csv`, `labels.csv`, ... for all images, with `train.csv`, `test.csv`, ..., or with such a
            table in a folder for each split.
    """
    tables = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES and path.is_file()]
    tables = [path for path in tables if path.suffix.lower() != ".json" or role_of(path.stem)]
    by_split = {path.stem: path for path in tables if role_of(path.stem)}
    if by_split:
        return by_split
    usual = [path for stem in STEMS for path in tables if path.stem.casefold() == stem]
    rest = [path for path in tables if path not in usual and path.suffix.lower() != ".json"]
    if usual or len(rest) == 1:
        return {"": (usual or rest)[0]}
    inside = {place.name: find_tables(place) for place in folders_in(folder) if role_of(place.name)}
    return {name: found[""] for name, found in inside.items() if "" in found}


def choose_column(rows: Sequence[Row], given: str | None, names: Sequence[str], option: str) -> str | None:
    """Returns the column of a given name, or of a usual one; None where there is none.

    Raises:
        ValueError: The given one is not there; names those that are.
    """
    present = list(rows[0])
    if given is not None:
        if given not in present:
            raise ValueError(f"--{option} {given}: the table has no such column. It has: {', '.join(present)}.")
        return given
    by_name = {name.casefold(): name for name in reversed(present)}
    return next((by_name[name] for name in names if name in by_name), None)


def find_pictures(rows: Sequence[Row], column: str, table: Path, folder: Path) -> list[Path]:
    """Returns the images of the rows of a table.

    Args:
        rows: Of the table.
        column: With paths, from the table's folder or from the folder of images, or names without a suffix.
        table: The table's file.
        folder: Of the images.

    Raises:
        ValueError: An image is not there, or there are several of its name; names the first ones.
    """
    index = ImageIndex(folder, table.parent)
    paths, missing = [], []
    for row in rows:
        name = str(row[column]).strip()
        path = index.find(name) or index.find_stem(name)
        paths.append(path)
        if path is None:
            missing.append(name or "a row without a name")
    if missing:
        raise ValueError(
            f"{table} names {len(rows)} images, and {len(missing)} of them are not in {folder}: {first_of(missing)}. "
            "Put them there, remove their rows, or say which folder holds them with --image_dir."
        )
    return paths


def each_once(
    rows: Sequence[Row], paths: Sequence[Path], labels: Sequence[Any], table: Path
) -> tuple[list[Row], list[Path], list[Any]]:
    """Returns the rows of a table, their images and their labels, without those that say again what was said.

    Raises:
        ValueError: An image is there twice, with different labels; names it.
    """
    first: dict[Path, Any] = {}
    kept: list[int] = []
    contradicting: dict[Path, str] = {}
    for number, (path, label) in enumerate(zip(paths, labels, strict=True)):
        if path not in first:
            kept.append(number)
        elif first[path] != label:
            contradicting.setdefault(path, f"{path.name} ({first[path]} and {label})")
        first.setdefault(path, label)
    if contradicting:
        raise ValueError(
            f"{table} gives {len(contradicting)} images different labels in different rows: "
            f"{first_of(list(contradicting.values()), 3)}. Where images show several classes, write them into one row, "
            "with | between."
        )
    if len(kept) < len(paths):
        logger.warning("%s: %d rows say again what others say, and are left out.", table, len(paths) - len(kept))
    return tuple([values[number] for number in kept] for values in (rows, paths, labels))


def tell_of_unnamed(named: set[Path], folder: Path) -> None:
    """Says how many images of a folder no table names."""
    left = [path for path in find_images(folder) if path not in named]
    if left:
        logger.warning(
            "%d of %d images in %s are not in the table and are left out: %s.",
            len(left),
            len(left) + len(named),
            folder,
            first_of([path.relative_to(folder) for path in left], 3),
        )


def read_labels(
    rows: Sequence[Row], column: str | None, separator: str | None, others: Sequence[str], where: object
) -> list[list[str]] | list[str | None] | None:
    """Returns the labels of rows: one each, or a list each where an image may show several.

    Args:
        rows: Of a table.
        column: Of labels. None: classes have columns of their own, of zeros and ones.
        separator: What stands between several labels. None: `|` or `;`, where they occur.
        others: Columns that hold no classes.
        where: What a message says of the table.

    Returns:
        None where there are no labels.
    """
    if column is None:
        classes = [name for name in rows[0] if name not in others and all(_is_bit(row.get(name)) for row in rows)]
        if len(classes) < 2:
            return None
        several = [[name for name in classes if float(row[name])] for row in rows]
        return [row[0] for row in several] if all(len(row) == 1 for row in several) else several
    values = [row.get(column) for row in rows]
    if any(isinstance(value, list) for value in values):
        return [_texts(value if isinstance(value, list) else [value]) for value in values]
    texts = ["" if value is None else str(value).strip() for value in values]
    if separator is None:
        separator = next((mark for mark in SEPARATORS if any(mark in text for text in texts)), None)
        if separator is not None:
            logger.warning(
                "%s: %r stands between several labels of an image, so that each image may show several classes. "
                "(--label_separator none takes them for names of single classes.)",
                where,
                separator,
            )
    if separator in (None, "none"):
        return [text or None for text in texts]
    return [_texts(text.split(separator)) for text in texts]


def _texts(values: Sequence[Any]) -> list[str]:
    return [text for text in (str(value).strip() for value in values if value is not None) if text]


def _is_bit(value: Any) -> bool:
    try:
        return float(value) in (0.0, 1.0)
    except (TypeError, ValueError):
        return False
