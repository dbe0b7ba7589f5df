"""Files below a folder: which of them are images, and the texts beside them."""

import logging
import os
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from PIL import Image

from mona_peft.tasks.messages import first_of

NO_PICTURES = {"BUFR", "EPS", "FITS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"}
"""Formats that Pillow names, and either reads with the help of other programs or doesn't read at all."""

NOT_READ = {
    **dict.fromkeys((".heic", ".heif", ".hif"), "`pip install pillow-heif` lets them be read"),
    **dict.fromkeys((".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2"), "develop raw images to TIFF"),
    **dict.fromkeys((".dcm", ".nii"), "convert them to PNG or TIFF of 16 bits"),
    "": "name them after what they are, .png for instance",
    **dict.fromkeys((".svg", ".exr", ".hdr", ".jxl", ".npy", ".jp3d"), "convert them to PNG or TIFF"),
}
"""What to do about images that Pillow doesn't read, by their suffixes."""

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages", "leftimg8bit", "rgb")
MASK_FOLDERS = (
    *("masks", "mask", "annotations", "annotation", "labels", "label", "segmentationclass", "segmentationclasspng"),
    *("gtfine", "gt", "segmentation", "segmentations", "groundtruth", "ground_truth"),
)
"""Usual names of folders of images, and of masks or other annotation, in small letters."""

logger = logging.getLogger(__name__)


@cache
def image_suffixes() -> frozenset[str]:
    """Returns the suffixes of the files that Pillow reads, in small letters; HEIC's where pillow-heif is there."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        pass
    else:
        register_heif_opener()
    known = Image.registered_extensions().items()
    return frozenset(suffix for suffix, name in known if name in Image.OPEN and name not in NO_PICTURES)


def is_image(path: Path) -> bool:
    """Tells by its suffix, in capitals or small letters, whether a file is an image that can be read."""
    return path.suffix.lower() in image_suffixes()


def files_below(folder: Path) -> Iterator[Path]:
    """Yields the files below a folder, sorted within each folder; links to folders are followed.

    Files and folders whose names begin with `.` or `__`, as those of archives made on a Mac do, do not count. A link
    to a folder that it stands in leads nowhere and is not followed.
    """
    yield from _below(folder, (os.path.realpath(folder),))


def _below(folder: Path, above: tuple[str, ...]) -> Iterator[Path]:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith((".", "__")):
            continue
        if not entry.is_dir():
            yield Path(folder, entry.name)
        elif (real := os.path.realpath(entry.path)) not in above:
            yield from _below(Path(folder, entry.name), (*above, real))


def find_images(folder: Path) -> list[Path]:
    """Returns the images below a folder, and says which others can't be read and are left out."""
    images, others = [], []
    for path in files_below(folder):
        if is_image(path):
            images.append(path)
        elif path.suffix.lower() in NOT_READ if path.suffix else _is_image_by_content(path):
            others.append(path)
    if others:
        kinds = Counter(path.suffix.lower() for path in others)
        logger.warning(
            "%d images in %s can't be read and are left out (%s): %s.",
            len(others),
            folder,
            "; ".join(f"{count} {suffix or 'without a suffix'}: {NOT_READ[suffix]}" for suffix, count in kinds.items()),
            first_of([path.relative_to(folder) for path in others], 3),
        )
    return images


def _is_image_by_content(path: Path) -> bool:
    try:
        with Image.open(path):
            return True
    except (OSError, ValueError, SyntaxError):
        return False


def folders_in(folder: Path) -> list[Path]:
    """Returns the folders in a folder, links to such among them, sorted; without those that do not count.

    Links to the folder itself, or to one that it lies in, hold nothing of their own and do not count either.
    """
    found = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))
    real = Path(os.path.realpath(folder))
    above = {real, *real.parents}
    return [path for path in found if not path.is_symlink() or Path(os.path.realpath(path)) not in above]


def listing(folder: Path) -> str:
    """Names what is in a folder and in the folders in it."""
    present = sorted(str(path.relative_to(folder)) for path in [*folder.glob("*"), *folder.glob("*/*/")])
    return first_of(present, count=10) or "nothing"


def read_text(path: Path) -> str:
    """Returns the content of a text file, in UTF-8 with or without a byte order mark, or UTF-16 with one.

    Raises:
        ValueError: It is in another encoding; names it.
    """
    content = path.read_bytes()
    try:
        return content.decode("utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 ({error}). Convert it.") from error


def read_lines(path: Path) -> list[str]:
    """Returns the lines of a text file that are not empty, without spaces around them.

    Raises:
        ValueError: It is not UTF-8; names it.
    """
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


class ImageIndex:
    """The images of a data set, found by the names that annotations give them.

    Annotations write paths from folders that are elsewhere now, with backslashes, in other capitals, or names alone.

    Args:
        folder: That holds the images.
        first: Folders that are looked into first.
    """

    def __init__(self, folder: Path, *first: Path) -> None:
        self.folder = folder
        self.first = [*first, folder]

    def find(self, name: str) -> Path | None:
        """Returns the image of a name; None if there is none.

        Raises:
            ValueError: There are several; names them.
        """
        parts = Path(name.replace("\\", "/")).parts
        for place in self.first:
            path = place.joinpath(*parts)
            if path.is_file():
                return path
        for count in range(len(parts), 0, -1):
            found = self._by_ending().get("/".join(parts[-count:]).casefold(), ())
            if len(found) > 1:
                raise ValueError(
                    f"{name}: {len(found)} images have this name: {first_of(found, 3)}. Say which folder holds the "
                    "images with --image_dir, or write the folder into the name."
                )
            if found:
                return found[0]
        return None

    def find_stem(self, stem: str) -> Path | None:
        """Returns the image of a name without a suffix, whatever its suffix; None if there is none."""
        return next((path for path in map(self._stems().get, (stem, stem.casefold())) if path is not None), None)

    def _by_ending(self) -> dict[str, list[Path]]:
        if not hasattr(self, "_endings"):
            self._endings: dict[str, list[Path]] = {}
            for path in self.images():
                parts = path.relative_to(self.folder).parts
                for count in range(1, len(parts) + 1):
                    self._endings.setdefault("/".join(parts[-count:]).casefold(), []).append(path)
        return self._endings

    def _stems(self) -> dict[str, Path]:
        if not hasattr(self, "_by_stem"):
            self._by_stem: dict[str, Path] = {}
            for path in self.images():
                self._by_stem.setdefault(path.stem, path)
                self._by_stem.setdefault(path.stem.casefold(), path)
        return self._by_stem

    def images(self) -> list[Path]:
        """Returns all images."""
        if not hasattr(self, "_found"):
            places = [place for place in dict.fromkeys(self.first) if place.is_dir()]
            self._found = list(dict.fromkeys(path for place in places for path in find_images(place)))
        return self._found
