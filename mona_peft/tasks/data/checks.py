"""What is looked at before training starts: the heads of files, or all of them, and images in two splits."""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from datasets import Dataset
from tqdm import tqdm

from mona_peft.tasks.data.stored import UNREADABLE, Header, Source, are_files, check_content, read_header
from mona_peft.tasks.messages import first_of

AT_ONCE = 256
"""How many pictures are in memory while they are looked at."""

logger = logging.getLogger(__name__)
Result = TypeVar("Result")


def read_headers(pictures: Iterable[Source | None], names: Sequence[str]) -> list[Header]:
    """Reads the heads of images, none of their pixels.

    Args:
        pictures: Not decoded.
        names: What a message says of each.

    Raises:
        ValueError: Some can't be read; the message names them and says why.
    """
    return _all_of(read_header, pictures, names, "Reading heads of images")


def check_images(pictures: Dataset, names: Sequence[str]) -> None:
    """Reads every image once, to its end.

    Args:
        pictures: Rows of `image`, not decoded.
        names: What a message says of each.

    Raises:
        ValueError: Some can't be read; the message names them and says why.
    """
    _all_of(check_content, (row["image"] for row in pictures), names, "Reading images")


def _all_of(read: Callable[[Any], Result], pictures: Iterable[Any], names: Sequence[str], title: str) -> list[Result]:
    """Applies a function to images, and names all those that it can't read."""

    def attempt(picture: Any) -> tuple[Result | None, str | None]:
        try:
            return read(picture), None
        except UNREADABLE as error:
            return None, f"{type(error).__name__}: {error}"

    found: list[tuple[Result | None, str | None]] = []
    left = iter(pictures)
    with ThreadPoolExecutor() as pool, tqdm(total=len(names), desc=title, disable=None) as bar:
        # Pillow decodes outside the interpreter's lock. Not all at once: pictures of a table lie in memory meanwhile.
        while some := list(islice(left, AT_ONCE)):
            found += pool.map(attempt, some)
            bar.update(len(some))
    broken = [f"{name}: {reason}" for name, (_, reason) in zip(names, found, strict=True) if reason]
    if broken:
        listed = first_of(broken, separator="\n  ")
        raise ValueError(
            f"{len(broken)} of {len(names)} images can't be read. Replace or remove them, then start again:\n  {listed}"
        )
    return [result for result, _ in found]


def tell_of(headers: Sequence[Header], annotated: bool) -> None:
    """Says what of the images is not what one may think.

    Args:
        headers: Of all images.
        annotated: Whether there are annotations of places in them, which would not fit if they were made of images as
            they are stored.
    """
    if turned := sum(header.turned for header in headers) * annotated:
        logger.warning(
            "%d of %d images are shown turned or mirrored, as their EXIF data says, and their annotations are taken to "
            "be of what is shown. Look at predictions.png; if they don't fit, remove the EXIF data.",
            turned,
            len(headers),
        )
    if several := sum(header.several for header in headers):
        logger.warning("%d of %d images have several pages or frames: the first one is taken.", several, len(headers))


def tell_of_leaks(splits: Mapping[str, Dataset]) -> dict[tuple[str, str], list[str]]:
    """Finds images that stand in two splits, byte for byte, and says so.

    Args:
        splits: Rows of `image`, not decoded; those that are no files are not looked at.

    Returns:
        The files of the second of two splits that stand in the first too, by the names of both.
    """
    files = [(split, path) for split, rows in splits.items() for path in _files_of(rows) if path]
    leaks: dict[tuple[str, str], list[str]] = defaultdict(list)
    for same in _same_bytes(files):
        first, _ = same[0]
        for split, path in same:
            if split != first:
                leaks[first, split].append(path)
    for (one, other), paths in leaks.items():
        logger.warning(
            "%d of %d images of the %s split stand in the %s split too, byte for byte: what is measured there is no "
            "test of what was not seen. Remove them from one of the two: %s.",
            len(paths),
            len(splits[other]),
            other,
            one,
            first_of(paths, 3),
        )
    return dict(leaks)


def tell_of_contradictions(rows: Dataset) -> int:
    """Finds images of different classes that are the same, byte for byte, and says so; returns how many there are.

    Args:
        rows: Of `image`, not decoded, and `label`.
    """
    paths = _files_of(rows)
    labels = rows["label"][:] if paths else []
    files = [(str(label), path) for path, label in zip(paths, labels, strict=True) if path]
    contradicting = [path for same in _same_bytes(files) for _, path in same]
    if contradicting:
        logger.warning(
            "%d images are the same, byte for byte, as images of other classes: %s.",
            len(contradicting),
            first_of(contradicting, 4),
        )
    return len(contradicting)


def _files_of(rows: Dataset) -> list[str | None]:
    return [_file_of(row["image"]) for row in rows.select_columns("image")] if are_files(rows) else []


def _file_of(picture: Source | None) -> str | None:
    """Returns the path of a picture that is a file."""
    path = picture.get("path") if isinstance(picture, dict) and picture.get("bytes") is None else None
    return path if path and Path(path).is_file() else None


def _same_bytes(files: Sequence[tuple[str, str]]) -> Iterable[list[tuple[str, str]]]:
    """Yields files that are the same, and that have different marks; only those of one size are read.

    Args:
        files: The mark and the path of each.
    """
    by_size: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for mark, path in files:
        by_size[Path(path).stat().st_size].append((mark, path))
    for some in by_size.values():
        if len({mark for mark, _ in some}) < 2:
            continue
        by_content: dict[bytes, list[tuple[str, str]]] = defaultdict(list)
        for mark, path in some:
            by_content[hashlib.blake2b(Path(path).read_bytes()).digest()].append((mark, path))
        yield from (same for same in by_content.values() if len({mark for mark, _ in same}) > 1)
