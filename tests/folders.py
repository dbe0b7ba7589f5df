"""Images on disk as a user has them."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ["blue", "green", "red"]


def write_images(folder: Path, per_class: int, classes: list[str] = CLASSES) -> None:
    """Writes noise with one strong colour channel a class, 48 x 40 pixels, to FOLDER/CLASS/NUMBER.png."""
    generator = np.random.default_rng(per_class)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = generator.integers(0, 120, (40, 48, 3), dtype=np.uint8)
            pixels[..., ["red", "green", "blue"].index(name)] += 100
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
