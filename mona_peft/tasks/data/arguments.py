"""What a user says of data, whatever the task."""

from dataclasses import dataclass, field
from typing import Any, Literal

from datasets import DatasetDict, concatenate_datasets

from mona_peft.tasks.data.checks import check_images, logger, read_headers, tell_of
from mona_peft.tasks.data.decoding import Decoding
from mona_peft.tasks.data.deep_pixels import find_pixel_range
from mona_peft.tasks.data.hub import HubArguments
from mona_peft.tasks.data.splits import SplitArguments
from mona_peft.tasks.data.stored import Header, are_files

MOST_OPENED = 2000
"""Of how many rows of a table pictures are opened, to see whether they have more than 8 bits."""


@dataclass
class SharedDataArguments(SplitArguments, HubArguments):
    """Which images, and how they are read and changed."""

    dataset: str | None = field(default=None, metadata={"help": "Folder, file of a table, or name on the hub."})
    pixel_range: list[float] | None = field(
        default=None,
        metadata={
            "help": "Images of more than 8 bits a channel: the values that become black and white. Without it those "
            "that the files name, else 0.1 and 99.9 percent of the training images' pixels lie below them."
        },
    )
    channels: list[int] | None = field(
        default=None,
        metadata={"help": "Images of many channels: three that become red, green and blue, or one, from 0."},
    )
    verify_images: bool = field(
        default=False,
        metadata={"help": "Read every image to its end before training starts, not only the heads of the files."},
    )
    augmentation: Literal["none", "light", "standard", "strong"] = field(
        default="light",
        metadata={
            "help": "Of training images. light: crops and mirroring; standard: brightness, contrast and saturation, "
            "too; strong: more of all that, RandAugment's changes of colours, and erased rectangles."
        },
    )
    horizontal_flip: bool | None = field(
        default=None,
        metadata={
            "help": "Mirror half of the training images. Say false for digits, text and whatever else has a left and a "
            "right. Without it: on every level of --augmentation but none."
        },
    )
    dry_run: bool = field(
        default=False,
        metadata={
            "help": "Read all data, print what was understood and what is odd, draw ten images with their annotation "
            "into --output_dir, and stop."
        },
    )


def choose_decoding(splits: DatasetDict, args: SharedDataArguments) -> Decoding:
    """Decides how images are read that are no 8-bit RGB, and says so where it comes of the data.

    Args:
        splits: With `train`, whose images decide.
        args: What the user wants.

    Raises:
        ValueError: An option has no meaning, or images can't be read without one.
    """
    channels = None if args.channels is None else tuple(args.channels)
    if args.pixel_range is not None:
        return Decoding(tuple(args.pixel_range), channels)
    Decoding(channels=channels)
    images = splits["train"].select_columns("image")
    step = -(-len(images) // MOST_OPENED)
    found = find_pixel_range([row["image"] for row in images.select(range(0, len(images), step))], channels)
    if found is None:
        return Decoding(channels=channels)
    (black, white), told = found
    logger.warning(
        "%s: %g becomes black and %g white, in training, evaluation and predictions. (--pixel_range says otherwise.)",
        told,
        black,
        white,
    )
    return Decoding((black, white), channels)


def keep_decoding(image_processor: Any, splits: DatasetDict, args: SharedDataArguments) -> None:
    """Notes with a model's image processor how images are read that are no 8-bit RGB, unless it knows already.

    Args:
        image_processor: Of the model; it is saved beside the weights.
        splits: Where `train` is among them, its images decide.
        args: What the user wants.
    """
    if "train" in splits and (Decoding.of(image_processor) == Decoding() or args.pixel_range or args.channels):
        choose_decoding(splits, args).keep(image_processor)


def check_pictures(splits: DatasetDict, args: SharedDataArguments, annotated: bool) -> dict[str, list[Header]]:
    """Looks at the images of all splits before anything is trained: at the heads of files, or at all of them.

    Args:
        splits: Rows of `image`, not decoded.
        args: Whether images are read to their end.
        annotated: Whether there are annotations of places in the images.

    Returns:
        What the heads of the files say, by split; nothing of pictures that lie in a table.

    Raises:
        ValueError: Some can't be read; names them.
    """
    files = {
        split: [row["image"] for row in rows.select_columns("image")] if are_files(rows) else []
        for split, rows in splits.items()
    }
    if args.verify_images:
        names = [
            ((files[split] and files[split][row]) or {}).get("path") or f"row {row} of the {split} split"
            for split, rows in splits.items()
            for row in range(len(rows))
        ]
        check_images(concatenate_datasets([rows.select_columns("image") for rows in splits.values()]), names)
    headers = {}
    for split, pictures in files.items():
        pictures = [picture for picture in pictures if picture and picture["bytes"] is None]
        headers[split] = read_headers(pictures, [picture["path"] for picture in pictures])
    tell_of([header for some in headers.values() for header in some], annotated)
    return headers
