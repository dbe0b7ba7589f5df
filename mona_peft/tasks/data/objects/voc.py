"""Folders in Pascal VOC's format: images, one XML file of objects an image, lists of names a split."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from mona_peft.tasks.data.files import picture_files, read_lines
from mona_peft.tasks.data.objects.annotated_images import AnnotatedImage, AnnotatedSplit, missing_images

LAYOUT = "FOLDER/ImageSets/Main/train.txt, FOLDER/Annotations/*.xml and FOLDER/JPEGImages/, or FOLDER/VOC2007/... so"
SUFFIXES = (".jpg", ".jpeg", ".png")


def voc_splits(folder: Path) -> dict[str, list[Path]]:
    """Returns the lists of names of a folder, by split.

    Args:
        folder: Of one year, or the parent of several (`VOC2007`, `VOC2012`), which are then read together.
    """
    splits: dict[str, list[Path]] = {}
    for path in sorted([*folder.glob("ImageSets/Main/*.txt"), *folder.glob("*/ImageSets/Main/*.txt")]):
        if "_" not in path.stem:  # the others list which images show a class
            splits.setdefault(path.stem, []).append(path)
    return splits


def read_voc(lists: list[Path]) -> AnnotatedSplit:
    """Reads the annotations of a split.

    Objects that are marked as difficult count as COCO's crowds: they are neither trained on nor evaluated. A box
    includes the pixels of all its edges, which are counted from 1.

    Args:
        lists: Files of names, one a line, of one or several years.

    Raises:
        ValueError: A file is missing or broken; names it and, in XML, the object.
    """
    images, files = [], []
    for path in lists:
        root = path.parents[2]
        names = [line.split()[0] for line in read_lines(path)]
        named = [_image_file(root, name) for name in names]
        missing_images(named, str(path))
        files.extend(named)
        for name, file in zip(names, named, strict=True):
            size, objects = _read_objects(root / "Annotations" / f"{name}.xml")
            images.append(AnnotatedImage(len(images), str(file), objects, size))
    classes = sorted({entry["category"] for image in images for entry in image.objects})
    return AnnotatedSplit({name: name for name in classes}, images, picture_files(files))


def _image_file(root: Path, name: str) -> Path:
    candidates = [root / "JPEGImages" / f"{name}{suffix}" for suffix in SUFFIXES]
    return next((path for path in candidates if path.is_file()), candidates[0])


def _read_objects(path: Path) -> tuple[tuple[int, int] | None, list[dict[str, Any]]]:
    try:
        annotation = ElementTree.parse(path).getroot()
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing: every image of a split needs its annotation.") from error
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the last two for encodings
        raise ValueError(f"{path} is not XML that can be read ({error}). Mend it, or convert it to UTF-8.") from error
    if annotation.tag != "annotation":
        raise ValueError(f"{path} holds <{annotation.tag}>, not the <annotation> of Pascal VOC.")
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
