"""What masks say before training starts: what their pixels mean, and whether they fit their images and classes."""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from datasets import DatasetDict
from tqdm import tqdm

from mona_peft.tasks.data.checks import read_headers
from mona_peft.tasks.data.segmentation.arguments import SegmentationDataArguments
from mona_peft.tasks.data.segmentation.class_tables import MAX_CLASSES, ClassTable
from mona_peft.tasks.data.segmentation.dataset import AnnotatedImages
from mona_peft.tasks.data.segmentation.masks import UNCOUNTED, MaskReading, MaskSurvey, hex_name, mask_pixels
from mona_peft.tasks.data.stored import UNREADABLE, Header, are_files
from mona_peft.tasks.messages import first_of

BACKGROUND, FOREGROUND = "background", "foreground"

MOST_SURVEYED = 200
"""Of how many masks it is found out whether they hold numbers or colours, where the classes have names."""

MOST_SHARED_OUT = 2000
"""Up to so many training images, their class maps are read to share them out evenly; of more chance does it alone."""

logger = logging.getLogger(__name__)


def check_sizes(splits: DatasetDict, headers: Mapping[str, Sequence[Header]]) -> None:
    """Checks by the heads of their files that masks are of the size of their images.

    Args:
        splits: Images and masks; those that lie in a table are looked at when they are read.
        headers: Of the images, by split.

    Raises:
        ValueError: One is not, or can't be read; names it.
    """
    for split, images in headers.items():
        if not are_files(splits[split], "mask"):
            continue
        masks = [row["mask"] for row in splits[split].select_columns("mask")]
        files = [mask for mask in masks if mask is not None and mask["bytes"] is None]
        if not len(files) == len(images) == len(masks):
            continue
        paths = [f"mask {mask['path']}" for mask in files]
        for name, mask, image in zip(paths, read_headers(files, paths), images, strict=True):
            if mask.size != image.size:
                raise ValueError(
                    f"The {name} has {mask.size[0]} × {mask.size[1]} pixels, its image {image.size[0]} × "
                    f"{image.size[1]}. (Images are turned as their EXIF data says.)"
                )


def understand(
    splits: DatasetDict, table: ClassTable | None, args: SegmentationDataArguments
) -> tuple[MaskReading, list[str]]:
    """Finds out what the pixels of the masks mean, and the names of the classes.

    Raises:
        ValueError: Masks can't be read, or there is one class alone.
    """
    masks = MaskReading(args.ignore_index, args.reduce_labels)
    survey = _survey(splits, MOST_SURVEYED if table else None)
    if survey.coloured and survey.numbers - {0, 255}:
        raise ValueError(
            f"{len(survey.coloured)} of {survey.grey + len(survey.coloured)} masks are in colours, "
            f"{survey.coloured[0]} for one, and the others hold class numbers. All must be of one kind."
        )
    if survey.coloured:
        colours = table.colours if table and table.colours else survey.derived_colours()
        names = (
            list(table.names) if table else [hex_name(red << 16 | green << 8 | blue) for red, green, blue in colours]
        )
        if table is None:
            logger.warning(
                "The masks are in colours, and no table tells what these stand for: each of the %d is taken for a "
                "class (%s). A table (--class_names classes.csv, with name, r, g, b) gives them names.",
                len(colours),
                first_of(names, MAX_CLASSES),
            )
        if len(names) != len(colours):
            raise ValueError(
                f"The masks are in {len(colours)} colours ({first_of([hex_name(code) for code in survey.colours])}), "
                f"and there are {len(names)} names of classes without colours: give a table of name, r, g, b."
            )
        masks = replace(masks, colours=colours)
    elif survey.is_black_and_white(args.ignore_index) and (table is None or len(table.names) == 2):
        names = list(table.names) if table else [BACKGROUND, FOREGROUND]
        masks = replace(masks, black_and_white=True)
        logger.warning("The masks are black and white: 0 is taken for %s, 255 for %s.", *names)
    elif table is not None:
        names = list(table.names)
    else:
        numbers = survey.numbers - {args.ignore_index} - ({0} if args.reduce_labels else set())
        most = max(numbers, default=-1) - int(args.reduce_labels)
        if most >= MAX_CLASSES:
            raise ValueError(
                f"The masks have numbers up to {max(numbers)}: more than {MAX_CLASSES} classes can't be told apart. If "
                "these are numbers of instances, or grey levels of a picture, they are no class maps."
            )
        names = [str(number) for number in range(most + 1)]
        logger.warning("The classes have no names and are taken to be 0 to %s (see --class_names).", most)
    if len(names) < 2:
        raise ValueError(
            f"The masks have {len(names)} class(es); two at least are needed (the background is one, and "
            f"{args.ignore_index} is taken for pixels that do not count; see --ignore_index)."
        )
    return masks, names


def _survey(splits: DatasetDict, most: int | None) -> MaskSurvey:
    """Looks at the masks of all splits, or at so many of each."""

    def look(stored: tuple[str, dict]) -> np.ndarray:
        try:
            return mask_pixels(stored[1], stored[0])
        except UNREADABLE as error:
            raise (
                error
                if isinstance(error, ValueError)
                else ValueError(f"The {stored[0]} can't be read ({error}). Replace or remove it.")
            ) from error

    chosen = []
    for split, rows in splits.items():
        numbers = range(0, len(rows), -(-len(rows) // most) if most else 1)
        for number, row in zip(numbers, rows.select_columns("mask").select(numbers), strict=True):
            if row["mask"] is None:
                raise ValueError(f"There is no mask of row {number} of the {split} split. Mend or remove the row.")
            chosen.append((f"mask {row['mask'].get('path') or f'of row {number} of the {split} split'}", row["mask"]))
    with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter's lock
        pixels = tqdm(pool.map(look, chosen), "Reading masks", len(chosen), disable=None)
        return MaskSurvey.of(zip([name for name, _ in chosen], pixels, strict=True))


def check_classes(
    splits: DatasetDict, names: Sequence[str], masks: MaskReading, args: SegmentationDataArguments
) -> list[list[int]] | None:
    """Looks at the class maps of the training images, of all images if these are to be read to their ends.

    Returns:
        The classes of each training image, where images are to be drawn from them and can be drawn evenly.

    Raises:
        ValueError: No pixel counts, or a class is out of range; names the first mask.
    """
    by_image = None
    for split, rows in splits.items():
        images = AnnotatedImages(rows, num_classes=len(names), masks=masks, image_processor=None)
        shared_out = split == "train" and _is_shared_out(splits, args)
        step = 1 if args.verify_images or shared_out else -(-len(rows) // MOST_SURVEYED)
        numbers = range(0, len(rows), step)
        look = images.pair if args.verify_images else images.checked_class_map
        with ThreadPoolExecutor() as pool:
            maps = tqdm(pool.map(look, numbers), f"Reading class maps ({split})", len(numbers), disable=None)
            found = [set(np.unique(some[1] if isinstance(some, tuple) else some).tolist()) for some in maps]
        present = set().union(*found) - {UNCOUNTED}
        if not present:
            raise ValueError(
                f"No pixel of the {len(rows)} masks of the {split} split counts: {args.ignore_index} is taken for "
                "pixels that do not (see --ignore_index, --reduce_labels)."
            )
        if shared_out:
            by_image = [sorted(some - {UNCOUNTED}) for some in found]
        absent = [name for number, name in enumerate(names) if number not in present]
        if split == "train" and absent:
            logger.warning(
                "%d of %d classes have no pixel in %s: %s. If they should not exist, look at the masks.",
                len(absent),
                len(names),
                f"{len(numbers)} masks of the training split" if step > 1 else "the training split",
                first_of(absent),
            )
    return by_image


def _is_shared_out(splits: DatasetDict, args: SegmentationDataArguments) -> bool:
    """Tells whether training images are held out, or some of them chosen, and are few enough to look at all."""
    held_out = "validation" not in splits or ("test" not in splits and args.test_fraction > 0)
    count = len(splits["train"])
    return (held_out or (args.max_train_samples or count) < count) and count <= MOST_SHARED_OUT
