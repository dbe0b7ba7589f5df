"""Data for object detection and instance segmentation: COCO's and Pascal VOC's formats, hub datasets, in one form.

Every row has `image` (not decoded), `image_id`, `width`, `height` and `objects`, a struct of lists: `bbox` (x, y,
width, height in pixels, inside the image), `category` (a `ClassLabel`), `area`, `iscrowd` and, where masks are wanted,
`mask`, the `counts` of a run-length encoding that `coco_objects.decode_masks` reads.
Images without objects are kept; crowds are kept too, and neither trained on nor counted in an evaluation.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Literal

from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value, concatenate_datasets

from mona_peft.tasks.data.files import check_images, listing
from mona_peft.tasks.data.objects import coco as coco_files
from mona_peft.tasks.data.objects import voc as voc_files
from mona_peft.tasks.data.objects.annotated_images import AnnotatedSplit, image_sizes
from mona_peft.tasks.data.objects.check import ObjectCheck, is_numbers
from mona_peft.tasks.data.objects.hub import read_objects
from mona_peft.tasks.data.splits import SplitArguments, choose_splits, load_named_dataset, validation_size

logger = logging.getLogger(__name__)


@dataclass
class ObjectDataArguments(SplitArguments):
    """Which images and objects, and how they are read."""

    dataset: str | None = field(
        default=None,
        metadata={
            "help": "Name of a dataset on the hub with a column of objects, or a local folder in COCO's or Pascal "
            "VOC's format. Without it: scenes of handwritten digits over photographs, which need no download."
        },
    )
    image_column: str | None = field(default=None, metadata={"help": "Without it: the only column of images."})
    objects_column: str | None = field(
        default=None, metadata={"help": "Without it: the only column of objects with bbox and category."}
    )
    box_format: Literal["xywh", "xyxy"] = field(
        default="xywh",
        metadata={"help": "Boxes of a dataset of the hub: (x, y, width, height) or (left, top, right, bottom)."},
    )
    verify_images: bool = field(default=True, metadata={"help": "Read every image once before training starts."})


def load_objects(args: ObjectDataArguments, seed: int, with_masks: bool = False) -> DatasetDict:
    """Loads the splits `train`, `validation` and, where there is one, `test` of a dataset, in the form told above.

    Args:
        args: What to load; its `dataset` is given.
        seed: Of the split into training and validation images, where the dataset has none.
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
    rows = {name: _rows(split, classes, name, args, with_masks) for name, split in splits.items()}
    if "validation" not in rows:
        numbers = list(range(len(rows["train"])))
        Random(seed).shuffle(numbers)
        size = validation_size(len(numbers), args.validation_fraction)
        rows["validation"] = rows["train"].select(sorted(numbers[:size]))
        rows["train"] = rows["train"].select(sorted(numbers[size:]))
    for name, dataset in rows.items():
        if all(all(objects["iscrowd"]) for objects in dataset["objects"]):
            raise ValueError(
                f"There is no object in any of the {len(dataset)} images of the {name} split. (Crowds do not count, "
                "nor what is difficult in Pascal VOC.)"
            )
    return DatasetDict(rows)


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
    folder = Path(args.dataset)
    if folder.is_dir():
        for find, read in ((voc_files.voc_splits, voc_files.read_voc), (coco_files.coco_splits, _reader_of(folder))):
            if present := find(folder):
                chosen = choose_splits(present, args)
                return {role: read(present[name]) for role, name in chosen.items()}
        if not any(folder.rglob("*.parquet")) and not any(folder.rglob("metadata.*")):
            raise ValueError(
                f"--dataset {folder}: there are no annotations in this folder. COCO's format has {coco_files.LAYOUT}; "
                f"Pascal VOC's has {voc_files.LAYOUT}. It has: {listing(folder)}."
            )
    dataset = load_named_dataset(args.dataset, args.dataset_config)
    chosen = choose_splits(dataset, args)
    splits = {
        role: read_objects(dataset[name], name, args.image_column, args.objects_column) for role, name in chosen.items()
    }
    if args.box_format == "xyxy":
        for split in splits.values():
            _corners_to_sizes(split)
    return splits


def _reader_of(folder: Path):
    return lambda path: coco_files.read_coco(path, folder)


def _corners_to_sizes(split: AnnotatedSplit) -> None:
    for image in split.images:
        for entry in image.objects:
            if is_numbers(entry["bbox"], 4):  # what is none is told of later
                left, top, right, bottom = entry["bbox"]
                entry["bbox"] = [left, top, right - left, bottom - top]


def _classes(splits: dict[str, AnnotatedSplit]) -> dict[Any, str]:
    """Returns the classes of all splits, which must not contradict each other, sorted by their number or name."""
    classes: dict[Any, str] = {}
    for name, split in splits.items():
        for number, label in split.classes.items():
            if classes.setdefault(number, label) != label:
                raise ValueError(
                    f"The category {number} is {label!r} in the {name} split and {classes[number]!r} in another. Every "
                    "split needs the same categories."
                )
    labels = list(classes.values())
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ValueError(f"Several categories have the same name: {', '.join(twice)}.")
    return dict(sorted(classes.items()))


def _rows(
    split: AnnotatedSplit, classes: dict[Any, str], name: str, args: ObjectDataArguments, with_masks: bool
) -> Dataset:
    """Checks the images and objects of a split and brings them into the common form."""
    if not split.images:
        raise ValueError(f"The {name} split has no images.")
    number_of = {category: number for number, category in enumerate(classes)}
    check = ObjectCheck(with_masks)
    columns: dict[str, list] = {"image_id": [], "width": [], "height": [], "objects": []}
    for image, (width, height) in zip(split.images, image_sizes(split), strict=True):
        entries = [{**entry, "category": number_of[entry["category"]]} for entry in image.objects]
        objects = check(entries, width, height, image.where)
        values = (image.image_id, width, height, objects)
        for column, value in zip(columns.values(), values, strict=True):
            column.append(value)
    check.check_boxes_are_in_pixels(name)
    for reason, count in check.skipped.items():
        logger.warning("%s split: %d of %d objects are left out: %s.", name, count, check.num_boxes, reason)
    features = objects_features(list(classes.values()), with_masks)
    rows = split.pictures
    for column, values in columns.items():
        rows = rows.add_column(column, values, feature=features[column])
    return rows
