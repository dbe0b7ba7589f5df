"""Folders of images and masks: how they are laid out, and which mask is which image's."""

import logging
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from mona_peft.tasks.data.files import IMAGE_FOLDERS, MASK_FOLDERS, ImageIndex, find_images, folders_in, read_lines
from mona_peft.tasks.data.objects.annotated_images import missing_images
from mona_peft.tasks.data.splits import role_of
from mona_peft.tasks.messages import first_of

MASK_SUFFIX = re.compile(
    r"[ ._-]?(gtFine_labelTrainIds|gtFine_labelIds|masks?|labels?|annot(ation)?|seg(mentation)?|gt|L)$", re.IGNORECASE
)
IMAGE_SUFFIX = re.compile(r"[ ._-]?(leftImg8bit|image|img|sat|rgb)$", re.IGNORECASE)
OTHER_MAPS = re.compile(r"_(instanceIds|instanceTrainIds|color|polygons)$")
"""Ends of the names of Cityscapes' maps of something else."""

LAYOUT = (
    "It needs images and, of the same names (or with _mask, _label, ... behind), masks: FOLDER/images/train/*.jpg (or "
    ".png, ...) and FOLDER/masks/train/*.png, FOLDER/train/images/ and FOLDER/train/masks/, FOLDER/images/ and "
    "FOLDER/masks/, or both side by side; and the same for validation and test."
)

Pairs = list[tuple[Path, Path]]
logger = logging.getLogger(__name__)


def find_pairs(folder: Path) -> dict[str, Callable[[], Pairs]]:
    """Returns what pairs images and masks of each split of a folder; where there are no splits, of one called train.

    Raises:
        ValueError: There are folders of images and none of masks.
    """
    lists = sorted(folder.glob("ImageSets/Segmentation/*.txt"))
    if lists:
        return {path.stem: partial(_from_list, path, folder) for path in lists}
    images, masks = _one_of(folder, IMAGE_FOLDERS), _one_of(folder, MASK_FOLDERS)
    if images and masks and find_images(masks):
        splits = [place.name for place in folders_in(images)]
        if splits and all(role_of(name) for name in splits):
            return {name: partial(_pair, images / name, _same(masks, name)) for name in splits}
        return {"train": partial(_pair, images, masks)}
    by_split = {}
    for place in folders_in(folder):
        if not role_of(place.name) or _is_mask_folder(place, folder):
            continue
        images, masks = _one_of(place, IMAGE_FOLDERS), _one_of(place, MASK_FOLDERS)
        beside = next(
            (other for other in folders_in(folder) if other != place and _belongs(other.name, place.name)), None
        )
        if not (masks or beside or any(MASK_SUFFIX.search(path.stem) for path in find_images(place))):
            continue
        by_split[place.name] = partial(_pair, images or place, masks or beside or place)
    if by_split:
        return by_split
    if any(MASK_SUFFIX.search(path.stem) for path in find_images(folder)):
        return {"train": partial(_pair, folder, folder)}
    return {}


def _is_mask_folder(place: Path, folder: Path) -> bool:
    return any(_belongs(place.name, other.name) for other in folders_in(folder) if other != place)


def _belongs(masks: str, images: str) -> bool:
    """Tells whether a folder has the masks of another by its name, such as `train_labels` those of `train`."""
    stem = re.sub(r"[ _-]?(images|imgs)$", "", images)
    return masks != images and bool(MASK_SUFFIX.search(masks)) and MASK_SUFFIX.sub("", masks) == stem


def _one_of(folder: Path, names: tuple[str, ...]) -> Path | None:
    by_name = {place.name.casefold(): place for place in folders_in(folder)}
    return next((by_name[name] for name in names if name in by_name), None)


def _same(folder: Path, split: str) -> Path:
    places = {place.name: place for place in folders_in(folder)}
    by_role = [place for name, place in places.items() if role_of(name) == role_of(split)]
    if split not in places and len(by_role) != 1:
        raise ValueError(f"There are no masks for the images of {split} in {folder}. {LAYOUT}")
    return places.get(split) or by_role[0]


def _pair(images: Path, masks: Path) -> Pairs:
    """Pairs images and masks by their places in their folders and their names without suffixes.

    Raises:
        ValueError: An image has no mask, or two share a name; names the first ones.
    """
    found = find_images(images)
    if images == masks:
        files = {
            "image": [path for path in found if not MASK_SUFFIX.search(path.stem)],
            "mask": [path for path in found if MASK_SUFFIX.search(path.stem)],
        }
    else:
        inside = masks in images.parents or images in masks.parents
        files = {
            "image": [path for path in found if not (inside and masks in path.parents)],
            "mask": [path for path in find_images(masks) if not (inside and images in path.parents)],
        }
    files["mask"] = [path for path in files["mask"] if not OTHER_MAPS.search(path.stem)]
    if not files["image"]:
        raise ValueError(f"There is no image in {images}. {LAYOUT}")
    image_of = _by_name(files["image"], images, IMAGE_SUFFIX)
    mask_of = _by_name(files["mask"], masks, None)
    plain = _by_name(files["mask"], masks, MASK_SUFFIX) if not image_of.keys() <= mask_of.keys() else {}
    pairs, missing = [], []
    for name, path in image_of.items():
        stem = path.relative_to(images).with_suffix("")
        mask = mask_of.get(stem) or mask_of.get(name) or plain.get(name) or plain.get(stem)
        pairs.append((path, mask))
        if mask is None:
            missing.append(path)
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(pairs)} images of {images} have no mask of their name in {masks}: "
            f"{first_of(missing)}. Add the masks, or move these images away."
        )
    if surplus := len(files["mask"]) - len({mask for _, mask in pairs}):
        logger.warning("%d masks in %s have no image and are left out.", surplus, masks)
    return pairs


def _by_name(paths: list[Path], folder: Path, suffix: re.Pattern[str] | None) -> dict[Path, Path]:
    by_name: dict[Path, Path] = {}
    for path in paths:
        name = path.relative_to(folder).with_suffix("")
        if suffix is not None:
            name = name.with_name(suffix.sub("", name.name) or name.name)
        other = by_name.setdefault(name, path)
        if other != path:
            raise ValueError(f"{other} and {path} have one name. Which is right? Rename or remove the other.")
    return by_name


def _from_list(path: Path, folder: Path) -> Pairs:
    """Pairs the images and masks of Pascal VOC that a list names."""
    names = read_lines(path)
    images, masks = ImageIndex(folder / "JPEGImages"), ImageIndex(folder / "SegmentationClass")
    found = [
        (images.find_stem(name) or images.folder / name, masks.find_stem(name) or masks.folder / f"{name}.png")
        for name in names
    ]
    for files in zip(*found, strict=True):
        missing_images(list(files), str(path))
    return found
