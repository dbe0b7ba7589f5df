"""Image-classification data from the hub, a folder or a table: checked, in one form."""

import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from datasets import ClassLabel, Dataset, DatasetDict, List

from mona_peft.tasks.data import tables
from mona_peft.tasks.data.arguments import SharedDataArguments, check_pictures
from mona_peft.tasks.data.checks import tell_of_contradictions
from mona_peft.tasks.data.class_folders import LAYOUT, find_class_folders, loose_images, unwrapped
from mona_peft.tasks.data.files import find_images, listing
from mona_peft.tasks.data.hub import load_named_dataset
from mona_peft.tasks.data.labels import choose_columns, name_classes
from mona_peft.tasks.data.splits import choose_splits, hold_out, rarest
from mona_peft.tasks.data.stored import picture_files
from mona_peft.tasks.messages import first_of

logger = logging.getLogger(__name__)


@dataclass
class DataArguments(SharedDataArguments):
    """Which images and labels, and how they are read."""

    dataset: str | None = field(
        default=None,
        metadata={
            "help": "A folder of class folders, FOLDER/CLASS/*.png, or with splits, FOLDER/train/CLASS/*.png; a CSV or "
            "JSONL table of images and labels, or the folder that it lies in; or the name of a dataset on the hub."
        },
    )
    image_dir: str | None = field(
        default=None, metadata={"help": "Folder of the images that a table names. Without it: the table's own."}
    )
    image_column: str | None = field(
        default=None, metadata={"help": "Without it: the only column of images, or one with a usual name."}
    )
    label_column: str | None = field(
        default=None, metadata={"help": "Without it: the only column of classes, or one with a usual name."}
    )
    label_separator: str | None = field(
        default=None,
        metadata={
            "help": "What stands between several labels of an image in a table. Without it: | or ;. 'none': one label."
        },
    )
    mixing: Literal["none", "mixup", "cutmix", "both"] | None = field(
        default=None,
        metadata={
            "help": "Training images are mixed two by two, and their classes with them. mixup: one shows through the "
            "other; cutmix: a rectangle of one lies over the other. Without it: both with --augmentation strong, else "
            "none."
        },
    )
    class_balance: Literal["none", "weights", "sampling"] = field(
        default="none",
        metadata={
            "help": "Where classes have different numbers of images. weights: rare classes count more in the loss; "
            "sampling: their images are drawn more often."
        },
    )


def load_image_classification(args: DataArguments, seed: int) -> DatasetDict:
    """Loads the splits `train`, `validation` and, where there is one, `test`, with the columns `image` and `label`.

    Args:
        args: What to load; its `dataset` is given.
        seed: Of what is drawn: images held out of the training split, or fewer images.

    Returns:
        Datasets whose `image` is not decoded yet and whose `label` is a `ClassLabel`, in range in every row, or a list
        of such where an image may show several classes.

    Raises:
        ValueError: There is no such dataset, it has no images, it lacks a column or a split, images can't be read, or
            labels are missing or out of range. The message names what there is.
    """
    splits = _load(args)
    for name, split in splits.items():
        _check_labels(split, name)
    check_pictures(splits, args, annotated=False)
    for split in splits.values():
        tell_of_contradictions(split)
    splits = hold_out(splits, args, seed, _strata)
    if not args.only_evaluated:
        _tell_of_empty_classes(splits)
    return splits


def class_names(splits: DatasetDict) -> list[str]:
    """Returns the names of the classes by their numbers."""
    feature = splits["train"].features["label"]
    return getattr(feature, "feature", feature).names


def is_multi_label(splits: DatasetDict) -> bool:
    """Tells whether an image may show several classes."""
    return not isinstance(splits["train"].features["label"], ClassLabel)


def class_counts(rows: Dataset) -> list[int]:
    """Returns the number of images of each class."""
    feature = rows.features["label"]
    counts = [0] * getattr(feature, "feature", feature).num_classes
    for label in rows["label"][:]:
        for number in label if isinstance(label, list) else [label]:
            counts[number] += 1
    return counts


def _load(args: DataArguments) -> DatasetDict:
    place = Path(args.dataset)
    if place.is_file():
        return _from_tables({"": place}, Path(args.image_dir or place.parent), args)
    if not place.is_dir():
        return _from_hub(args)
    folder = unwrapped(place)
    found = tables.find_tables(folder)
    folders = find_class_folders(folder, (args.train_split, args.validation_split, args.test_split))
    labelled = {name: path for name, path in found.items() if args.label_column or _has_labels(path)}
    if folders and labelled and args.label_column is None:
        raise ValueError(
            f"--dataset {place}: {first_of(list(labelled.values()))} has a column of labels, and the folders "
            f"{first_of(list(folders) if '' not in folders else list(folders[''].images))} look like classes. "
            "--label_column takes the table; to take the folders, move the table away."
        )
    if labelled and not (folders and args.label_column is None):
        return _from_tables(labelled, Path(args.image_dir) if args.image_dir else folder, args)
    if folders:
        for path in found.values():
            logger.warning("%s is not read: it has no column of labels, and the folders are the classes.", path)
        return _from_folders(folders, args)
    if any(folder.rglob("*.parquet")):
        return _from_hub(args)
    images = find_images(folder)
    what = f"there are {len(images)} images and no classes" if images else "there is no image in this folder"
    if found:
        table = next(iter(found.values()))
        names = ", ".join(tables.read_table(table)[0])
        what += f"; {table} has no column with a usual name for labels (--label_column). It has: {names}"
    raise ValueError(f"--dataset {place}: {what}. {LAYOUT} It has: {listing(folder)}.")


def _has_labels(path: Path) -> bool:
    rows = tables.read_table(path)
    image = tables.choose_column(rows, None, tables.IMAGE_NAMES, "image_column")
    label = tables.choose_column(rows, None, tables.LABEL_NAMES, "label_column")
    return image is not None and (
        label is not None or tables.read_labels(rows, None, None, [image, *tables.SPLIT_NAMES], path) is not None
    )


def _from_folders(folders: dict, args: DataArguments) -> DatasetDict:
    for option in ("image_column", "label_column"):
        if getattr(args, option) is not None:
            raise ValueError(
                f"--{option} {getattr(args, option)}: {args.dataset} has no table with columns, and the folders are "
                "the classes. Leave it out."
            )
    folders = {name or "train": found for name, found in folders.items()}
    top = folders["train"].folder if len(folders) == 1 else next(iter(folders.values())).folder.parent
    chosen = choose_splits(list(folders), args)
    paths: dict[str, list[Path]] = {}
    labels: dict[str, list[str]] = {}
    for role, name in chosen.items():
        folders[name].tell_of_loose()
        images = folders[name].images
        paths[role] = [path for some in images.values() for path in some]
        labels[role] = [label for label, some in images.items() for _ in some]
    loose = loose_images(top) if len(folders) > 1 else []
    if loose:
        logger.warning(
            "%d images lie in %s beside the folders of splits, and are left out: %s.",
            len(loose),
            top,
            first_of([path.name for path in loose], 3),
        )
    return _labelled(paths, labels)


def _from_tables(found: dict[str, Path], folder: Path, args: DataArguments) -> DatasetDict:
    by_split: dict[str, list[tuple[Path, object]]] = {}
    named: set[Path] = set()
    for split, table in found.items():
        rows = tables.read_table(table)
        image = tables.choose_column(rows, args.image_column, tables.IMAGE_NAMES, "image_column")
        label = tables.choose_column(rows, args.label_column, tables.LABEL_NAMES, "label_column")
        column = tables.choose_column(rows, None, tables.SPLIT_NAMES, "split")
        if image is None:
            raise ValueError(
                f"{table}: no column has a usual name for paths of images; name the right one with --image_column. It "
                f"has: {', '.join(rows[0])}."
            )
        values = tables.read_labels(rows, label, args.label_separator, [image, column or ""], table)
        if values is None:
            raise ValueError(
                f"{table}: no column has a usual name for labels; name the right one with --label_column. It has: "
                f"{', '.join(rows[0])}."
            )
        paths = tables.find_pictures(rows, image, table, folder)
        rows, paths, values = tables.each_once(rows, paths, values, table)
        named.update(paths)
        for row, path, value in zip(rows, paths, values, strict=True):
            by_split.setdefault(str(row[column]) if column else split or "train", []).append((path, value))
    tables.tell_of_unnamed(named, folder)
    chosen = choose_splits(list(by_split), args)
    rows_of = {role: by_split[name] for role, name in chosen.items()}
    if left := [name for name in by_split if name not in chosen.values()]:
        count = sum(len(by_split[name]) for name in left)
        logger.warning("%d images of the splits %s are not used.", count, ", ".join(left))
    paths = {role: [path for path, _ in rows] for role, rows in rows_of.items()}
    return _labelled(paths, {role: [label for _, label in rows] for role, rows in rows_of.items()})


def _labelled(paths: dict[str, list[Path]], labels: dict[str, Sequence]) -> DatasetDict:
    """Returns files and names of their classes as datasets."""
    several = any(isinstance(label, list) for some in labels.values() for label in some)
    if several:
        labels = {
            role: [label if isinstance(label, list) else [label] for label in some] for role, some in labels.items()
        }
    flat = [name for some in labels.values() for label in some for name in (label if several else [label]) if name]
    names = sorted(set(flat))
    if len(names) < 2:
        raise ValueError(f"There {'are' if names else 'is'} {len(names)} class(es): {first_of(names)}. {LAYOUT}")
    numbers = {name: number for number, name in enumerate(names)}
    kind = ClassLabel(names=names)
    splits = {}
    for role, files in paths.items():
        values = [[numbers[name] for name in label] if several else numbers.get(label) for label in labels[role]]
        splits[role] = picture_files(files).add_column("label", values, feature=List(kind) if several else kind)
    return DatasetDict(splits)


def _from_hub(args: DataArguments) -> DatasetDict:
    dataset = load_named_dataset(args.dataset, args)
    chosen = choose_splits(dataset, args)
    for role, name in chosen.items():
        if len(dataset[name]) == 0:
            raise ValueError(f"--{role}_split {name}: this split has no rows.")
    splits = DatasetDict({role: dataset[name] for role, name in chosen.items()})
    return name_classes(*choose_columns(splits, args.image_column, args.label_column))


def _check_labels(dataset: Dataset, split: str) -> None:
    labels = dataset["label"][:]
    feature = dataset.features["label"]
    several = not isinstance(feature, ClassLabel)
    count = (feature.feature if several else feature).num_classes

    def is_wrong(label: object) -> bool:
        if several:
            return label is None or any(number is None or not 0 <= number < count for number in label)
        return label is None or not 0 <= label < count

    wrong = [row for row, label in enumerate(labels) if is_wrong(label)]
    if wrong:
        hint = " Leave a test split without labels out with --test_split none." if split == "test" else ""
        raise ValueError(
            f"{len(wrong)} of {len(labels)} labels of the {split} split are missing or out of range: 0 to "
            f"{count - 1} are allowed, row {wrong[0]} has {labels[wrong[0]]}. Mend or remove these rows.{hint}"
        )


def _strata(rows: Dataset) -> Sequence[Hashable]:
    labels = rows["label"][:]
    return rarest(labels) if isinstance(rows.features["label"], List) else labels


def _tell_of_empty_classes(splits: DatasetDict) -> None:
    names = class_names(splits)
    empty = [name for name, count in zip(names, class_counts(splits["train"]), strict=True) if count == 0]
    if empty:
        logger.warning(
            "%d of %d classes have no training image and can't be learnt: %s.", len(empty), len(names), first_of(empty)
        )
