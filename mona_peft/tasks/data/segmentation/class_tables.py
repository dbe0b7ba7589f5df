"""Names of the classes of masks, and their numbers or colours, as files tell them."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mona_peft.tasks.data.files import read_lines, read_text

MAX_CLASSES = 255
"""As many as fit beside the number of pixels that do not count, in 8 bits."""

ADE20K_CLASSES = "objectInfo150.txt"
"""Table of the classes that ADE20K's archive for the benchmark holds."""

FILES = (
    *("classes.txt", "classes.csv", "class_dict.csv", "labelmap.txt", "label_colors.txt", "_classes.csv"),
    *("train/_classes.csv", ADE20K_CLASSES),
)
"""Usual names; `class_dict.csv` is CamVid's, `labelmap.txt` CVAT's, `_classes.csv` Roboflow's."""

NAME_COLUMNS = ("name", "class", "label", "class_name", "classes")
NUMBER_COLUMNS = ("pixel value", "pixel_value", "id", "number", "value", "index")


@dataclass(frozen=True)
class ClassTable:
    """Names of classes by number, and their colours where masks are in colours."""

    names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...] = ()


def find_class_table(folder: Path, given: str | None) -> ClassTable | None:
    """Returns the classes of a file that the user names, or that lies in a folder; None where there is none.

    Raises:
        ValueError: The file is not there, or broken; names it.
    """
    if given and not Path(given).is_file():
        raise ValueError(
            f"--class_names {given}: there is no such file. It holds one name a line, or a table of name, r, g, b."
        )
    path = Path(given) if given else next((folder / name for name in FILES if (folder / name).is_file()), None)
    return None if path is None else read_class_table(path)


def read_class_table(path: Path) -> ClassTable:
    """Reads a file of classes.

    Raises:
        ValueError: It is broken; names it.
    """
    lines = read_lines(path)
    if path.name == ADE20K_CLASSES:  # a table with a heading, whose last column is the name
        table = ClassTable(tuple(line.split("\t")[-1] for line in lines[1:]))
    elif lines and lines[0].lstrip("# ").startswith("label:color_rgb"):
        entries = [line.split(":") for line in lines[1:]]
        table = ClassTable(
            tuple(entry[0] for entry in entries), tuple(_colour(entry[1].split(","), path) for entry in entries)
        )
    elif path.suffix.lower() == ".csv":
        table = _read_csv(path)
    else:
        table = ClassTable(tuple(lines))
    names = table.names
    if not 1 < len(names) <= MAX_CLASSES or len(set(names)) < len(names):
        raise ValueError(
            f"{path} has {len(names)} names, {len(set(names))} of them different: it needs 2 to {MAX_CLASSES}, one a "
            "line, each once."
        )
    return table


def _read_csv(path: Path) -> ClassTable:
    rows = [[cell.strip() for cell in row] for row in csv.reader(read_text(path).splitlines()) if any(row)]
    heading = [cell.casefold() for cell in rows[0]] if rows else []
    by_name = {name: number for number, name in enumerate(heading)}
    name = next((by_name[word] for word in NAME_COLUMNS if word in by_name), None)
    levels = [
        next((by_name[word] for word in words if word in by_name), None)
        for words in (("r", "red"), ("g", "green"), ("b", "blue"))
    ]
    number = next((by_name[word] for word in NUMBER_COLUMNS if word in by_name), None)
    if name is None:  # no heading
        name, levels, body = 0, [1, 2, 3] if heading[1:] else [None], rows
    else:
        body = rows[1:]
    if number is not None:
        body = _by_number(body, number, path)
    names = tuple(row[name] for row in body)
    if None in levels:
        return ClassTable(names)
    return ClassTable(
        names, tuple(_colour([row[level] for level in levels if level is not None], path) for row in body)
    )


def _by_number(rows: Sequence[Sequence[str]], number: int, path: Path) -> list[Sequence[str]]:
    ordered = sorted(rows, key=lambda row: int(row[number]))
    if [int(row[number]) for row in ordered] != list(range(len(ordered))):
        raise ValueError(f"{path}: the numbers of the classes must be 0 to {len(ordered) - 1}, each once.")
    return ordered


def _colour(levels: Sequence[str], path: Path) -> tuple[int, int, int]:
    try:
        red, green, blue = (int(level) for level in levels)
    except ValueError as error:
        raise ValueError(
            f"{path}: a colour needs red, green and blue from 0 to 255, not {', '.join(levels)}."
        ) from error
    return red, green, blue
