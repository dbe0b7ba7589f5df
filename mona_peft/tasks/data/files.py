"""Image files and pictures as datasets store them: found, opened, and checked before training starts."""

import io
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, Features
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
from PIL import ExifTags, Image
from tqdm import tqdm

from mona_peft.tasks.messages import first_of

UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow's readers raise."""

TURNED, LYING = range(2, 9), range(5, 9)
"""Orientations in EXIF data: turned or mirrored, and by a right angle. Some cameras write others, without meaning."""

logger = logging.getLogger(__name__)


def find_images(folder: Path) -> list[Path]:
    """Returns the files below a folder that `datasets` takes for images, sorted.

    As there, files and folders whose names begin with `.` or `__` do not count.
    """
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in ImageFolder.EXTENSIONS
        and not any(part.startswith((".", "__")) for part in path.relative_to(folder).parts)
    )


def check_images(pictures: Dataset, names: Sequence[str]) -> None:
    """Reads every image once, to its end.

    Args:
        pictures: Rows of `image`, not decoded.
        names: What a message says of each.

    Raises:
        ValueError: Some can't be read; the message names them and says why.
    """
    with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter's lock
        found = pool.map(lambda row: why_unreadable(pictures[row]["image"]), range(len(pictures)))
        reasons = list(tqdm(found, "Reading images", len(pictures), disable=None))
    broken = [f"{name}: {reason}" for name, reason in zip(names, reasons, strict=True) if reason]
    if broken:
        listed = first_of(broken, separator="\n  ")
        raise ValueError(
            f"{len(broken)} of {len(names)} images can't be read. Replace or remove them, then start again:\n  {listed}"
        )


def why_unreadable(stored: dict[str, Any] | None) -> str | None:
    """Returns what is wrong with an image, as `datasets.Image(decode=False)` gives it, or None."""
    try:
        with open_stored(stored) as image:
            image.draft("RGB", (32, 32))  # a JPEG is still read to its end, but only a small picture is computed
            image.load()
    except UNREADABLE as error:
        return f"{type(error).__name__}: {error}"
    return None


def open_stored(stored: dict[str, Any] | None) -> Image.Image:
    """Opens an image as `datasets.Image(decode=False)` gives it; raises `UNREADABLE`.

    Raises:
        FileNotFoundError: There is none.
    """
    if stored is None or (stored["path"] is None and stored["bytes"] is None):
        raise FileNotFoundError("there is none")
    return Image.open(stored["path"] if stored["bytes"] is None else io.BytesIO(stored["bytes"]))


def is_turned(image: Image.Image) -> bool:
    """Tells whether an image is shown turned or mirrored, as its EXIF data says."""
    return _orientation(image) in TURNED


def shown_size(image: Image.Image) -> tuple[int, int]:
    """Returns the (width, height) of an image as it is shown."""
    return image.size[::-1] if _orientation(image) in LYING else image.size


def _orientation(image: Image.Image) -> object:
    return image.getexif().get(ExifTags.Base.Orientation)


def warn_of_turned_images(count: int, total: int) -> None:
    """Says how many of `total` annotated images are shown turned: an annotation of those as stored would not fit."""
    if count:
        logger.warning(
            "%d of %d images are shown turned or mirrored, as their EXIF data says, and their annotations are taken to "
            "be of what is shown. Look at predictions.png; if they don't fit, remove the EXIF data.",
            count,
            total,
        )


def listing(folder: Path) -> str:
    """Names what is in a folder and in the folders in it."""
    present = sorted(str(path.relative_to(folder)) for path in [*folder.glob("*"), *folder.glob("*/*/")])
    return first_of(present, count=10) or "nothing"


def read_lines(path: Path) -> list[str]:
    """Returns the lines of a text file that are not empty.

    Raises:
        ValueError: It is not UTF-8; names it.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 ({error}). Convert it.") from error
    return [line.strip() for line in lines if line.strip()]


def picture_rows(**columns: Sequence[dict[str, Any]]) -> Dataset:
    """Returns columns of images, as `datasets.Image(decode=False)` gives them, as a dataset."""
    features = Features({name: datasets.Image(decode=False) for name in columns})
    return Dataset.from_dict({name: list(stored) for name, stored in columns.items()}, features=features)


def picture_files(paths: Sequence[Path]) -> Dataset:
    """Returns files of images as rows of `image`, not decoded."""
    return picture_rows(image=[stored_file(path) for path in paths])


def stored_file(path: Path) -> dict[str, Any]:
    """Returns an image file as `datasets.Image(decode=False)` gives it."""
    return {"path": str(path), "bytes": None}


def stored_png(image: Image.Image) -> dict[str, Any]:
    """Returns a picture as `datasets.Image(decode=False)` gives it: losslessly encoded, without a path."""
    encoded = io.BytesIO()
    image.save(encoded, "PNG", compress_level=1)
    return {"bytes": encoded.getvalue(), "path": None}
