"""Semantic-segmentation data from the hub or a local folder: checked, in one form."""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import PIL.Image
from datasets import Dataset, DatasetDict, Features, Image
from tqdm import tqdm

from mona_peft.tasks.data.arguments import SharedDataArguments, check_pictures
from mona_peft.tasks.data.checks import read_headers
from mona_peft.tasks.data.class_folders import unwrapped
from mona_peft.tasks.data.files import listing
from mona_peft.tasks.data.hub import load_named_dataset, read_hub_json
from mona_peft.tasks.data.objects.check import decode_masks
from mona_peft.tasks.data.objects.loading import ObjectDataArguments, class_names, load_objects
from mona_peft.tasks.data.segmentation.class_tables import MAX_CLASSES, ClassTable, find_class_table
from mona_peft.tasks.data.segmentation.layouts import LAYOUT, find_pairs
from mona_peft.tasks.data.segmentation.masks import UNCOUNTED, MaskReading, MaskSurvey, hex_name, mask_pixels
from mona_peft.tasks.data.splits import choose_splits, hold_out
from mona_peft.tasks.data.stored import UNREADABLE, Header, picture_rows, stored_file, stored_png
from mona_peft.tasks.messages import first_of

BACKGROUND, FOREGROUND = "background", "foreground"

MASK_COLUMNS = ("mask", "annotation", "label", "labels", "segmentation_mask", "semantic_segmentation")

MOST_SURVEYED = 200
"""Of how many masks it is found out whether they hold numbers or colours, where the classes have names."""

logger = logging.getLogger(__name__)


@dataclass
class SegmentationDataArguments(SharedDataArguments):
    """Which images and masks, and how they are read."""

    dataset: str | None = field(
        default=None,
        metadata={
            "help": "A folder of images and masks (FOLDER/images/SPLIT/*.jpg and FOLDER/masks/SPLIT/*.png, "
            "FOLDER/SPLIT/images, or without splits), one in COCO's format with polygons, or a name on the hub."
        },
    )
    image_column: str | None = field(
        default=None, metadata={"help": "Column of the images, of a dataset of the hub. Without it: the other one."}
    )
    mask_column: str | None = field(
        default=None, metadata={"help": f"Column of the masks. Without it, the one of: {', '.join(MASK_COLUMNS)}."}
    )
    class_names: str | None = field(
        default=None,
        metadata={
            "help": "Text file, one name of a class a line, class 0 first, or table of name, r, g, b for masks in "
            "colours. Without it: FOLDER/classes.txt, classes.csv, labelmap.txt or the like, or what the masks hold."
        },
    )
    ignore_index: int = field(default=255, metadata={"help": "Number of pixels that do not count."})
    reduce_labels: bool = field(
        default=False,
        metadata={"help": "Class n has the number n + 1 in the masks, and 0 does not count, as in ADE20K."},
    )
    image_size: int = field(
        default=512, metadata={"help": "Images are resized so that their shorter side has so many pixels."}
    )
    scales: list[float] = field(
        default_factory=lambda: [0.5, 2.0],
        metadata={"help": "Training: least and greatest factor, drawn anew each time, on --image_size."},
    )
    crop_size: int = field(default=512, metadata={"help": "Training: side of a random crop. Evaluation: of a window."})
    max_class_share: float = field(
        default=0.75, metadata={"help": "Training: a crop is drawn again where one class covers more of it."}
    )
    eval_mode: Literal["whole", "slide"] = field(
        default="whole", metadata={"help": "Evaluation: of whole images, or in overlapping windows of --crop_size."}
    )


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
    _check_sizes(splits, check_pictures(splits, args, annotated=True))
    masks, names = _understand(splits, table, args)
    _check_classes(splits, names, masks, args)
    return SegmentationData(hold_out(splits, args, seed, lambda rows: [0] * len(rows)), names, masks)


def _rows(pairs: Sequence[tuple[Path, Path]]) -> Dataset:
    images, masks = zip(*pairs, strict=True)
    return picture_rows(image=[stored_file(path) for path in images], mask=[stored_file(path) for path in masks])


def _from_objects(args: SegmentationDataArguments, seed: int) -> SegmentationData | None:
    """Draws the polygons of a folder in COCO's or YOLO's format to masks; None where there are none."""
    if not Path(args.dataset).exists() or any(Path(args.dataset).rglob("*.parquet")):
        return None
    shared = {name: getattr(args, name) for name in SharedDataArguments.__dataclass_fields__}
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


def _check_sizes(splits: DatasetDict, headers: Mapping[str, Sequence[Header]]) -> None:
    """Checks by the heads of their files that masks are of the size of their images.

    Args:
        splits: Images and masks; those that lie in a table are looked at when they are read.
        headers: Of the images, by split.

    Raises:
        ValueError: One is not, or can't be read; names it.
    """
    for split, images in headers.items():
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


def _understand(
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


def _check_classes(
    splits: DatasetDict, names: Sequence[str], masks: MaskReading, args: SegmentationDataArguments
) -> None:
    """Looks at the class maps of the training images, of all images if these are to be read to their ends.

    Raises:
        ValueError: No pixel counts, or a class is out of range; names the first mask.
    """
    from mona_peft.tasks.data.segmentation.dataset import AnnotatedImages

    for split, rows in splits.items():
        images = AnnotatedImages(rows, num_classes=len(names), masks=masks, image_processor=None)
        step = 1 if args.verify_images else -(-len(rows) // MOST_SURVEYED)
        numbers = range(0, len(rows), step)
        with ThreadPoolExecutor() as pool:
            look = images.pair if args.verify_images else images.checked_class_map
            maps = pool.map(look, numbers)
            present: set[int] = set()
            for found in tqdm(maps, f"Reading class maps ({split})", len(numbers), disable=None):
                present |= set(np.unique(found[1] if isinstance(found, tuple) else found).tolist())
        if not present - {UNCOUNTED}:
            raise ValueError(
                f"No pixel of the {len(rows)} masks of the {split} split counts: {args.ignore_index} is taken for "
                "pixels that do not (see --ignore_index, --reduce_labels)."
            )
        absent = [name for number, name in enumerate(names) if number not in present]
        if split == "train" and absent:
            logger.warning(
                "%d of %d classes have no pixel in %s: %s. If they should not exist, look at the masks.",
                len(absent),
                len(names),
                f"{len(numbers)} masks of the training split" if step > 1 else "the training split",
                first_of(absent),
            )
