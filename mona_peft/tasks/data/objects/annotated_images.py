"""Annotated images as the readers of the formats return them, before they are checked."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from tqdm import tqdm

from mona_peft.tasks.data.files import UNREADABLE, is_turned, open_stored, shown_size, warn_of_turned_images
from mona_peft.tasks.messages import first_of


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
    """

    classes: dict[Any, str]
    images: list[AnnotatedImage]
    pictures: Dataset


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
            f"{first_of(missing)}. Put them there, or remove their entries."
        )


def image_sizes(split: AnnotatedSplit) -> Iterator[tuple[int, int]]:
    """Reads the (width, height) of images, the way round in which they will be shown.

    Raises:
        ValueError: An image can't be read, or has another size than its annotation says; names it.
    """
    pictures = tqdm(split.pictures, "Reading sizes", disable=None)
    turned = 0
    for image, picture in zip(split.images, pictures, strict=True):
        try:
            with open_stored(picture["image"]) as opened:
                size = shown_size(opened)
                turned += is_turned(opened)
        except UNREADABLE as error:
            raise ValueError(f"{image.where} can't be read ({error}). Replace or remove it.") from error
        if image.size is not None and tuple(image.size) != size:
            raise ValueError(
                f"{image.where} is {size[0]} × {size[1]} pixels, but its annotation says {image.size[0]} × "
                f"{image.size[1]}: boxes and masks would not fit. (Images are turned as their EXIF data says.)"
            )
        yield size
    warn_of_turned_images(turned, len(split.images))
