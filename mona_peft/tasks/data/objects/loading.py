"""Data for object detection and instance segmentation: COCO's, YOLO's, Pascal VOC's formats, hub datasets, in one form.

Every row has `image` (not decoded), `image_id`, `width`, `height` and `objects`, a struct of lists: `bbox` (x, y,
width, height in pixels, inside the image), `category` (a `ClassLabel`), `area`, `iscrowd` and, where masks are wanted,
`mask`, the `counts` of a run-length encoding that `check.decode_masks` reads.
Images without objects are kept; crowds are kept too, and neither trained on nor counted in an evaluation.
"""

import logging
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value, concatenate_datasets

from mona_peft.tasks.data.arguments import SharedDataArguments
from mona_peft.tasks.data.checks import check_images
from mona_peft.tasks.data.class_folders import unwrapped
from mona_peft.tasks.data.files import listing
from mona_peft.tasks.data.hub import load_named_dataset
from mona_peft.tasks.data.objects import coco, voc, yolo
from mona_peft.tasks.data.objects.annotated_images import AnnotatedSplit, Found, image_sizes
from mona_peft.tasks.data.objects.check import ObjectCheck, is_numbers
from mona_peft.tasks.data.objects.columns import read_objects
from mona_peft.tasks.data.objects.instance_maps import has_instance_maps, read_instance_maps
from mona_peft.tasks.data.splits import choose_splits, hold_out, rarest
from mona_peft.tasks.messages import first_of

FORMATS = {
    "COCO": (coco.find_coco, coco.LAYOUT),
    "YOLO": (yolo.find_yolo, yolo.LAYOUT),
    "Pascal VOC": (voc.find_voc, voc.LAYOUT),
}
"""What finds the splits of a folder, and how the folder is laid out, by format; the first that is there is read."""

logger = logging.getLogger(__name__)


@dataclass
class ObjectDataArguments(SharedDataArguments):
    """Which images and objects, and how they are read."""

    dataset: str | None = field(
        default=None,
        metadata={
            "help": "A folder in the format of COCO (of Roboflow, CVAT, Label Studio, ...), YOLO or Pascal VOC, YOLO's "
            "data.yaml, or the name of a dataset on the hub with a column of objects."
        },
    )
    annotations: list[str] | None = field(
        default=None,
        metadata={"help": "Files in COCO's format, instead of those that a folder holds: one, or one for each split."},
    )
    image_dir: str | None = field(
        default=None, metadata={"help": "Folder of the images that --annotations name. Without it: the files' own."}
    )
    image_column: str | None = field(default=None, metadata={"help": "Without it: the only column of images."})
    objects_column: str | None = field(
        default=None, metadata={"help": "Without it: the only column of objects with bbox and category."}
    )
    reduce_labels: bool = field(
        default=False, metadata={"help": "Instance maps of the hub: the class 0 stands for what is no object."}
    )
    box_format: Literal["xywh", "xyxy"] = field(
        default="xywh",
        metadata={"help": "Boxes of the hub, or of COCO's files: (x, y, width, height) or (left, top, right, bottom)."},
    )


def load_objects(args: ObjectDataArguments, seed: int, with_masks: bool = False) -> DatasetDict:
    """Loads the splits `train`, `validation` and, where there is one, `test` of a dataset, in the form told above.

    Args:
        args: What to load; its `dataset` or its `annotations` are given.
        seed: Of what is drawn: images held out of the training split, or fewer images.
        with_masks: Whether every object must have a mask.

    Raises:
        ValueError: There is no such dataset, it lacks something, an annotation is broken, or an image is missing or of
            another size than its annotation says. The message names file or split, and entry.
    """
    splits = _read(args)
    classes = _classes(splits)
    if args.verify_images:
        pictures = concatenate_datasets([split.pictures for split in splits.values()])
        check_images(pictures, [image.where for split in splits.values() for image in split.images])
    rows = {name: _rows(split, classes, name, with_masks) for name, split in splits.items()}
    rows = hold_out(DatasetDict(rows), args, seed, _strata)
    for name, dataset in rows.items():
        if all(all(objects["iscrowd"]) for objects in dataset["objects"]):
            raise ValueError(
                f"There is no object in any of the {len(dataset)} images of the {name} split. (Crowds do not count, "
                "nor what is difficult in Pascal VOC.)"
            )
    if not args.only_evaluated:
        _tell_of_empty_classes(rows)
    return rows


def _strata(rows: Dataset) -> Sequence[Hashable]:
    return rarest(rows.flatten()["objects.category"][:])


def _tell_of_empty_classes(splits: DatasetDict) -> None:
    names, present = class_names(splits), class_counts(splits["train"])
    empty = [name for name, count in zip(names, present, strict=True) if not count]
    if empty:
        logger.warning(
            "%d of %d classes have no object in the training images and can't be learnt: %s.",
            len(empty),
            len(names),
            first_of(empty),
        )


def objects_features(classes: list[str], with_masks: bool) -> Features:
    """Returns the features of the common form.

    Args:
        classes: Names of the classes.
        with_masks: Whether objects have masks.
    """
    objects: dict[str, Any] = {
        "bbox": List(List(Value("float32"))),
        "category": List(ClassLabel(names=classes)),
        "area": List(Value("float32")),
        "iscrowd": List(Value("bool")),
    }
    if with_masks:
        objects["mask"] = List(Value("string"))
    numbers = {name: Value("int64") for name in ("image_id", "width", "height")}
    return Features({"image": Image(decode=False), **numbers, "objects": objects})


def class_names(splits: DatasetDict) -> list[str]:
    """Returns the names of the classes of a dataset in the common form, by their numbers."""
    return splits["train"].features["objects"]["category"].feature.names


def class_counts(rows: Dataset) -> list[int]:
    """Returns the number of objects of each class, crowds among them."""
    counts = Counter(number for image in rows.flatten()["objects.category"][:] for number in image)
    return [counts[number] for number in range(rows.features["objects"]["category"].feature.num_classes)]


def warn_of_surplus_objects(rows: Dataset, num_queries: int | None) -> None:
    """Says how many images have more objects than a model can find in one.

    Args:
        rows: Training images in the common form.
        num_queries: As many objects the model can find; None if there is no such number.
    """
    counts = [crowds.count(False) for crowds in rows.flatten()["objects.iscrowd"]]
    surplus = [count for count in counts if num_queries is not None and count > num_queries]
    if surplus:
        logger.warning(
            f"{len(surplus)} of {len(counts)} training images have more objects than the model can find in one "
            f"(num_queries {num_queries}), up to {max(surplus)}. Of these images only the objects that fit best are "
            "learnt. Take a model with more queries, or smaller parts of the images."
        )


def _read(args: ObjectDataArguments) -> dict[str, AnnotatedSplit]:
    """Reads the wanted splits, whatever their format."""
    found = _find(args)
    dataset = {} if found else load_named_dataset(args.dataset, args)
    splits = {}
    for role, name in choose_splits(list(found or dataset), args).items():
        if found:
            splits[role] = found[name]()
            continue
        if has_instance_maps(dataset[name], args.image_column) and args.objects_column is None:
            splits[role] = read_instance_maps(dataset[name], name, args.image_column, args.reduce_labels)
        else:
            splits[role] = read_objects(dataset[name], name, args.image_column, args.objects_column)
    if args.box_format == "xyxy":
        for split in splits.values():
            _corners_to_sizes(split)
    return splits


def _find(args: ObjectDataArguments) -> Found:
    """Returns the splits of files; nothing where the dataset is one that `datasets` reads."""
    if args.annotations:
        return coco.named_files(args.annotations, args.image_dir or args.dataset)
    place = Path(args.dataset)
    if place.is_file():
        if place.suffix.lower() in (".yaml", ".yml"):
            return yolo.read_yaml(place)
        return coco.named_files([args.dataset], args.image_dir)
    if not place.is_dir():
        return {}
    folder = unwrapped(place)
    by_format = {name: splits for name, (find, _) in FORMATS.items() if (splits := find(folder))}
    if by_format:
        first, *others = by_format
        if others:
            logger.warning("%s has annotations in the formats %s; %s is read.", folder, " and ".join(by_format), first)
        if first != "COCO" and args.box_format != "xywh":
            raise ValueError(
                f"--box_format {args.box_format}: {first}'s format says itself what boxes are. Leave it out."
            )
        return by_format[first]
    if any(folder.rglob("*.parquet")) or any(folder.rglob("metadata.*")):
        return {}
    formats = "; ".join(f"{name}'s format has {layout}" for name, (_, layout) in FORMATS.items())
    raise ValueError(
        f"--dataset {place}: there are no annotations in this folder. {formats}; --annotations names files in COCO's "
        f"format, and --image_dir the folder of their images. It has: {listing(folder)}."
    )


def _corners_to_sizes(split: AnnotatedSplit) -> None:
    for image in split.images:
        for entry in image.objects:
            if is_numbers(entry["bbox"], 4):  # what is none is told of later
                left, top, right, bottom = entry["bbox"]
                entry["bbox"] = [left, top, right - left, bottom - top]


def _classes(splits: dict[str, AnnotatedSplit]) -> dict[Any, str]:
    """Returns the classes of all splits, which must not contradict each other, sorted by their number or name.

    Categories that only group others, as those that Roboflow writes, are none.
    """
    classes: dict[Any, str] = {}
    for name, split in splits.items():
        for number, label in split.classes.items():
            if classes.setdefault(number, label) != label:
                raise ValueError(
                    f"The category {number} is {label!r} in the {name} split and {classes[number]!r} in another. Every "
                    "split needs the same categories."
                )
    used = {entry["category"] for split in splits.values() for image in split.images for entry in image.objects}
    groups = sorted(set().union(*(split.groups for split in splits.values())) - used)
    for number in groups:
        logger.warning(
            "The category %s, %r, groups others or has the name of another, and no object is of it: it is no class.",
            number,
            classes.pop(number),
        )
    labels = Counter(classes.values())
    for label in sorted(label for label, count in labels.items() if count > 1):
        same = [number for number, name in classes.items() if name == label]
        logger.warning("The categories %s have one name, %r, and are taken for one class.", first_of(same), label)
    return dict(sorted(classes.items()))


def _rows(split: AnnotatedSplit, classes: dict[Any, str], name: str, with_masks: bool) -> Dataset:
    """Checks the images and objects of a split and brings them into the common form."""
    if not split.images:
        raise ValueError(f"The {name} split has no images.")
    names = list(dict.fromkeys(classes.values()))
    number_of = {category: names.index(label) for category, label in classes.items()}
    check = ObjectCheck(with_masks)
    columns: dict[str, list] = {"image_id": [], "width": [], "height": [], "objects": []}
    for image, (width, height) in zip(split.images, image_sizes(split), strict=True):
        entries = [{**entry, "category": number_of[entry["category"]]} for entry in image.objects]
        objects = check(entries, width, height, image.where)
        values = (image.image_id, width, height, objects)
        for column, value in zip(columns.values(), values, strict=True):
            column.append(value)
    check.check_boxes_are_in_pixels(name)
    if check.num_outside:
        logger.warning(
            "%s split: %d of %d boxes reach outside of their images and are cut off at the edges.",
            name,
            check.num_outside,
            check.num_boxes,
        )
    for reason, count in check.skipped.items():
        logger.warning("%s split: %d of %d objects are left out: %s.", name, count, check.num_boxes, reason)
    features = objects_features(names, with_masks)
    rows = split.pictures
    for column, values in columns.items():
        rows = rows.add_column(column, values, feature=features[column])
    return rows
