"""Folders of images whose names are classes, with or without folders of splits above them."""

import logging
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from mona_peft.tasks.data.files import IMAGE_FOLDERS, MASK_FOLDERS, find_images, folders_in, is_image
from mona_peft.tasks.data.splits import role_of
from mona_peft.tasks.messages import first_of

LAYOUT = (
    "It needs two or more class folders, FOLDER/CLASS/*.png (or .jpg, ...), or FOLDER/train/CLASS/*.png and the same "
    "for validation and test; or a table (metadata.csv, labels.csv, metadata.jsonl, ...) of images and labels."
)
logger = logging.getLogger(__name__)


@dataclass
class ClassFolders:
    """The images of a split in a folder for each class, and the names of folders without images and of dead links."""

    folder: Path
    images: dict[str, list[Path]]
    empty: list[str]
    dangling: list[str]

    @classmethod
    def of(cls, folder: Path) -> "ClassFolders":
        """Reads a folder.

        Raises:
            ValueError: Two class folders are one, by a link.
        """
        images = {place.name: find_images(place) for place in folders_in(folder)}
        real: dict[str, str] = {}
        for name in images:
            other = real.setdefault(os.path.realpath(folder / name), name)
            if other != name:
                raise ValueError(
                    f"{folder / other} and {folder / name} are one folder, by a link: its images can't be of both "
                    "classes. Remove one of the two."
                )
        empty = [name for name, paths in images.items() if not paths]
        dangling = sorted(path.name for path in folder.iterdir() if not path.exists() and not is_image(path))
        return cls(folder, {name: paths for name, paths in images.items() if paths}, empty, dangling)

    def tell_of_empty(self) -> None:
        """Says which folders hold no image, and which links lead nowhere."""
        for names, are in ((self.empty, "folders hold no image"), (self.dangling, "links lead nowhere")):
            if names:
                logger.warning("%d %s and are left out, in %s: %s.", len(names), are, self.folder, first_of(names))

    def tell_of_loose(self) -> None:
        """Says how many images lie beside the class folders, and what is empty."""
        self.tell_of_empty()
        loose = loose_images(self.folder)
        if loose:
            logger.warning(
                "%d images lie in %s itself and in no class folder, and are left out: %s.",
                len(loose),
                self.folder,
                first_of([path.name for path in loose], 3),
            )


def loose_images(folder: Path) -> list[Path]:
    """Returns the images that lie in a folder itself."""
    return sorted(path for path in folder.iterdir() if is_image(path) and path.is_file())


def unwrapped(folder: Path) -> Path:
    """Returns the folder that a chain of folders with one folder in each and nothing else leads to, as in archives."""
    inside = folders_in(folder)
    while len(inside) == 1 and not _says_what_it_holds(inside[0]) and not any(map(Path.is_file, folder.iterdir())):
        if not folders_in(inside[0]):
            break
        folder, inside = inside[0], folders_in(inside[0])
    return folder


def _says_what_it_holds(folder: Path) -> bool:
    return role_of(folder.name) is not None or folder.name.casefold() in (*IMAGE_FOLDERS, *MASK_FOLDERS)


def find_class_folders(folder: Path, named: Collection[str | None] = ()) -> dict[str, ClassFolders] | None:
    """Returns the class folders of a folder by split; without folders of splits all are one that has no name.

    Folders at the top alone are splits. One that is called like a split and holds images itself, beside others that do
    too, is a class.

    Args:
        folder: To look into.
        named: Splits that the user names; "none" among them stands for a test split that is not wanted.

    Returns:
        None where there are no class folders.

    Raises:
        ValueError: It can't be told which folders are splits and which are classes.
    """
    top = ClassFolders.of(folder)
    splits = [name for name in top.images if role_of(name) or name in named]
    if not splits:
        return {"": top} if len(top.images) > 1 else None
    inside = {name: ClassFolders.of(folder / name) for name in splits}
    deep = [name for name, found in inside.items() if found.images]
    others = [name for name in top.images if name not in splits]
    flat = [name for name in splits if name not in deep]
    if not deep:  # images in all of them: a class called "train" among others, or splits without classes
        return {"": top} if others else None
    if flat and all(role_of(name) == "test" for name in flat):
        if "none" not in named:
            raise ValueError(
                f"--dataset {folder}: {', '.join(deep)} has class folders, and {', '.join(flat)} has images without: "
                "sort them by class, or leave the split out with --test_split none."
            )
        inside = {name: inside[name] for name in deep}
    elif flat:
        raise ValueError(
            f"--dataset {folder}: it can't be told what is a split and what a class: {', '.join(deep)} has folders of "
            f"images, and {', '.join(flat)} has images. Name splits train, validation and test, with class folders in "
            "each."
        )
    top.tell_of_empty()
    if others:
        logger.warning(
            "%s has the splits %s; %d images in %s belong to none of them and are left out.",
            folder,
            ", ".join(splits),
            sum(len(top.images[name]) for name in others),
            ", ".join(others),
        )
    return inside
