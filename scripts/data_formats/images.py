"""Images for classification, a few each: folders, tables beside them, pictures of many bits and channels."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image


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
    folders("cat", "dog")(folder)
    (folder / "dog").rename(folder.parent / "elsewhere")
    os.symlink(folder.parent / "elsewhere", folder / "dog")


def linked_twice(folder: Path) -> None:
    """A class folder that is a link to another class folder."""
    folders("cat", "dog")(folder)
    os.symlink(folder / "dog", folder / "puppy")


def table(name: str, lines: Sequence[str], place: str = "images", count: int = 6) -> Callable[[Path], None]:
    """Images and a table; `{}` in a line is the number of the image."""

    def build(folder: Path) -> None:
        for number in range(count):
            picture(folder / place / f"{number}.png", number)
        heading, *rows = lines
        body = [rows[number % len(rows)].format(number) for number in range(count)]
        text(folder / name, "\n".join([heading, *body] if heading else body) + "\n")

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
