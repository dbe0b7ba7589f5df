"""How images become the input of an exported model, of which the size is fixed: done, and described in JSON."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from transformers import BaseImageProcessor

from mona_peft.tasks.data.decoding import Decoding
from mona_peft.tasks.data.files import find_images
from mona_peft.tasks.data.stored import UNREADABLE
from mona_peft.tasks.prediction.inputs import InputImage, find_inputs

NUM_IMAGES = 4
"""How many images a file is checked with."""


class FixedSize:
    """Prepares images in one size.

    Args:
        image_processor: Of the model.
        size: (height, width) in pixels. None: the size that the image processor gives all images.

    Raises:
        ValueError: It gives images several sizes, and none is told.
    """

    def __init__(self, image_processor: BaseImageProcessor, size: tuple[int, int] | None = None) -> None:
        self.image_processor = image_processor
        own = _own_size(image_processor)
        if size is None and own is None:
            raise ValueError(
                f"The image processor resizes images to several sizes ({dict(image_processor.size)}), and an exported "
                "model takes one. Give --image_size HEIGHT WIDTH."
            )
        self.size = size or own
        self.by_itself = self.size == own

    def __call__(self, images: Sequence[PIL.Image.Image]) -> torch.Tensor:
        """Returns images in RGB as a batch, (B, 3, H, W)."""
        if self.by_itself:
            return self._stack([self.image_processor(image, return_tensors="pt") for image in images])
        resample = PIL.Image.Resampling(self.image_processor.resample)
        resized = (image.resize(self.size[::-1], resample) for image in images)
        return self._stack(
            [
                self.image_processor(image, return_tensors="pt", do_resize=False, **self._neither_cut_nor_filled())
                for image in resized
            ]
        )

    def describe(self) -> dict[str, Any]:
        """Returns the steps from a decoded image to the input, in their order."""
        processor, (height, width) = self.image_processor, self.size
        crops = self.by_itself and getattr(processor, "do_center_crop", False)
        steps: list[dict[str, Any]] = [
            {"decode": {"colours": "RGB", "turned_as_exif_says": True, **Decoding.of(processor).chosen()}},
            {
                "resize": {
                    **(dict(processor.size) if self.by_itself else {"height": height, "width": width}),
                    "resample": PIL.Image.Resampling(processor.resample).name.lower(),
                    "antialias": True,  # Pillow does so
                }
            },
        ]
        if crops:
            steps.append({"center_crop": dict(processor.crop_size)})
        if processor.do_rescale:
            steps.append({"multiply": processor.rescale_factor})
        if processor.do_normalize:
            steps.append({"normalize": {"mean": list(processor.image_mean), "std": list(processor.image_std)}})
        return {"steps": steps, "image_processor": processor.to_dict()}

    def _neither_cut_nor_filled(self) -> dict[str, bool]:
        return {name: False for name in ("do_center_crop", "do_pad") if getattr(self.image_processor, name, False)}

    def _stack(self, prepared: Sequence[Any]) -> torch.Tensor:
        return torch.cat([one["pixel_values"] for one in prepared])


def _own_size(image_processor: BaseImageProcessor) -> tuple[int, int] | None:
    """Returns the one (height, width) that an image processor gives all images."""
    size = image_processor.size
    if getattr(image_processor, "do_center_crop", False):
        size = image_processor.crop_size
    if size.get("height") and size.get("width"):
        return size["height"], size["width"]
    return None


def check_images(
    given: Sequence[str], dataset: str | None, size: tuple[int, int], decoding: Decoding | None = None
) -> tuple[list[PIL.Image.Image], str]:
    """Returns the images that a file is checked with, at least two, and what a message says of them.

    Args:
        given: Files and folders of the user.
        dataset: What the model was trained on: images of it are taken where it is a folder and none are given.
        size: (height, width) of noise, for want of both.
        decoding: How images are read that are no 8-bit RGB.

    Raises:
        ValueError: Those given are not there, or can't be read.
    """
    if given:
        inputs, words = find_inputs(given)[:NUM_IMAGES], "the given images"
    elif dataset and Path(dataset).is_dir():
        paths = find_images(Path(dataset))[:NUM_IMAGES]
        inputs, words = [InputImage(path, path.stem) for path in paths], f"images of {dataset}"
    else:
        inputs, words = [], ""
    images = []
    for source in inputs:
        try:
            images.append(source.read(decoding))
        except UNREADABLE as error:
            raise ValueError(f"{source.path} can't be read ({error}). Choose other images with --images.") from error
    if not images:
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (NUM_IMAGES, *size, 3), generator=generator, dtype=torch.uint8)
        images, words = [PIL.Image.fromarray(image.numpy()) for image in pixels], "noise (give images by --images)"
    return images * (2 if len(images) == 1 else 1), words
