"""What the benchmark of loaders reads: photographs, and the pipelines that prepare them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import numpy as np
import torch
from datasets import ClassLabel
from PIL import Image
from torch.utils.data import Dataset
from transformers import (
    Mask2FormerImageProcessorPil,
    RTDetrImageProcessorPil,
    ViTImageProcessorPil,
)
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from mona_peft.tasks.data.augmentation import augmentation, random_box
from mona_peft.tasks.data.dataset import ImageClassificationDataset, ImageDataset
from mona_peft.tasks.data.objects.check import mask_rle
from mona_peft.tasks.data.objects.detection import ObjectDetectionDataset
from mona_peft.tasks.data.objects.instances import InstanceDataset
from mona_peft.tasks.data.objects.loading import objects_features
from mona_peft.tasks.data.segmentation.dataset import ScaleAndCrop, TrainingImages
from mona_peft.tasks.data.stored import picture_files, picture_rows, stored_file, stored_png

SIDE, DENSE_SIDE = 224, 640
"""Of what a model takes, in pixels: for classes, and for boxes and masks."""

NUM_OBJECTS = 8


def photograph(path: Path, size: tuple[int, int], seed: int) -> Path:
    """Writes a JPEG of patches of all sizes, of about as many bytes as a camera makes of so many pixels."""
    random, (width, height) = np.random.default_rng(seed), size
    picture = np.zeros((height, width, 3), np.float32)
    for cells in (4, 16, 64, 256):
        coarse = random.integers(0, 255, (cells * height // width + 1, cells, 3), dtype=np.uint8)
        picture += np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC), np.float32) / 4
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return path


class Prepared(Dataset):
    """Files as another pipeline prepares them.

    Args:
        paths: The files.
        prepare: From a picture in RGB to what the model takes.
    """

    def __init__(self, paths: Sequence[Path], prepare: Callable[[Image.Image], torch.Tensor]) -> None:
        self.paths = paths
        self.prepare = prepare

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.prepare(Image.open(self.paths[index]).convert("RGB"))


def with_pillow(image: Image.Image) -> torch.Tensor:
    """The steps of transformers' example: random resized crop, mirroring, tensor, normalisation."""
    random = Random()
    image = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=random_box(image.size, random, 0.08))
    if random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return normalised(image)


def normalised(image: Image.Image) -> torch.Tensor:
    """A picture as a tensor of values from -1 to 1."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255).sub(0.5).div(0.5)


def with_torchvision() -> Callable[[Image.Image], torch.Tensor] | None:
    """Returns the transforms of transformers' example; None where there is no torchvision."""
    try:
        from torchvision import transforms
    except ImportError:
        return None
    steps = [transforms.RandomResizedCrop(SIDE), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    return transforms.Compose([*steps, transforms.Normalize([0.5] * 3, [0.5] * 3)])


def pipelines(paths: Sequence[Path]) -> dict[str, Dataset]:
    """Returns what is compared on image classification, by name."""
    task = "image-classification"
    named: dict[str, Dataset] = {"ours": task_images(task, paths), "ours, no drafts": task_images(task, paths, False)}
    if (torchvision := with_torchvision()) is not None:
        named["transformers' example, torchvision"] = Prepared(paths, torchvision)
    named["transformers' example, in Pillow"] = Prepared(paths, with_pillow)
    named["decoding alone"] = Prepared(paths, lambda image: torch.zeros(1))
    return named


def task_images(task: str, paths: Sequence[Path], drafts: bool = True) -> ImageDataset:
    """Returns the training images of a task, as `train` makes them with `--augmentation light`.

    Args:
        task: Its name on the command line.
        paths: JPEGs, all of one size.
        drafts: Whether large ones are read at a part of their size.
    """
    images = MAKE[task](paths, Image.open(paths[0]).size)
    if not drafts:
        images.decode = lambda row, index, least=None: type(images).decode(images, row, index)
    return images


def _square(side: int) -> dict[str, dict[str, int]]:
    return {"size": {"height": side, "width": side}}


def _classes(paths: Sequence[Path], size: tuple[int, int]) -> ImageDataset:
    rows = picture_files(paths).add_column("label", [0] * len(paths), feature=ClassLabel(names=["a", "b"]))
    return ImageClassificationDataset(rows, ViTImageProcessorPil(**_square(SIDE)), augmentation("light"))


def _class_maps(paths: Sequence[Path], size: tuple[int, int]) -> ImageDataset:
    mask = stored_png(Image.fromarray((np.indices(size[::-1]).sum(0) // 256 % 8).astype(np.uint8)))
    rows = picture_rows(image=[stored_file(path) for path in paths], mask=[mask] * len(paths))
    changes = ScaleAndCrop(512, (0.5, 2.0), 512, True, 0.75, (0, 0, 0), augmentation("light"))
    return TrainingImages(
        rows, num_classes=8, image_processor=SegformerImageProcessorPil(do_reduce_labels=False), augmentation=changes
    )


def _objects(paths: Sequence[Path], size: tuple[int, int], with_masks: bool) -> ImageDataset:
    (width, height), random = size, np.random.default_rng(0)
    corners = random.uniform(0, 0.7, (NUM_OBJECTS, 2)) * size
    boxes = [[float(x), float(y), width / 5, height / 5] for x, y in corners]
    objects = {"bbox": boxes, "category": [0] * NUM_OBJECTS, "area": [width * height / 25] * NUM_OBJECTS}
    objects["iscrowd"] = [False] * NUM_OBJECTS
    if with_masks:
        polygons = [[[x, y, x + w, y, x + w / 2, y + h]] for x, y, w, h in boxes]
        objects["mask"] = [mask_rle(polygon, width, height, "a mask")["counts"].decode() for polygon in polygons]
    rows, features = picture_files(paths), objects_features(["a"], with_masks)
    columns = {"image_id": list(range(len(paths))), "width": [width] * len(paths), "height": [height] * len(paths)}
    for name, values in {**columns, "objects": [objects] * len(paths)}.items():
        rows = rows.add_column(name, values, feature=features[name])
    kind, processor = (
        (InstanceDataset, Mask2FormerImageProcessorPil)
        if with_masks
        else (ObjectDetectionDataset, RTDetrImageProcessorPil)
    )
    return kind(rows, processor(**_square(DENSE_SIDE)), augmentation("light"))


MAKE: dict[str, Callable[[Sequence[Path], tuple[int, int]], ImageDataset]] = {
    "image-classification": _classes,
    "semantic-segmentation": _class_maps,
    "object-detection": lambda paths, size: _objects(paths, size, with_masks=False),
    "instance-segmentation": lambda paths, size: _objects(paths, size, with_masks=True),
}
