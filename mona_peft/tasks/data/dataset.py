"""Rows of images as a model takes them."""

from abc import abstractmethod
from collections.abc import Mapping
from random import Random
from typing import Any

import datasets
import PIL.Image
import torch
from torch.utils.data import Dataset
from transformers import BaseImageProcessor, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mona_peft.tasks.data.augmentation import Augmentation, Sample
from mona_peft.tasks.data.decoding import Decoding, read_image
from mona_peft.tasks.data.stored import UNREADABLE


class ImageDataset(Dataset):
    """Decoded, augmented and preprocessed images with their annotation.

    The random numbers of an augmentation follow from seed, epoch and row alone: the images are the same with any number
    of workers, and a resumed run sees what it would have seen without the interruption. (State of the global random
    generators would not do: data loaders read ahead of the step at which a checkpoint is written.)

    Args:
        rows: Dataset with the column `image` (not decoded) and what its images are annotated with.
        image_processor: Resizes and normalises; knows how pictures are read that are no 8-bit RGB (`Decoding`).
        augmentation: Applied to each decoded image.
        seed: Of the augmentation.
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        image_processor: BaseImageProcessor,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        self.rows = rows
        self.image_processor = image_processor
        self.augmentation = augmentation
        self.seed = seed
        self.decoding = Decoding.of(image_processor)
        self.epoch = torch.tensor(0).share_memory_()  # seen by workers, those that outlive an epoch too

    def __len__(self) -> int:
        return len(self.rows)

    def image(self, index: int) -> PIL.Image.Image:
        """Returns the image of a row, decoded to RGB.

        Raises:
            ValueError: The image can't be read; names its file, or its row where it has none.
        """
        return self.decode(self.rows[index], index)

    def decode(self, row: Mapping[str, Any], index: int, least: int | None = None) -> PIL.Image.Image:
        """Returns the image of a row that was fetched already, in RGB and turned as its EXIF data says.

        Args:
            row: The row.
            index: Its number.
            least: As many pixels its shorter side must keep; a large JPEG is then decoded at a part of its size.

        Raises:
            ValueError: There is none, or it can't be read; names its file, or its row where it has none.
        """
        stored = row["image"]
        if stored is None:
            raise ValueError(f"There is no {self.named(row, index)}. Mend or remove the row.")
        try:
            return read_image(stored, self.decoding, least)
        except UNREADABLE as error:
            raise ValueError(f"The {self.named(row, index)} can't be read ({error}). Replace or remove it.") from error

    def least_side(self, index: int) -> int | None:
        """Returns how many pixels the shorter side of a training image must keep: its crop is shrunk anyway.

        None where nothing is changed at random, as in evaluation: images are then read at their full size.
        """
        if self.augmentation is None:
            return None
        return self.augmentation.least_side(_side(self.image_processor), self.random(index))

    def name(self, index: int) -> str:
        """Returns what a message says of the image of a row: its file, or its row where it has none."""
        return self.named(self.rows[index], index)

    @staticmethod
    def named(row: Mapping[str, Any], index: int, column: str = "image") -> str:
        """Returns what a message says of the image in a column of a row: its file, or its row where it has none."""
        return f"{column} {(row[column] or {}).get('path') or f'of row {index}'}"

    def random(self, index: int) -> Random:
        """Returns the source of random numbers for a row in this epoch."""
        return Random(f"{self.seed} {self.epoch.item()} {index}")

    @abstractmethod
    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns what the model takes of a row."""


class ImageClassificationDataset(ImageDataset):
    """Images with their `label`: a class, or a list of classes where an image may show several.

    Several classes become a vector with a one for each, as `problem_type="multi_label_classification"` takes them.
    """

    def __getitem__(self, index: int) -> dict[str, torch.Tensor | int]:
        row = self.rows[index]
        image = self.decode(row, index, self.least_side(index))
        if self.augmentation is not None:
            image = self.augmentation(Sample(image), self.random(index)).image
        pixel_values = self.image_processor(image, return_tensors="pt")["pixel_values"][0]  # (3, H, W)
        label = row["label"]
        if isinstance(label, list):
            present = torch.zeros(self.rows.features["label"].feature.num_classes)
            present[label] = 1
            label = present
        return {"pixel_values": pixel_values, "labels": label}


def _side(image_processor: BaseImageProcessor) -> int:
    """Returns how many pixels the shorter side of an image needs for what the image processor makes of it."""
    sizes = [dict(getattr(image_processor, name, None) or {}) for name in ("size", "crop_size")]
    # Where the shorter side is given, the longer one is what the ratio of the sides makes of it, or less.
    sides = [size.get("shortest_edge") or max((side for side in size.values() if side), default=1) for size in sizes]
    divisor = getattr(image_processor, "size_divisor", None) or 1
    return -(-max(sides) // divisor) * divisor


class EpochCallback(TrainerCallback):
    """Tells the training images which epoch it is.

    accelerate's data loaders tell a dataset too, but not when they skip the batches before a checkpoint, nor when
    several processes share the data.

    Args:
        images: The training images.
    """

    def __init__(self, images: ImageDataset) -> None:
        self.images = images

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Sets the epoch, counted from 0; a resumed run begins within one."""
        self.images.epoch.fill_(int(state.epoch or 0))
