"""Moved to `mona_peft.tasks.data.dataset`."""

from mona_peft.tasks.data.dataset import ImageClassificationDataset, ImageDataset

__all__ = ["ImageClassificationDataset", "ImageDataset"]
