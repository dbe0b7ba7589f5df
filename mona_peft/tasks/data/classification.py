"""Image-classification data from the hub or a local folder: checked, in one form."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Image, load_dataset

from mona_peft.tasks.data.files import check_images, find_images, picture_files
from mona_peft.tasks.data.splits import SplitArguments, choose_splits, load_named_dataset, validation_size


@dataclass
class DataArguments(SplitArguments):
    """Which images, and how they are read."""

    dataset: str | None = field(
        default=None,
        metadata={
            "help": "Name of a dataset on the hub, or a local folder of images: FOLDER/CLASS/*.png, or with splits "
            "FOLDER/train/CLASS/*.png, FOLDER/validation/..., FOLDER/test/... Without it: handwritten digits over "
            "photographs, which need no download."
        },
    )
    image_column: str | None = field(default=None, metadata={"help": "Without it: the only column of images."})
    label_column: str | None = field(default=None, metadata={"help": "Without it: the only column of class labels."})
    verify_images: bool = field(
        default=True, metadata={"help": "Read every image of a local folder once before training starts."}
    )
    augmentation: Literal["none", "crop", "crop-flip"] = field(
        default="crop-flip",
        metadata={"help": "Of training images: random resized crop, and horizontal flip (wrong for digits and text)."},
    )


def load_image_classification(args: DataArguments, seed: int) -> DatasetDict:
    """Loads the splits `train`, `validation` and, where there is one, `test`, with the columns `image` and `label`.

    Args:
        args: What to load; its `dataset` is given.
        seed: Of the split into training and validation images, where the dataset has none.

    Returns:
        Datasets whose `image` is not decoded yet and whose `label` is a `ClassLabel`, in range in every row.

    Raises:
        ValueError: There is no such dataset, it has no images, it lacks a column or a split, or labels are missing or
            out of range. The message names what there is.
    """
    splits = _choose_splits(_load(args), args)
    splits = _choose_columns(splits, args)
    for name, split in splits.items():
        _check_labels(split, name)
    if "validation" not in splits:
        splits["train"], splits["validation"] = _split_off(splits["train"], args.validation_fraction, seed)
    return splits


def _load(args: DataArguments) -> DatasetDict:
    folder = Path(args.dataset)
    if folder.is_dir():
        if images := find_images(folder):
            if args.verify_images:
                check_images(picture_files(images), [str(path) for path in images])
            return load_dataset("imagefolder", data_dir=str(folder))
        if not any(folder.rglob("*.parquet")):
            raise ValueError(
                f"--dataset {folder}: there is no image in this folder. It needs FOLDER/CLASS/*.png (or .jpg, ...), "
                "or FOLDER/train/CLASS/*.png and the same for validation and test."
            )
    return load_named_dataset(args.dataset, args.dataset_config)


def _choose_splits(dataset: DatasetDict, args: DataArguments) -> DatasetDict:
    """Picks the splits that the arguments name, or that are there, by the names of their roles."""
    chosen = choose_splits(dataset, args)
    for role, name in chosen.items():
        if len(dataset[name]) == 0:
            raise ValueError(f"--{role}_split {name}: this split has no rows.")
    return DatasetDict({role: dataset[name] for role, name in chosen.items()})


def _choose_columns(splits: DatasetDict, args: DataArguments) -> DatasetDict:
    """Keeps the two columns, given or found by their types, as `image` and `label`."""
    features = splits["train"].features
    present = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in features.items())
    roles = {"image": (args.image_column, Image), "label": (args.label_column, ClassLabel)}
    columns = {}
    for role, (given, kind) in roles.items():
        found = [name for name, feature in features.items() if isinstance(feature, kind)]
        if given is not None and given not in features:
            raise ValueError(f"--{role}_column {given}: the dataset has no such column. It has: {present}.")
        if given is None and len(found) != 1:
            raise ValueError(
                f"The dataset has {len(found)} columns of type {kind.__name__}, not one; name the right one with "
                f"--{role}_column. It has: {present}. (A folder of images gets its labels from two or more class "
                "folders at the same depth: FOLDER/CLASS/*.png.)"
            )
        if role == "image" and given is not None and given not in found:
            raise ValueError(f"--image_column {given}: not a column of images. The dataset has: {present}.")
        columns[given or found[0]] = role
    splits = splits.select_columns(list(columns)).rename_columns(columns)
    return _name_classes(splits, present).cast_column("image", Image(decode=False))


def _name_classes(splits: DatasetDict, present: str) -> DatasetDict:
    """Makes `label` a `ClassLabel`: strings are names of classes, integers their numbers."""
    feature = splits["train"].features["label"]
    if isinstance(feature, ClassLabel):
        for name, split in splits.items():
            if split.features["label"] != feature:
                raise ValueError(
                    f"The classes of the {name} split, {split.features['label']}, are not those of the training split, "
                    f"{feature}. Every split needs the same."
                )
        return splits
    kind = str(getattr(feature, "dtype", feature))
    values = {label for split in splits.values() for label in split.unique("label")} - {None}
    if kind in ("string", "large_string"):
        names = sorted(values)
        number_of = {name: number for number, name in enumerate(names)}
    elif kind.startswith(("int", "uint")):
        names = [str(number) for number in range(max(values, default=0) + 1)]
        number_of = {number: number for number in values}
    else:
        raise ValueError(f"--label_column: needs one class a row, a number or a name. The dataset has: {present}.")
    for name, split in splits.items():
        numbers = [number_of.get(label) for label in split["label"][:]]
        # Not a cast of the column, which would write all images of the dataset once more.
        splits[name] = split.remove_columns("label").add_column("label", numbers, feature=ClassLabel(names=names))
    return splits


def _check_labels(dataset: Dataset, split: str) -> None:
    labels = dataset["label"][:]
    num_classes = dataset.features["label"].num_classes
    wrong = [row for row, label in enumerate(labels) if label is None or not 0 <= label < num_classes]
    if wrong:
        hint = " Leave a test split without labels out with --test_split none." if split == "test" else ""
        raise ValueError(
            f"{len(wrong)} of {len(labels)} labels of the {split} split are missing or out of range: 0 to "
            f"{num_classes - 1} are allowed, row {wrong[0]} has {labels[wrong[0]]}. Mend or remove these rows.{hint}"
        )


def _split_off(dataset: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """Splits off a share of the rows, the same of every class where all have enough."""
    size = validation_size(len(dataset), fraction)
    counts = np.bincount(dataset["label"][:])
    counts = counts[counts > 0]
    even = counts.min() > 1 and min(size, len(dataset) - size) >= len(counts)
    parts = dataset.train_test_split(test_size=size, seed=seed, stratify_by_column="label" if even else None)
    return parts["train"], parts["test"]
