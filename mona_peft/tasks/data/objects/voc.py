"""Pascal VOC's format: images, one XML file of objects an image, and mostly lists of names a split."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from mona_peft.tasks.data.files import ImageIndex, files_below, folders_in, is_image, read_lines
from mona_peft.tasks.data.objects.annotated_images import (
    AnnotatedImage,
    AnnotatedSplit,
    Found,
    missing_images,
    tell_of_unannotated,
)
from mona_peft.tasks.data.splits import role_of
from mona_peft.tasks.data.stored import picture_files

LAYOUT = (
    "FOLDER/ImageSets/Main/train.txt, FOLDER/Annotations/*.xml and FOLDER/JPEGImages/, or FOLDER/VOC2007/... so, or "
    "*.xml and images of the same names, for each split in a folder of its own or all together"
)


def find_voc(folder: Path) -> Found:
    """Returns the splits of a folder by name.

    Args:
        folder: Of one year, or the parent of several (`VOC2007`, `VOC2012`), which are then read together; or with XML
            files and images without lists.
    """
    lists: dict[str, list[Path]] = {}
    for path in sorted([*folder.glob("ImageSets/Main/*.txt"), *folder.glob("*/ImageSets/Main/*.txt")]):
        if "_" not in path.stem:  # the others list which images show a class
            lists.setdefault(path.stem, []).append(path)
    if lists:
        return {split: partial(_read_lists, paths) for split, paths in lists.items()}
    places = {place.name: place for place in folders_in(folder) if role_of(place.name)} or {"train": folder}
    found = {name: _xml_files(place) for name, place in places.items()}
    return {name: partial(_read_folder, places[name], files) for name, files in found.items() if files}


def _xml_files(folder: Path) -> list[Path]:
    return [path for path in files_below(folder) if path.suffix.lower() == ".xml"]


def _read_lists(lists: list[Path]) -> AnnotatedSplit:
    """Reads the annotations of a split.

    Args:
        lists: Files of names, one a line, of one or several years.

    Raises:
        ValueError: A file is missing or broken; names it and, in XML, the object.
    """
    pairs: list[tuple[Path, Path]] = []
    for path in lists:
        root = path.parents[2]
        index, place = ImageIndex(root / "JPEGImages"), root / "Annotations"
        annotations = {file.stem: file for file in _xml_files(place)} if place.is_dir() else {}
        named = []
        for line in read_lines(path):
            # A name may have spaces, and a suffix; in the lists of classes a number stands behind it.
            names = (line, Path(line).stem if is_image(Path(line)) else line, line.rsplit(maxsplit=1)[0])
            name = next((name for name in names if name in annotations), line)
            named.append((annotations.get(name, place / f"{name}.xml"), index.find_stem(name) or index.folder / name))
        missing_images([image for _, image in named], str(path))
        pairs.extend(named)
    return _read_files(pairs)


def _read_folder(folder: Path, files: Sequence[Path]) -> AnnotatedSplit:
    """Reads XML files without lists, whose images have their names, or those that they tell."""
    index = ImageIndex(folder)
    pairs = [(path, index.find_stem(path.stem) or index.find(_told_name(path)) or folder / path.stem) for path in files]
    missing_images([image for _, image in pairs], str(folder))
    tell_of_unannotated(set(index.images()), {image for _, image in pairs}, f"the XML files in {folder}")
    return _read_files(pairs)


def _read_files(pairs: Sequence[tuple[Path, Path]]) -> AnnotatedSplit:
    """Reads annotations and makes a split of them and their images.

    Objects that are marked as difficult count as COCO's crowds: they are neither trained on nor evaluated. A box
    includes the pixels of all its edges, which are counted from 1.
    """
    images = []
    for path, file in pairs:
        size, objects = _read_objects(path)
        images.append(AnnotatedImage(len(images), str(file), objects, size))
    classes = sorted({entry["category"] for image in images for entry in image.objects})
    return AnnotatedSplit({name: name for name in classes}, images, picture_files([file for _, file in pairs]))


def _told_name(path: Path) -> str:
    return _annotation(path).findtext("filename") or path.stem


def _annotation(path: Path) -> ElementTree.Element:
    try:
        annotation = ElementTree.parse(path).getroot()
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing: every image of a split needs its annotation.") from error
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the last two for encodings
        raise ValueError(f"{path} is not XML that can be read ({error}). Mend it, or convert it to UTF-8.") from error
    if annotation.tag != "annotation":
        raise ValueError(f"{path} holds <{annotation.tag}>, not the <annotation> of Pascal VOC.")
    return annotation


def _read_objects(path: Path) -> tuple[tuple[int, int] | None, list[dict[str, Any]]]:
    annotation = _annotation(path)
    objects = []
    for number, entry in enumerate(annotation.iter("object")):
        where = f"{path}: object {number}"
        try:
            left, top, right, bottom = (
                float(entry.findtext(f"bndbox/{edge}")) for edge in ("xmin", "ymin", "xmax", "ymax")
            )
            category, difficult = entry.findtext("name").strip(), int(entry.findtext("difficult", "0"))
            if not category or difficult not in (0, 1):
                raise ValueError
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{where} needs a name and a bndbox with xmin, ymin, xmax and ymax, all numbers; difficult, where "
                f"given, must be 0 or 1. It has: {' '.join(ElementTree.tostring(entry, 'unicode').split()):.200}"
            ) from error
        box = [left - 1, top - 1, right - left + 1, bottom - top + 1]
        objects.append({"bbox": box, "category": category, "iscrowd": difficult == 1, "where": where})
    width, height = annotation.findtext("size/width"), annotation.findtext("size/height")
    try:
        size = (int(width), int(height)) if width and height and int(width) and int(height) else None
    except ValueError as error:
        raise ValueError(f"{path}: size needs width and height in pixels, not {width} and {height}.") from error
    return size, objects
