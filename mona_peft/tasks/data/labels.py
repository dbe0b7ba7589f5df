"""Columns of images and labels of tables that `datasets` loads, as numbers of classes with names."""

from typing import Any

from datasets import ClassLabel, DatasetDict, Image, List

from mona_peft.tasks.data.tables import LABEL_NAMES

TEXTS = ("string", "large_string")


def choose_columns(splits: DatasetDict, image_column: str | None, label_column: str | None) -> tuple[DatasetDict, str]:
    """Keeps two columns, given or found by their types, as `image` (not decoded) and `label`.

    Returns:
        The splits, and what a message says of the columns that there were.

    Raises:
        ValueError: One is not there, or several may be meant; lists what there is.
    """
    features = splits["train"].features
    present = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in features.items())
    roles = {"image": (image_column, "Image"), "label": (label_column, "ClassLabel")}
    columns = {}
    for role, (given, kind) in roles.items():
        found = [name for name, feature in features.items() if _is(role, feature)]
        if role == "label" and not found:
            found = [name for name, feature in features.items() if _may_be_label(name, feature)]
        if given is not None and given not in features:
            raise ValueError(f"--{role}_column {given}: the dataset has no such column. It has: {present}.")
        if given is None and len(found) != 1:
            raise ValueError(
                f"The dataset has {len(found)} columns of type {kind}, not one; name the right one with "
                f"--{role}_column. It has: {present}."
            )
        if role == "image" and given is not None and given not in found:
            raise ValueError(f"--image_column {given}: not a column of images. The dataset has: {present}.")
        columns[given or found[0]] = role
    splits = splits.select_columns(list(columns)).rename_columns(columns)
    return splits.cast_column("image", Image(decode=False)), present


def _is(role: str, feature: Any) -> bool:
    return isinstance(feature, Image) if role == "image" else isinstance(_inner(feature), ClassLabel)


def _may_be_label(name: str, feature: Any) -> bool:
    """Tells whether a column of texts, or of lists of them or of numbers, has a usual name for labels."""
    dtype = str(getattr(_inner(feature), "dtype", ""))
    return name.casefold() in LABEL_NAMES and (dtype in TEXTS or (isinstance(feature, List) and "int" in dtype))


def _inner(feature: Any) -> Any:
    return feature.feature if isinstance(feature, List) else feature


def name_classes(splits: DatasetDict, present: str) -> DatasetDict:
    """Makes `label` a `ClassLabel`, or a list of such: strings are names of classes, integers their numbers.

    Args:
        splits: With the column `label`.
        present: What a message says of the columns.

    Raises:
        ValueError: The splits have other classes, or labels are neither.
    """
    feature = splits["train"].features["label"]
    for name, split in splits.items():
        if isinstance(_inner(feature), ClassLabel) and split.features["label"] != feature:
            raise ValueError(
                f"The classes of the {name} split, {split.features['label']}, are not those of the training split, "
                f"{feature}. Every split needs the same."
            )
    if isinstance(_inner(feature), ClassLabel):
        return splits
    several, kind = isinstance(feature, List), str(getattr(_inner(feature), "dtype", feature))
    labels = {name: split["label"][:] for name, split in splits.items()}
    values = {value for some in labels.values() for label in some for value in ((label or []) if several else [label])}
    values -= {None}
    if kind in TEXTS:
        names = sorted(values)
        number_of = {name: number for number, name in enumerate(names)}
    elif kind.startswith(("int", "uint")):
        names = [str(number) for number in range(max(values, default=0) + 1)]
        number_of = {number: number for number in values}
    else:
        raise ValueError(f"--label_column: needs one class a row, a number or a name. The dataset has: {present}.")
    classes = ClassLabel(names=names)
    for name, split in splits.items():
        numbers = [
            label and [number_of.get(value) for value in label] if several else number_of.get(label)
            for label in labels[name]
        ]
        # Not a cast of the column, which would write all images of the dataset once more.
        splits[name] = split.remove_columns("label").add_column(
            "label", numbers, feature=List(classes) if several else classes
        )
    return splits
