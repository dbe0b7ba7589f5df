"""What a user says of images and masks."""

from dataclasses import dataclass, field
from typing import Literal

from mona_peft.tasks.data.arguments import SharedDataArguments

MASK_COLUMNS = ("mask", "annotation", "label", "labels", "segmentation_mask", "semantic_segmentation")
"""Usual names of the column of masks, of a dataset of the hub."""


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
