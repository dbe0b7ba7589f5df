"""Annotated images as the readers of the formats return them, before they are checked."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset

from mona_peft.tasks.data.checks import read_headers, tell_of
from mona_peft.tasks.messages import first_of

logger = logging.getLogger(__name__)


@dataclass
class AnnotatedImage:
    """An image and its objects.

    Attributes:
        image_id: Number that is the image's own within its split.
        where: What a message says of the image.
        objects: One an object: `bbox`, `category` and what else `ObjectCheck` knows.
        size: (width, height), if the annotation tells it.
    """

    image_id: int
    where: str
    objects: list[dict[str, Any]]
    size: tuple[int, int] | None = None


@dataclass
class AnnotatedSplit:
    """A split of a dataset.

    Attributes:
        classes: Names of the classes, by what its objects have as `category`.
        images: What is known of each image.
        pictures: The images themselves, in the same order: rows of `image`, not decoded.
        groups: Classes that seem to stand for others, and are none if no object is of them.
    """

    classes: dict[Any, str]
    images: list[AnnotatedImage]
    pictures: Dataset
    groups: set[Any] = field(default_factory=set)


Found = dict[str, Callable[[], AnnotatedSplit]]
"""The splits of a dataset in some format, each read when it is wanted."""


def missing_images(paths: Sequence[Path], where: str) -> None:
    """Checks that files of images exist.

    Args:
        paths: Of the images.
        where: What a message says of the place that names them.

    Raises:
        ValueError: Some are missing; names the first ones.
    """
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise ValueError(
            f"{where} names {len(paths)} images, and {len(missing)} of them are missing: "
            f"{first_of(missing)}. Put them there, say which folder holds them with --image_dir, or remove their "
            "entries."
        )


def tell_of_unannotated(images: set[Path], named: set[Path], where: object) -> None:
    """Says how many of the images that lie where annotated ones do have no annotation, and are left out."""
    left = sorted(images - named)
    if left:
        logger.warning(
            "%d of %d images are not named by %s and are left out: %s.",
            len(left),
            len(left) + len(named),
            where,
            first_of(left, 3),
        )


def image_sizes(split: AnnotatedSplit) -> list[tuple[int, int]]:
    """Returns the (width, height) of images, the way round in which they will be shown, from the heads of their files.

    Raises:
        ValueError: An image can't be read, or has another size than its annotation says; names it.
    """
    headers = read_headers((row["image"] for row in split.pictures), [image.where for image in split.images])
    for image, header in zip(split.images, headers, strict=True):
        if image.size is not None and tuple(image.size) != header.size:
            raise ValueError(
                f"{image.where} is {header.size[0]} × {header.size[1]} pixels, but its annotation says "
                f"{image.size[0]} × {image.size[1]}: boxes and masks would not fit. (Images are turned as their EXIF "
                "data says.)"
            )
    tell_of(headers, annotated=True)
    return [header.size for header in headers]
