"""A tiny pre-trained model and a tiny folder of images, both on disk as a user has them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SwinConfig, SwinForImageClassification, ViTImageProcessorPil

CLASSES = ["blue", "green", "red"]


@pytest.fixture(scope="session")
def swin_folder(tmp_path_factory) -> Path:
    """A random Swin with a head for seven classes, and its image processor."""
    folder = tmp_path_factory.mktemp("swin")
    torch.manual_seed(0)
    config = SwinConfig(image_size=32, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4, num_labels=7)
    SwinForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory) -> Path:
    """Twelve noisy images of each of three colours, in folders by class."""
    folder = tmp_path_factory.mktemp("images")
    write_images(folder, 12)
    return folder


def write_images(folder: Path, per_class: int, classes: list[str] = CLASSES) -> None:
    """Writes noise with one strong colour channel a class, 48 x 40 pixels, to FOLDER/CLASS/NUMBER.png."""
    generator = np.random.default_rng(per_class)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = generator.integers(0, 120, (40, 48, 3), dtype=np.uint8)
            pixels[..., ["red", "green", "blue"].index(name)] += 100
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
