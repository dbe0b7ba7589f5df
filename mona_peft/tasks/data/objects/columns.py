"""Datasets with a column of objects, as those of the hub have it, or a folder of images with `metadata.jsonl`."""

from typing import Any

import datasets
from datasets import ClassLabel, Dataset

from mona_peft.tasks.data.objects.annotated_images import AnnotatedImage, AnnotatedSplit

CATEGORY_NAMES = ("category", "categories", "category_id", "label", "labels", "class", "class_labels")
BOX_NAMES = ("bbox", "bboxes", "boxes", "box")


def read_objects(dataset: Dataset, split: str, image_column: str | None, objects_column: str | None) -> AnnotatedSplit:
    """Reads a split with a column of images and one of objects: `bbox`, `category` and, if present, `area` and more.

    Args:
        dataset: The split.
        split: What a message says of it.
        image_column: None takes the only column of images.
        objects_column: None takes the only column with boxes and categories.

    Raises:
        ValueError: It lacks a column that is needed; lists those it has. Or a class is out of range; names the row.
    """
    features = dataset.features
    image_name = _choose("image", image_column, [name for name, kind in features.items() if _is_image(kind)], features)
    with_boxes = [name for name, kind in features.items() if _field(kind, BOX_NAMES) and _field(kind, CATEGORY_NAMES)]
    objects_name = _choose("objects", objects_column, with_boxes, features)
    kind = features[objects_name]
    box_name, category_name = _field(kind, BOX_NAMES), _field(kind, CATEGORY_NAMES)
    if box_name is None or category_name is None:
        raise ValueError(
            f"--objects_column {objects_name}: needs boxes and categories. It has: {', '.join(_fields(kind))}."
        )

    category_kind = getattr(_fields(kind)[category_name], "feature", _fields(kind)[category_name])
    names = dict(enumerate(category_kind.names)) if isinstance(category_kind, ClassLabel) else None
    pictures = dataset.select_columns([image_name]).rename_columns({image_name: "image"})
    pictures = pictures.cast_column("image", datasets.Image(decode=False))
    sizes = {"width", "height"} <= features.keys()
    images = []
    for row, values in enumerate(dataset.remove_columns(image_name)):
        where = f"row {row} of the {split} split"
        objects = []
        for number, entry in enumerate(_by_object(values[objects_name], f"{objects_name} of {where}")):
            place = f"{where}, object {number}"
            if entry is None:
                raise ValueError(f"{place} is empty. Mend or remove it.")
            category = entry.get(category_name)
            if category is None or (names is not None and category not in names):
                allowed = f"0 to {len(names) - 1} are allowed" if names else "every object needs one"
                raise ValueError(f"{place}: its {category_name} is {category}; {allowed}. Mend or remove it.")
            objects.append({**entry, "bbox": entry.get(box_name), "category": category, "where": place})
        size = (values["width"], values["height"]) if sizes and values["width"] and values["height"] else None
        images.append(AnnotatedImage(row, f"The image of {where}", objects, size))
    if names is None:
        present = {entry["category"] for image in images for entry in image.objects}
        names = {category: str(category) for category in sorted(present)}
    return AnnotatedSplit(names, images, pictures)


def _is_image(kind: Any) -> bool:
    return isinstance(kind, datasets.Image)


def _fields(kind: Any) -> dict[str, Any]:
    """Returns the fields of a column of objects, which is a struct of lists or a list of structs."""
    kind = getattr(kind, "feature", kind)
    return kind if isinstance(kind, dict) else {}


def _field(kind: Any, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in _fields(kind)), None)


def _choose(role: str, given: str | None, found: list[str], features: dict[str, Any]) -> str:
    present = ", ".join(
        f"{name} ({', '.join(_fields(kind)) or type(kind).__name__})" for name, kind in features.items()
    )
    if given is not None and given not in features:
        raise ValueError(f"--{role}_column {given}: the dataset has no such column. It has: {present}.")
    if given is None and len(found) != 1:
        needed = (
            "images" if role == "image" else "objects, a list of structs or a struct of lists with bbox and category"
        )
        hint = f"Name the right one with --{role}_column. " if found else ""
        raise ValueError(f"The dataset has {len(found)} columns of {needed}, not one. {hint}It has: {present}.")
    return given or found[0]


def _by_object(objects: dict[str, list] | list[dict[str, Any]] | None, where: str) -> list[dict[str, Any]]:
    if not objects:
        return []
    if isinstance(objects, list):
        return objects
    filled = {name: values for name, values in objects.items() if isinstance(values, list)}
    counts = {name: len(values) for name, values in filled.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"{where}: the lists of an image's objects must be of one length, and have {counts}.")
    return [dict(zip(filled, values, strict=True)) for values in zip(*filled.values(), strict=True)]
