"""Some images to train on, as the model sees them: augmented, resized, and with the annotation that it is given."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BaseImageProcessor
from transformers.image_transforms import center_to_corners_format

from mona_peft.tasks.data.dataset import ImageDataset
from mona_peft.tasks.reporting.overlays import (
    overlay_boxes,
    overlay_class_map,
    overlay_masks,
    overlay_text,
    save_grid,
)

PICTURE = "training_images.png"
NUM_PICTURES = 12
NUM_COLUMNS = 4


def write_training_images(output_dir: Path, images: ImageDataset, classes: Sequence[str]) -> Path:
    """Writes `training_images.png`: images from the whole of the data, as they are in the first epoch.

    Args:
        output_dir: Of the run.
        images: To train on.
        classes: Names of the classes.
    """
    chosen = np.unique(np.linspace(0, len(images) - 1, NUM_PICTURES).round().astype(int)).tolist()
    pictures = [draw_inputs(images[index], images.image_processor, classes) for index in chosen]
    path = output_dir / PICTURE
    save_grid(pictures, path, NUM_COLUMNS)
    return path


def draw_inputs(inputs: Mapping[str, Any], image_processor: BaseImageProcessor, classes: Sequence[str]) -> Image.Image:
    """Draws what a model is given of an image, with its annotation in any of the forms of our tasks.

    Args:
        inputs: `pixel_values` (3, H, W), and a class or a vector of classes (C,), a class map (H, W), boxes with their
            classes, or masks (M, H, W) with their classes.
        image_processor: Has made them.
        classes: Names of the classes.
    """
    image = unprocessed(inputs["pixel_values"], image_processor)
    if "mask_labels" in inputs:
        masks = inputs["mask_labels"].numpy() > 0
        return overlay_masks(image, masks, inputs["class_labels"].tolist(), len(classes))
    labels = inputs["labels"]
    if isinstance(labels, Mapping):
        corners = center_to_corners_format(labels["boxes"]) * torch.tensor([image.width, image.height] * 2)
        return overlay_boxes(image, corners.numpy(), labels["class_labels"].tolist(), classes)
    labels = torch.as_tensor(labels)
    if labels.ndim == 2:
        return overlay_class_map(image, labels.numpy(), len(classes))
    numbers = labels.nonzero().flatten() if labels.ndim else labels[None]
    return overlay_text(image, [classes[number] for number in numbers.tolist()] or ["-"])


def unprocessed(pixel_values: torch.Tensor, image_processor: BaseImageProcessor) -> Image.Image:
    """Returns the image that an image processor has normalised.

    Args:
        pixel_values: (3, H, W).
        image_processor: Has made them.
    """
    pixels = pixel_values.permute(1, 2, 0).numpy()
    if image_processor.do_normalize:
        pixels = pixels * np.asarray(image_processor.image_std) + np.asarray(image_processor.image_mean)
    if image_processor.do_rescale:
        pixels = pixels / image_processor.rescale_factor
    return Image.fromarray(np.round(pixels).clip(0, 255).astype(np.uint8))
