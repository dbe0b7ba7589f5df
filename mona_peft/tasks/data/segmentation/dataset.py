"""Images with class maps as a segmentation model takes them, for training and for evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import datasets
import numpy as np
import PIL.Image
import torch
from transformers import BaseImageProcessor

from mona_peft.tasks.data.augmentation import Augmentation
from mona_peft.tasks.data.dataset import ImageDataset
from mona_peft.tasks.data.segmentation.masks import UNCOUNTED, MaskReading
from mona_peft.tasks.data.stored import UNREADABLE, read_header

IGNORE_INDEX = 255
"""The same for models and image processors."""

STACKED = ("index", "pixel_values", "pixel_mask", "labels")
"""What a batch holds as one tensor, where its images are of one size."""

MAX_ATTEMPTS = 10


def model_inputs(
    image_processor: BaseImageProcessor, image: PIL.Image.Image, class_map: np.ndarray
) -> dict[str, torch.Tensor]:
    """Returns what a model takes of an image: `pixel_values` (3, H, W), and the annotation in its own form.

    Args:
        image_processor: Of the model.
        image: In RGB.
        class_map: (H, W) classes, `UNCOUNTED` for pixels that do not count.
    """
    labels = np.where(class_map == UNCOUNTED, IGNORE_INDEX, class_map).astype(np.uint8)
    as_they_are = {"do_resize": False, "return_tensors": "pt"}
    if hasattr(image_processor, "post_process_instance_segmentation"):  # of a model of masks
        batch = image_processor(image, segmentation_maps=labels, do_reduce_labels=False, **as_they_are)
    else:  # SegFormer's image processor of transformers 5.9 to 5.16 wants torchvision for maps
        batch = image_processor(image, **as_they_are) | {"labels": torch.from_numpy(labels).long()[None]}
    return {name: values[0] for name, values in batch.items()}


class AnnotatedImages(ImageDataset):
    """Images and their class maps.

    Args:
        rows: Dataset of `image` and `mask`, not decoded.
        num_classes: Number of classes.
        masks: How masks become class maps.
        keyword arguments: Of `ImageDataset`; without an image processor, images and class maps can be read.
    """

    def __init__(
        self, rows: datasets.Dataset, *, num_classes: int, masks: MaskReading | None = None, **kwargs: Any
    ) -> None:
        super().__init__(rows, **kwargs)
        self.num_classes = num_classes
        self.masks = masks or MaskReading()

    def pair(self, index: int, least: int | None = None) -> tuple[PIL.Image.Image, np.ndarray]:
        """Returns the image of a row, in RGB, and its `class_map`, after checking that they fit.

        Args:
            index: Number of the row.
            least: As many pixels the shorter side must keep; a large JPEG is then read at a part of its size.

        Raises:
            ValueError: One can't be read, they differ in size, or a class is out of range; names file or row.
        """
        row = self.rows[index]
        image, class_map = self.decode(row, index, least), self._checked(row, index)
        size = image.size if least is None else read_header(row["image"]).size
        if size != class_map.shape[::-1]:
            raise ValueError(
                f"The {self.named(row, index, 'mask')} has {class_map.shape[1]} × {class_map.shape[0]} pixels, its "
                f"image {size[0]} × {size[1]}. (Images are turned as their EXIF data says.)"
            )
        return image, class_map

    def class_map(self, index: int) -> np.ndarray:
        """Returns the (H, W) classes of the pixels of a row, `UNCOUNTED` for those that do not count; int32.

        Raises:
            ValueError: The mask can't be read, or is of a kind that holds no classes; names its file, or its row.
        """
        return self._class_map(self.rows[index], index)

    def checked_class_map(self, index: int) -> np.ndarray:
        """Returns the `class_map` of a row, after checking that its classes are in range.

        Raises:
            ValueError: A class is out of range, or the mask can't be read; names its file, or its row.
        """
        return self._checked(self.rows[index], index)

    def _class_map(self, row: Mapping[str, Any], index: int) -> np.ndarray:
        name = self.named(row, index, "mask")
        if row["mask"] is None:
            raise ValueError(f"There is no {name}. Mend or remove the row.")
        try:
            return self.masks.class_map(row["mask"], name)
        except ValueError:
            raise
        except UNREADABLE as error:
            raise ValueError(f"The {name} can't be read ({error}). Replace or remove it.") from error

    def _checked(self, row: Mapping[str, Any], index: int) -> np.ndarray:
        class_map = self._class_map(row, index)
        wrong = class_map[(class_map >= self.num_classes) | (class_map < UNCOUNTED)]
        if wrong.size:
            first = int(self.masks.reduce_labels)
            raise ValueError(
                f"The {self.named(row, index, 'mask')} has the number {wrong.min() + first}, which is no class. "
                f"Classes are {first} to {self.num_classes - 1 + first}, and pixels that do not count have "
                f"{self.masks.ignore_index}{' or 0' if first else ''} (see --ignore_index, --reduce_labels, "
                "--class_names)."
            )
        return class_map

    def inputs(self, image: PIL.Image.Image, class_map: np.ndarray) -> dict[str, torch.Tensor]:
        """Returns what the model takes of an image: `pixel_values` (3, H, W), and the annotation in its own form."""
        return model_inputs(self.image_processor, image, class_map)


@dataclass(frozen=True)
class ScaleAndCrop:
    """Random scale, crop and flip of an image and its class map, as segmentation models are trained.

    Attributes:
        image_size: Length of the shorter side at scale 1, in pixels.
        scales: Least and greatest scale.
        crop_size: Side of the result in pixels. What an image lacks is filled with `fill`, and does not count.
        flip: Whether half of the images are mirrored left to right.
        max_class_share: No class covers more of the crop; after `MAX_ATTEMPTS` crops the last is taken as it is.
        fill: Colour of what an image lacks.
        colours: What is changed of the crop's looks.
    """

    image_size: int
    scales: tuple[float, float]
    crop_size: int
    flip: bool
    max_class_share: float
    fill: tuple[int, int, int]
    colours: Augmentation | None = None

    def least_side(self, random: Random) -> int:
        """Returns how many pixels the shorter side of an image needs so that it is not enlarged.

        Args:
            random: In the state in which this will be given it.
        """
        return round(self.image_size * random.uniform(*self.scales))

    def __call__(
        self, image: PIL.Image.Image, class_map: np.ndarray, random: Random
    ) -> tuple[PIL.Image.Image, np.ndarray]:
        """Returns image and class map of `crop_size` x `crop_size` pixels."""
        image = resize_shorter_side(image, round(self.image_size * random.uniform(*self.scales)))
        class_map = resize_class_map(class_map, image.size)
        right, bottom = (max(length, self.crop_size) for length in image.size)
        if (right, bottom) != image.size:
            padded = PIL.Image.new("RGB", (right, bottom), self.fill)
            padded.paste(image)
            image = padded
            missing = [(0, bottom - class_map.shape[0]), (0, right - class_map.shape[1])]
            class_map = np.pad(class_map, missing, constant_values=UNCOUNTED)
        for _ in range(MAX_ATTEMPTS):
            left, top = (random.randint(0, length - self.crop_size) for length in image.size)
            crop = class_map[top : top + self.crop_size, left : left + self.crop_size]
            counts = np.bincount(crop[crop != UNCOUNTED])
            if counts.any() and counts.max() <= self.max_class_share * counts.sum():
                break
        image = image.crop((left, top, left + self.crop_size, top + self.crop_size))
        if self.colours is not None:
            image = self.colours.change_colours(image, random)
        if self.flip and random.random() < 0.5:
            return image.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT), crop[:, ::-1]
        return image, crop


class TrainingImages(AnnotatedImages):
    """Augmented images and class maps, all of one size; `augmentation` is a `ScaleAndCrop`."""

    def least_side(self, index: int) -> int:
        """Returns how many pixels the shorter side of an image must keep in this epoch."""
        return self.augmentation.least_side(self.random(index))

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        image, class_map = self.augmentation(*self.pair(index, self.least_side(index)), self.random(index))
        return self.inputs(image, class_map)


class EvaluationImages(AnnotatedImages):
    """Images at a given size of the shorter side, and their class maps as they are.

    Args:
        image_size: Length of the shorter side, in pixels.
        arguments: Of `AnnotatedImages`.
    """

    def __init__(self, *args: Any, image_size: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.image_size = image_size

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        image, class_map = self.pair(index)
        image = resize_shorter_side(image, self.image_size)
        return {
            "index": torch.tensor(index),  # first: Trainer takes the length of the first tensor for the batch size
            **self.inputs(image, resize_class_map(class_map, image.size)),
            "truth": torch.from_numpy(class_map.astype(np.int64)),
        }


def collate(samples: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor | list[torch.Tensor]]:
    """Makes a batch: of images of several sizes, and of annotations of several lengths, a list."""
    batch: dict[str, torch.Tensor | list[torch.Tensor]] = {}
    for name in samples[0]:
        values = [sample[name] for sample in samples]
        even = name in STACKED and len({value.shape for value in values}) == 1
        batch[name] = torch.stack(values) if even else values
    return batch


def resize_shorter_side(image: PIL.Image.Image, length: int) -> PIL.Image.Image:
    """Resizes an image so that its shorter side has `length` pixels; the ratio of the sides stays."""
    scale = length / min(image.size)
    size = tuple(max(1, round(side * scale)) for side in image.size)
    return image if size == image.size else image.resize(size, PIL.Image.Resampling.BILINEAR)


def resize_class_map(class_map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes a class map to (width, height), each pixel that of the nearest."""
    if size == class_map.shape[::-1]:
        return class_map
    return np.array(PIL.Image.fromarray(class_map).resize(size, PIL.Image.Resampling.NEAREST))
