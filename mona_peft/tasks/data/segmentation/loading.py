"""Semantic-segmentation data from the hub or a local folder: checked, in one form."""

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from datasets import Dataset, DatasetDict, Features, Image
from tqdm import tqdm

from mona_peft.tasks.data.files import (
    find_images,
    is_turned,
    listing,
    open_stored,
    picture_rows,
    read_lines,
    stored_file,
    warn_of_turned_images,
)
from mona_peft.tasks.data.segmentation.dataset import UNCOUNTED, AnnotatedImages
from mona_peft.tasks.data.splits import SplitArguments, choose_splits, load_named_dataset, validation_size
from mona_peft.tasks.messages import first_of

BACKGROUND = "background"
MAX_CLASSES = 255
"""As many as fit beside the number of pixels that do not count, in 8 bits."""

ADE20K_CLASSES = "objectInfo150.txt"
"""Table of the classes that ADE20K's archive for the benchmark holds."""

MASK_FOLDERS = ("masks", "annotations")
MASK_COLUMNS = ("mask", "annotation", "label", "labels", "segmentation_mask", "semantic_segmentation")
LAYOUT = (
    "It needs FOLDER/images/train/*.jpg (or .png, ...) and, of the same names, FOLDER/masks/train/*.png (or "
    "FOLDER/annotations/train/*.png), and the same for validation and test."
)
logger = logging.getLogger(__name__)


@dataclass
class SegmentationDataArguments(SplitArguments):
    """Which images and masks, and how they are read."""

    dataset: str | None = field(
        default=None,
        metadata={
            "help": "Name of a dataset on the hub, or local folder: FOLDER/images/SPLIT/*.jpg and, one class number a "
            "pixel, FOLDER/masks/SPLIT/*.png. Without it: scenes of digits, which need no download."
        },
    )
    image_column: str = field(default="image", metadata={"help": "Column of the images, of a dataset of the hub."})
    mask_column: str | None = field(
        default=None, metadata={"help": f"Column of the masks. Without it, the one of: {', '.join(MASK_COLUMNS)}."}
    )
    class_names: str | None = field(
        default=None,
        metadata={
            "help": "Text file, one name of a class a line, class 0 first. Without it: FOLDER/classes.txt, ADE20K's "
            "own FOLDER/objectInfo150.txt, or else numbers up to the greatest in the masks."
        },
    )
    ignore_index: int = field(default=255, metadata={"help": "Number of pixels that do not count."})
    reduce_labels: bool = field(
        default=False,
        metadata={"help": "Class n has the number n + 1 in the masks, and 0 does not count, as in ADE20K."},
    )
    verify_images: bool = field(
        default=True, metadata={"help": "Read every image and mask once before training starts."}
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
    horizontal_flip: bool = field(
        default=True, metadata={"help": "Training: mirror half of the images (wrong for digits and text)."}
    )
    eval_mode: Literal["whole", "slide"] = field(
        default="whole", metadata={"help": "Evaluation: of whole images, or in overlapping windows of --crop_size."}
    )


def load_semantic_segmentation(args: SegmentationDataArguments, seed: int) -> tuple[DatasetDict, list[str]]:
    """Loads the splits `train`, `validation` and, where there is one, `test`.

    Args:
        args: What to load; its `dataset` is given.
        seed: Of the split into training and validation images, where the dataset has none.

    Returns:
        Datasets of `image` and `mask`, not decoded, and the names of the classes.

    Raises:
        ValueError: There is no such dataset, something of it is missing, or an image and its mask do not fit. The
            message names the file, or what there is.
    """
    if Path(args.dataset).is_dir() and any(Path(args.dataset, "images").glob("*")):
        splits = _read_folder(Path(args.dataset), args)
    else:
        splits = _read_hub(args)
    names = _class_names(args)
    if args.verify_images or names is None:
        names = _checked_classes(splits, names, args)
    if len(names) < 2:
        raise ValueError(
            f"The masks have {len(names)} class(es); two at least are needed (the background is one, and "
            f"{args.ignore_index} is taken for pixels that do not count; see --ignore_index)."
        )
    if "validation" not in splits:
        size = validation_size(len(splits["train"]), args.validation_fraction)
        parts = splits["train"].train_test_split(test_size=size, seed=seed)
        splits["train"], splits["validation"] = parts["train"], parts["test"]
    return splits, names


def _read_folder(folder: Path, args: SegmentationDataArguments) -> DatasetDict:
    masks = next((folder / name for name in MASK_FOLDERS if (folder / name).is_dir()), None)
    present = sorted(path.name for path in (folder / "images").iterdir() if path.is_dir())
    if masks is None or not present:
        raise ValueError(f"--dataset {folder}: {LAYOUT} It has: {listing(folder)}.")
    splits = {}
    for role, split in choose_splits(present, args).items():
        image_of, mask_of = _by_name(folder / "images" / split), _by_name(masks / split)
        if not image_of:
            raise ValueError(f"--dataset {folder}: there is no image in images/{split}. {LAYOUT}")
        missing = [path for name, path in image_of.items() if name not in mask_of]
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(image_of)} images of {folder / 'images' / split} have no mask of their name "
                f"in {masks / split}: {first_of(missing)}."
            )
        if surplus := len(mask_of) - len(image_of):
            logger.warning("%d masks in %s have no image and are left out.", surplus, masks / split)
        splits[role] = picture_rows(
            image=[stored_file(path) for path in image_of.values()],
            mask=[stored_file(mask_of[name]) for name in image_of],
        )
    return DatasetDict(splits)


def _by_name(folder: Path) -> dict[Path, Path]:
    """Returns the image files in a folder by their places in it without suffixes, by which image and mask are paired.

    Raises:
        ValueError: Two share theirs.
    """
    by_name: dict[Path, Path] = {}
    for path in find_images(folder):
        other = by_name.setdefault(path.relative_to(folder).with_suffix(""), path)
        if other != path:
            raise ValueError(f"{other} and {path} have one name. Which is right? Rename or remove the other.")
    return by_name


def _read_hub(args: SegmentationDataArguments) -> DatasetDict:
    if Path(args.dataset).is_dir() and not any(Path(args.dataset).rglob("*.parquet")):
        raise ValueError(f"--dataset {args.dataset}: {LAYOUT} It has: {listing(Path(args.dataset))}.")
    dataset = load_named_dataset(args.dataset, args.dataset_config)
    splits = {role: dataset[name] for role, name in choose_splits(dataset, args).items()}
    features = splits["train"].features
    present = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in features.items())
    images = [name for name, feature in features.items() if isinstance(feature, Image)]
    mask = args.mask_column or next((name for name in MASK_COLUMNS if name in images), None)
    for option, column in (("image", args.image_column), ("mask", mask)):
        if column not in images:
            given = f"--{option}_column {column}" if column else f"--{option}_column is not given"
            raise ValueError(
                f"{given}: the dataset has no such column of images; images and masks are both needed. It has: "
                f"{present}."
            )
    columns = {args.image_column: "image", mask: "mask"}
    for role, rows in splits.items():
        rows = rows.select_columns(list(columns)).rename_columns(columns)
        splits[role] = rows.cast(Features({name: Image(decode=False) for name in rows.column_names}))
    return DatasetDict(splits)


def _class_names(args: SegmentationDataArguments) -> list[str] | None:
    if args.class_names and not Path(args.class_names).is_file():
        raise ValueError(f"--class_names {args.class_names}: there is no such file. It holds one name a line.")
    own = (Path(args.dataset, "classes.txt"), Path(args.dataset, ADE20K_CLASSES))
    path = Path(args.class_names) if args.class_names else next((file for file in own if file.is_file()), None)
    if path is None:
        return None
    names = read_lines(path)
    if path.name == ADE20K_CLASSES:  # a table with a heading, whose last column is the name
        names = [line.split("\t")[-1] for line in names[1:]]
    if not 1 < len(names) <= MAX_CLASSES or len(set(names)) < len(names):
        raise ValueError(
            f"{path} has {len(names)} names, {len(set(names))} of them different: it needs 2 to {MAX_CLASSES}, one a "
            "line, each once."
        )
    return names


def _checked_classes(splits: DatasetDict, names: list[str] | None, args: SegmentationDataArguments) -> list[str]:
    """Reads all images and masks, and returns the names of the classes: the given ones, or numbers.

    Raises:
        ValueError: As `_check`.
    """
    found = {split: _check(rows, split, len(names or range(MAX_CLASSES)), args) for split, rows in splits.items()}
    warn_of_turned_images(sum(turned for _, turned in found.values()), sum(map(len, splits.values())))
    if names is None:
        names = [str(number) for number in range(max(max(present) for present, _ in found.values()) + 1)]
        logger.warning("The classes have no names and are taken to be 0 to %s (see --class_names).", names[-1])
    absent = [name for number, name in enumerate(names) if number not in found["train"][0]]
    if absent:
        logger.warning(
            "%d of %d classes have no pixel in the training split: %s. If they should not exist, look at the masks.",
            len(absent),
            len(names),
            first_of(absent),
        )
    return names


def _check(rows: Dataset, split: str, num_classes: int, args: SegmentationDataArguments) -> tuple[set[int], int]:
    """Reads all images and masks of a split.

    Returns:
        The classes that occur in it, and the number of images that are shown turned.

    Raises:
        ValueError: One can't be read, or they do not fit; names the first. Or no pixel counts.
    """
    images = AnnotatedImages(
        rows,
        num_classes=num_classes,
        ignore_index=args.ignore_index,
        reduce_labels=args.reduce_labels,
        image_processor=None,
    )

    def look(index: int) -> tuple[set[int], bool]:
        _, class_map = images.pair(index)
        with open_stored(rows[index]["image"]) as image:
            return set(np.unique(class_map).tolist()), is_turned(image)

    with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter's lock
        looked = list(
            tqdm(pool.map(look, range(len(rows))), f"Reading images and masks ({split})", len(rows), disable=None)
        )
    present = set().union(*(numbers for numbers, _ in looked)) - {UNCOUNTED}
    if not present:
        raise ValueError(
            f"No pixel of the {len(rows)} masks of the {split} split counts: {args.ignore_index} is taken for pixels "
            "that do not (see --ignore_index, --reduce_labels)."
        )
    return present, sum(turned for _, turned in looked)
