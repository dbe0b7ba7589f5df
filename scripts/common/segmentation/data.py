"""Semantic-segmentation data from the hub, a local folder or the embedded default: checked, in one form."""

import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL.Image
from datasets import Dataset, DatasetDict, Features, Image
from tqdm import tqdm

from scripts.common.images.files import find_images, stored_png
from scripts.common.segmentation.dataset import AnnotatedImages
from scripts.common.splits import SplitArguments, choose_splits, load_named_dataset, validation_size
from scripts.demonstration.scenes import NUM_SCENES, DigitScenes

BACKGROUND = "background"
MAX_CLASSES = 255
"""As many as fit beside the number of pixels that do not count, in 8 bits."""

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
            "help": "Text file, one name of a class a line, class 0 first. Without it: FOLDER/classes.txt, or else "
            "numbers up to the greatest in the masks."
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
        args: What to load.
        seed: Of the split into training and validation images, where the dataset has none.

    Returns:
        Datasets of `image` and `mask`, not decoded, and the names of the classes.

    Raises:
        ValueError: There is no such dataset, something of it is missing, or an image and its mask do not fit. The
            message names the file, or what there is.
    """
    names = None
    if args.dataset is None:
        splits = _digit_scenes()
        names = [BACKGROUND, *DigitScenes.classes]
    elif Path(args.dataset).is_dir() and any(Path(args.dataset, "images").glob("*")):
        splits = _read_folder(Path(args.dataset), args)
    else:
        splits = _read_hub(args)
    if "validation" not in splits:
        size = validation_size(len(splits["train"]), args.validation_fraction)
        parts = splits["train"].train_test_split(test_size=size, seed=seed)
        splits["train"], splits["validation"] = parts["train"], parts["test"]
    names = names or _class_names(args)
    if args.dataset is not None and (args.verify_images or names is None):
        greatest = max(_check(rows, split, names, args) for split, rows in splits.items())
        names = names or [str(number) for number in range(greatest + 1)]
    if len(names) < 2:
        raise ValueError(f"The masks have {len(names)} class(es); two at least are needed (the background is one).")
    return splits, names


def _digit_scenes() -> DatasetDict:
    splits = {}
    for split, count in NUM_SCENES.items():
        scenes = map(DigitScenes(split).scene, range(count))
        splits[split] = scene_maps((scene.image, scene.class_map) for scene in scenes)
    return DatasetDict(splits)


def scene_maps(scenes: Iterable[tuple[PIL.Image.Image, np.ndarray]]) -> Dataset:
    """Returns pictures and their class maps, (H, W) and uint8, as a dataset of `image` and `mask`, not decoded."""
    pairs = [(stored_png(image), stored_png(PIL.Image.fromarray(class_map))) for image, class_map in scenes]
    images, masks = zip(*pairs, strict=True)
    return _rows({"image": list(images), "mask": list(masks)})


def _rows(columns: dict[str, list[dict[str, Any]]]) -> Dataset:
    return Dataset.from_dict(columns, features=Features({name: Image(decode=False) for name in columns}))


def _listing(folder: Path) -> str:
    """Names what is in a folder and in the folders in it."""
    present = sorted(str(path.relative_to(folder)) for path in [*folder.glob("*"), *folder.glob("*/*/")])
    return f"{', '.join(present[:10])}{', ...' if present[10:] else ''}" or "nothing"


def _read_folder(folder: Path, args: SegmentationDataArguments) -> DatasetDict:
    masks = next((folder / name for name in MASK_FOLDERS if (folder / name).is_dir()), None)
    present = sorted(path.name for path in (folder / "images").iterdir() if path.is_dir())
    if masks is None or not present:
        raise ValueError(f"--dataset {folder}: {LAYOUT} It has: {_listing(folder)}.")
    splits = {}
    for role, split in choose_splits(present, args).items():
        images = find_images(folder / "images" / split)
        if not images:
            raise ValueError(f"--dataset {folder}: there is no image in images/{split}. {LAYOUT}")
        by_name = {path.relative_to(masks / split).with_suffix(""): path for path in find_images(masks / split)}
        names = [path.relative_to(folder / "images" / split).with_suffix("") for path in images]
        missing = [path for path, name in zip(images, names, strict=True) if name not in by_name]
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(images)} images of {folder / 'images' / split} have no mask of their name in "
                f"{masks / split}: {', '.join(str(path) for path in missing[:5])}{', ...' if missing[5:] else ''}."
            )
        if surplus := len(by_name) - len(set(names)):
            logger.warning("%d masks in %s have no image and are left out.", surplus, masks / split)
        splits[role] = _rows(
            {
                "image": [{"path": str(path), "bytes": None} for path in images],
                "mask": [{"path": str(by_name[name]), "bytes": None} for name in names],
            }
        )
    return DatasetDict(splits)


def _read_hub(args: SegmentationDataArguments) -> DatasetDict:
    if Path(args.dataset).is_dir() and not any(Path(args.dataset).rglob("*.parquet")):
        raise ValueError(f"--dataset {args.dataset}: {LAYOUT} It has: {_listing(Path(args.dataset))}.")
    dataset = load_named_dataset(args.dataset, args.dataset_config)
    splits = {role: dataset[name] for role, name in choose_splits(dataset, args).items()}
    features = splits["train"].features
    present = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in features.items())
    images = [name for name, feature in features.items() if isinstance(feature, Image)]
    mask = args.mask_column or next((name for name in MASK_COLUMNS if name in images), None)
    for option, column in (("image", args.image_column), ("mask", mask)):
        if column not in images:
            raise ValueError(
                f"--{option}_column {column}: the dataset has no such column of images; images and masks are both "
                f"needed. It has: {present}."
            )
    columns = {args.image_column: "image", mask: "mask"}
    for role, rows in splits.items():
        rows = rows.select_columns(list(columns)).rename_columns(columns)
        splits[role] = rows.cast(Features({name: Image(decode=False) for name in rows.column_names}))
    return DatasetDict(splits)


def _class_names(args: SegmentationDataArguments) -> list[str] | None:
    path = Path(args.class_names) if args.class_names else Path(args.dataset, "classes.txt")
    if not path.is_file():
        if args.class_names:
            raise ValueError(f"--class_names {path}: there is no such file. It holds one name of a class a line.")
        return None
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if len(names) > MAX_CLASSES or len(set(names)) < len(names):
        raise ValueError(f"{path} has {len(names)} names, {len(set(names))} of them different: {MAX_CLASSES} at most.")
    return names


def _check(rows: Dataset, split: str, names: list[str] | None, args: SegmentationDataArguments) -> int:
    """Reads all images and masks of a split, and returns the greatest class that occurs.

    Raises:
        ValueError: One can't be read, or they do not fit; names the first.
    """
    images = AnnotatedImages(rows, args.ignore_index, args.reduce_labels, image_processor=None)
    limit = MAX_CLASSES if names is None else len(names)
    first = int(args.reduce_labels)

    def greatest(index: int) -> int:
        size, class_map = images.image(index).size, images.class_map(index)
        where = rows[index]["mask"]["path"] or f"of row {index} of the {split} split"
        if size != class_map.shape[::-1]:
            raise ValueError(
                f"The mask {where} has {class_map.shape[1]} × {class_map.shape[0]} pixels, its image {size[0]} × "
                f"{size[1]}."
            )
        numbers = np.unique(class_map)
        if wrong := [int(number) + first for number in numbers if number >= limit]:
            raise ValueError(
                f"The mask {where} has the number {wrong[0]}, which is no class. Classes are {first} to "
                f"{limit - 1 + first}, and pixels that do not count have {args.ignore_index}"
                f"{' or 0' if args.reduce_labels else ''} (see --ignore_index, --reduce_labels, --class_names)."
            )
        return int(numbers.max())

    with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter's lock
        checked = pool.map(greatest, range(len(rows)))
        return max(tqdm(checked, f"Reading images and masks ({split})", len(rows), disable=None))
