"""Semantic-segmentation data from the hub or a local folder: checked, in one form."""

import logging
from collections.abc import Hashable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL.Image
from datasets import Dataset, DatasetDict, Features, Image, List, Value

from mona_peft.tasks.data.arguments import SharedDataArguments, check_pictures
from mona_peft.tasks.data.class_folders import unwrapped
from mona_peft.tasks.data.files import listing
from mona_peft.tasks.data.hub import load_named_dataset, read_hub_json
from mona_peft.tasks.data.objects.check import decode_masks
from mona_peft.tasks.data.objects.loading import ObjectDataArguments, class_names, load_objects
from mona_peft.tasks.data.segmentation.arguments import MASK_COLUMNS, SegmentationDataArguments
from mona_peft.tasks.data.segmentation.class_tables import ClassTable, find_class_table
from mona_peft.tasks.data.segmentation.layouts import LAYOUT, find_pairs
from mona_peft.tasks.data.segmentation.masks import MaskReading
from mona_peft.tasks.data.segmentation.survey import BACKGROUND, check_classes, check_sizes, understand
from mona_peft.tasks.data.splits import choose_splits, hold_out, rarest
from mona_peft.tasks.data.stored import picture_rows, stored_file, stored_png

CLASSES = "classes"
"""Column of the classes of each training image, while images are shared out."""

logger = logging.getLogger(__name__)


class SegmentationData(NamedTuple):
    """Images with class maps.

    Attributes:
        splits: `train`, `validation` and, where there is one, `test`: rows of `image` and `mask`, not decoded.
        classes: Names of the classes.
        masks: How masks become class maps.
    """

    splits: DatasetDict
    classes: list[str]
    masks: MaskReading


def load_semantic_segmentation(args: SegmentationDataArguments, seed: int) -> SegmentationData:
    """Loads the splits `train`, `validation` and, where there is one, `test`.

    Args:
        args: What to load; its `dataset` is given.
        seed: Of what is drawn: images held out of the training split, or fewer images.

    Raises:
        ValueError: There is no such dataset, something of it is missing, or an image and its mask do not fit. The
            message names the file, or what there is.
    """
    place = Path(args.dataset)
    folder = unwrapped(place) if place.is_dir() else place
    pairs = find_pairs(folder) if place.is_dir() else {}
    table = find_class_table(folder, args.class_names)
    if pairs:
        chosen = choose_splits(list(pairs), args)
        splits = DatasetDict({role: _rows(pairs[name]()) for role, name in chosen.items()})
    elif (drawn := _from_objects(args, seed)) is not None:
        return drawn
    else:
        splits, table = _from_hub(args, table)
    check_sizes(splits, check_pictures(splits, args, annotated=True))
    masks, names = understand(splits, table, args)
    present = check_classes(splits, names, masks, args)
    if present is not None:
        splits["train"] = splits["train"].add_column(CLASSES, present, feature=List(Value("int64")))
    splits = hold_out(splits, args, seed, _strata)
    return SegmentationData(splits.select_columns(["image", "mask"]), names, masks)


def _strata(rows: Dataset) -> Sequence[Hashable]:
    return rarest(rows[CLASSES][:]) if CLASSES in rows.features else [0] * len(rows)


def _rows(pairs: Sequence[tuple[Path, Path]]) -> Dataset:
    images, masks = zip(*pairs, strict=True)
    return picture_rows(image=[stored_file(path) for path in images], mask=[stored_file(path) for path in masks])


def _from_objects(args: SegmentationDataArguments, seed: int) -> SegmentationData | None:
    """Draws the polygons of a folder in COCO's or YOLO's format to masks; None where there are none."""
    if not Path(args.dataset).exists() or any(Path(args.dataset).rglob("*.parquet")):
        return None
    shared = {field.name: getattr(args, field.name) for field in fields(SharedDataArguments)}
    try:
        splits = load_objects(ObjectDataArguments(**shared), seed, with_masks=True)
    except ValueError as error:
        if "no annotations in this folder" in str(error):
            has = listing(Path(args.dataset))
            raise ValueError(
                f"--dataset {args.dataset}: there are no masks in this folder. {LAYOUT} Polygons in COCO's or YOLO's "
                f"format are drawn to masks. It has: {has}."
            ) from error
        raise
    classes = class_names(splits)
    names = [BACKGROUND, *(name for name in classes if name != BACKGROUND)]
    numbers = np.array([names.index(name) for name in classes])
    logger.warning(
        "Polygons are drawn to masks; what lies in none is %r, small objects lie over large ones.", BACKGROUND
    )
    drawn = {
        split: picture_rows(image=[row["image"] for row in rows], mask=[_drawn(row, numbers) for row in rows])
        for split, rows in splits.items()
    }
    return SegmentationData(DatasetDict(drawn), names, MaskReading())


def _drawn(row: dict, numbers: np.ndarray) -> dict:
    """Draws the objects of an image into one mask, the largest first; crowds do not count."""
    masks = decode_masks(row["objects"], row["width"], row["height"])
    class_map = np.zeros((row["height"], row["width"]), np.uint8)
    for number in np.argsort(-masks.sum((1, 2)), kind="stable"):
        crowd = row["objects"]["iscrowd"][number]
        class_map[masks[number]] = MaskReading.ignore_index if crowd else numbers[row["objects"]["category"][number]]
    return stored_png(PIL.Image.fromarray(class_map))


def _from_hub(args: SegmentationDataArguments, table: ClassTable | None) -> tuple[DatasetDict, ClassTable | None]:
    dataset = load_named_dataset(args.dataset, args)
    splits = {role: dataset[name] for role, name in choose_splits(dataset, args).items()}
    features = splits["train"].features
    present = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in features.items())
    images = [name for name, feature in features.items() if isinstance(feature, Image)]
    mask = args.mask_column or next((name for name in MASK_COLUMNS if name in images), None)
    others = [name for name in images if name != mask]
    image = args.image_column or ("image" if "image" in others else others[0] if len(others) == 1 else None)
    for option, column in (("image", image), ("mask", mask)):
        if column not in images:
            given = f"--{option}_column {column}" if column else f"--{option}_column is not given"
            raise ValueError(
                f"{given}: the dataset has no such column of images; images and masks are both needed. It has: "
                f"{present}."
            )
    columns = {image: "image", mask: "mask"}
    for role, rows in splits.items():
        rows = rows.select_columns(list(columns)).rename_columns(columns)
        splits[role] = rows.cast(Features({name: Image(decode=False) for name in rows.column_names}))
    if table is None and (names := read_hub_json(args.dataset, "id2label.json", args)):
        ordered = {int(number): str(name) for number, name in names.items()}
        table = ClassTable(tuple(ordered.get(number, str(number)) for number in range(max(ordered) + 1)))
    return DatasetDict(splits), table
