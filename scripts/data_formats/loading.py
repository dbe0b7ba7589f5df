"""Loads layouts as the command does, and tells what came of it."""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser

from mona_peft.tasks.data.arguments import choose_decoding
from mona_peft.tasks.data.classification import DataArguments, load_image_classification
from mona_peft.tasks.data.classification import class_names as image_classes
from mona_peft.tasks.data.objects.loading import ObjectDataArguments, class_names, load_objects
from mona_peft.tasks.data.segmentation.loading import SegmentationDataArguments, load_semantic_segmentation
from scripts.data_formats.layouts import CLASSIFICATION, OBJECTS, TASKS, Layout

ARGUMENTS = dict(
    zip(TASKS, (DataArguments, ObjectDataArguments, ObjectDataArguments, SegmentationDataArguments), strict=True)
)


def load(task: str, options: Sequence[str]) -> tuple[Any, list[str]]:
    """Loads a dataset as the command does, and returns its splits and the names of its classes."""
    (args,) = HfArgumentParser(ARGUMENTS[task]).parse_args_into_dataclasses(list(options))
    if task in CLASSIFICATION:
        splits = load_image_classification(args, 0)
        classes = image_classes(splits)
    elif task in OBJECTS:
        splits = load_objects(args, 0, with_masks=task == "instance-segmentation")
        classes = class_names(splits)
    else:
        splits, classes, _ = load_semantic_segmentation(args, 0)
    choose_decoding(splits, args)
    return splits, classes


def attempt(layout: Layout, task: str) -> tuple[str, list[str]]:
    """Builds a layout and loads it.

    Returns:
        What came of it, or the message with which it was refused, and what was said meanwhile.
    """
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())
    logger = logging.getLogger("mona_peft.tasks.data")
    logger.addHandler(handler)
    try:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place, "data")
            layout.build(folder)
            try:
                splits, classes = load(task, [option.replace("DATA", str(folder)) for option in layout.options])
            except ValueError as error:
                result = f"refused: {error}".replace(str(folder), "DATA")
            else:
                counts = ", ".join(f"{split} {len(rows)}" for split, rows in splits.items())
                result = f"{counts}; classes {', '.join(classes)}"
            return result, [message.replace(str(folder), "DATA") for message in said]
    finally:
        logger.removeHandler(handler)
