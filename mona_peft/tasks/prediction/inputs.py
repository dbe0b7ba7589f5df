"""The images that are to be predicted: files, folders and patterns as a user gives them."""

import glob
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import PIL.Image

from mona_peft.tasks.data.decoding import Decoding, read_image
from mona_peft.tasks.data.files import find_images, listing
from mona_peft.tasks.messages import first_of


@dataclass(frozen=True)
class InputImage:
    """An image to predict.

    Attributes:
        path: Of its file, as given or found.
        name: What files that are made of it are called, without a suffix; with `/` where they lie in folders.
    """

    path: Path
    name: str

    def read(self, decoding: Decoding | None = None) -> PIL.Image.Image:
        """Returns the image in RGB, turned as its EXIF data says: as training has read its images.

        Args:
            decoding: How images are read that are no 8-bit RGB, as `Decoding.of` tells it of an image processor.

        Raises:
            UNREADABLE: It can't be read.
        """
        return read_image(self.path, decoding or Decoding())


def find_inputs(given: Sequence[str]) -> list[InputImage]:
    """Returns the images that are given, in this order, each once.

    Args:
        given: Files, folders, which are searched with all that is in them, and patterns such as `photos/**/*.jpg`.

    Raises:
        ValueError: Something given is not there, or holds no image.
    """
    paths: dict[Path, None] = {}
    for some in given:
        paths.update(dict.fromkeys(_files(some)))
    unique = {os.path.realpath(path): path for path in reversed(paths)}  # the first of several ways to a file
    kept = [path for path in paths if unique[os.path.realpath(path)] is path]
    # Names are told from the folder that all have in common, so that a/1.jpg and b/1.jpg don't meet.
    common = Path(os.path.commonpath([path.absolute().parent for path in kept]))
    relative = [path.absolute().relative_to(common) for path in kept]
    counts = Counter(path.with_suffix("") for path in relative)
    return [
        InputImage(path, (name if counts[name.with_suffix("")] > 1 else name.with_suffix("")).as_posix())
        for path, name in zip(kept, relative, strict=True)
    ]


def _files(given: str) -> list[Path]:
    path = Path(given)
    if path.is_file():
        return [path]
    if path.is_dir():
        if found := find_images(path):
            return found
        raise ValueError(f"{given}: there are no images in this folder. It has: {listing(path)}.")
    # Files only where a folder's name fits too; sorted, as file systems have no order.
    found = sorted(Path(match) for match in glob.glob(given, recursive=True) if Path(match).is_file())
    if not found:
        folder = next((parent for parent in path.parents if parent.is_dir()), Path())
        present = sorted(entry.name for entry in folder.iterdir())
        raise ValueError(
            f"{given}: no such file or folder, and no pattern that a file fits. {folder} has: "
            f"{first_of(present) or 'nothing'}."
        )
    return found
