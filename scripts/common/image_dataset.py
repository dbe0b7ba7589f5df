"""Rows of images as a classifier takes them."""

from random import Random

import datasets
import PIL.Image
import torch
from torch.utils.data import Dataset
from transformers import BaseImageProcessor

from scripts.common.augmentation import Augmentation


class ImageClassificationDataset(Dataset):
    """Decoded, augmented and preprocessed images with their labels.

    The random numbers of an augmentation follow from seed, epoch and row alone: the images are the same with any number
    of workers, and a resumed run sees what it would have seen without the interruption. (State of the global random
    generators would not do: data loaders read ahead of the step at which a checkpoint is written.)

    Args:
        rows: Dataset with the columns `image` (not decoded) and `label`.
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
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the random numbers of an epoch; accelerate's data loader calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.rows)

    def image(self, index: int) -> PIL.Image.Image:
        """Returns the image of a row, decoded to RGB.

        Raises:
            ValueError: The image can't be read; names its file, or its row where it has none.
        """
        stored = self.rows[index]["image"]
        try:
            return datasets.Image().decode_example(stored).convert("RGB")
        except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
            name = stored["path"] or f"of row {index}"
            raise ValueError(f"The image {name} can't be read ({error}). Replace or remove it.") from error

    def __getitem__(self, index: int) -> dict[str, torch.Tensor | int]:
        image = self.image(index)
        if self.augmentation is not None:
            image = self.augmentation(image, Random(f"{self.seed} {self.epoch} {index}"))
        pixel_values = self.image_processor(image, return_tensors="pt")["pixel_values"][0]  # (3, H, W)
        return {"pixel_values": pixel_values, "labels": self.rows[index]["label"]}
