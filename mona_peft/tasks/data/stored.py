"""Pictures as datasets store them: the path of a file, or its bytes; opened, measured, made."""

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import tifffile
from datasets import Dataset, Features
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
"""What Pillow's readers raise."""

TURNED, LYING = range(2, 9), range(5, 9)
"""Orientations in EXIF data: turned or mirrored, and by a right angle. Some cameras write others, without meaning."""

Source = str | Path | bytes | dict[str, Any] | Image.Image
"""A picture: path of a file, content of one, a dict of `path` and `bytes` as `datasets.Image(decode=False)` gives it,
or a picture of Pillow's."""


def open_stored(source: Source | None) -> Image.Image:
    """Opens a picture without decoding it; raises `UNREADABLE`.

    Raises:
        FileNotFoundError: There is none.
    """
    if isinstance(source, Image.Image):
        return source
    content = stored_content(source)
    return Image.open(io.BytesIO(content) if isinstance(content, bytes) else content)


def stored_content(source: Source | None) -> str | Path | bytes:
    """Returns the path of a picture's file, or its content where it has none of its own.

    Raises:
        FileNotFoundError: There is neither.
    """
    if not isinstance(source, dict):
        content = source
    elif source.get("bytes") is not None:
        content = source["bytes"]
    else:
        content = source.get("path")
        if content is not None and "::" in str(content):  # in an archive
            with datasets.utils.file_utils.xopen(content, "rb") as file:
                content = file.read()
    if content is None:
        raise FileNotFoundError("there is none")
    return content


@dataclass(frozen=True)
class Header:
    """What the head of a file tells of its picture.

    Attributes:
        size: Width and height in pixels, as the picture is shown.
        turned: Whether it is shown turned or mirrored, as its EXIF data says.
        mode: Pillow's name of what a pixel holds; None for a TIFF that Pillow doesn't know.
        several: Whether the file holds several pictures, of which the first is taken: pages, or frames of a film.
    """

    size: tuple[int, int]
    turned: bool
    mode: str | None
    several: bool


def read_header(source: Source | None) -> Header:
    """Reads the head of a picture's file, none of its pixels; raises `UNREADABLE`."""
    try:
        with open_stored(source) as image:
            several = image.format not in ("MPO", "ICO") and getattr(image, "is_animated", False)
            return Header(shown_size(image), is_turned(image), image.mode, several)
    except UnidentifiedImageError:
        with opened_tiff(stored_content(source)) as file:
            page = file.pages[0]
            return Header((page.imagewidth, page.imagelength), False, None, False)


def check_content(source: Source | None) -> None:
    """Reads a picture to its end, as small as that can be done; raises `UNREADABLE`."""
    try:
        with open_stored(source) as image:
            image.draft("RGB", (32, 32))  # a JPEG is still read to its end, but only a small picture is computed
            image.load()
    except UnidentifiedImageError:
        with opened_tiff(stored_content(source)) as file:
            file.pages[0].asarray()


@contextmanager
def opened_tiff(content: str | Path | bytes) -> Iterator[tifffile.TiffFile]:
    """Opens a TIFF, of a kind that Pillow may not know.

    Raises:
        UnidentifiedImageError: It is none, or is broken, now or while it is read.
    """
    try:
        with tifffile.TiffFile(io.BytesIO(content) if isinstance(content, bytes) else content) as file:
            yield file
    except tifffile.TiffFileError as error:
        name = "the picture" if isinstance(content, bytes) else content
        raise UnidentifiedImageError(f"{name} is in no format that is known, or broken") from error
    # What tifffile makes of nonsense in a file.
    except (LookupError, AttributeError, TypeError, ArithmeticError, MemoryError) as error:
        raise UnidentifiedImageError(f"it is a broken TIFF ({type(error).__name__}: {error})") from error


def is_turned(image: Image.Image) -> bool:
    """Tells whether an image is shown turned or mirrored, as its EXIF data says."""
    return orientation(image) in TURNED


def shown_size(image: Image.Image) -> tuple[int, int]:
    """Returns the (width, height) of an image as it is shown."""
    return image.size[::-1] if orientation(image) in LYING else image.size


def orientation(image: Image.Image) -> object:
    """Returns the number that EXIF data give the way a picture is turned, if they stand in the head of its file."""
    # A JPEG's data stand in its head; those of PNG may stand behind the pixels, and Pillow would decode these for them.
    if isinstance(image, ImageFile.ImageFile) and image.format == "PNG" and "exif" not in image.info:
        return None
    return image.getexif().get(ExifTags.Base.Orientation)


def picture_rows(**columns: Sequence[dict[str, Any]]) -> Dataset:
    """Returns columns of images, as `datasets.Image(decode=False)` gives them, as a dataset."""
    features = Features({name: datasets.Image(decode=False) for name in columns})
    return Dataset.from_dict({name: list(stored) for name, stored in columns.items()}, features=features)


def are_files(rows: Dataset, column: str = "image") -> bool:
    """Tells by the first of the pictures whether they are files; those of a table of the hub lie in it."""
    pictures = (row[column] for row in rows.select_columns(column))
    first = next((picture for picture in pictures if picture is not None), None)
    return first is not None and first["bytes"] is None


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
