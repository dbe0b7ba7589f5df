"""Rows of images as a model takes them."""

from abc import abstractmethod
from random import Random
from typing import Any

import datasets
import PIL.Image
import torch
from torch.utils.data import Dataset
from transformers import BaseImageProcessor, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mona_peft.tasks.data.augmentation import Augmentation
from mona_peft.tasks.data.files import UNREADABLE


class ImageDataset(Dataset):
    """Decoded, augmented and preprocessed images with their annotation.

    The random numbers of an augmentation follow from seed, epoch and row alone: the images are the same with any number
    of workers, and a resumed run sees what it would have seen without the interruption. (State of the global random
    generators would not do: data loaders read ahead of the step at which a checkpoint is written.)

    Args:
        rows: Dataset with the column `image` (not decoded) and what its images are annotated with.
        image_processor: Resizes and normalises.
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
        self.epoch = torch.tensor(0).share_memory_()  # seen by workers, those that outlive an epoch too

    def __len__(self) -> int:
        return len(self.rows)

    def image(self, index: int) -> PIL.Image.Image:
        """Returns the image of a row, decoded to RGB.

        Raises:
            ValueError: The image can't be read; names its file, or its row where it has none.
        """
        return self.decode(index, "image").convert("RGB")

    def decode(self, index: int, column: str) -> PIL.Image.Image:
        """Returns the image in a column of a row, turned as its EXIF data says.

        Raises:
            ValueError: There is none, or it can't be read; names its file, or its row where it has none.
        """
        stored = self.rows[index][column]
        if stored is None:
            raise ValueError(f"There is no {self.name(index, column)}. Mend or remove the row.")
        try:
            return datasets.Image().decode_example(stored)
        except UNREADABLE as error:
            name = self.name(index, column)
            raise ValueError(f"The {name} can't be read ({error}). Replace or remove it.") from error

    def name(self, index: int, column: str = "image") -> str:
        """Returns what a message says of the image in a column of a row: its file, or its row where it has none."""
        return f"{column} {(self.rows[index][column] or {}).get('path') or f'of row {index}'}"

    def random(self, index: int) -> Random:
        """Returns the source of random numbers for a row in this epoch."""
        return Random(f"{self.seed} {self.epoch.item()} {index}")

    @abstractmethod
    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns what the model takes of a row."""


class ImageClassificationDataset(ImageDataset):
    """Images with their `label`."""

    def __getitem__(self, index: int) -> dict[str, torch.Tensor | int]:
        image = self.image(index)
        if self.augmentation is not None:
            image = self.augmentation(image, self.random(index))
        pixel_values = self.image_processor(image, return_tensors="pt")["pixel_values"][0]  # (3, H, W)
        return {"pixel_values": pixel_values, "labels": self.rows[index]["label"]}


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
