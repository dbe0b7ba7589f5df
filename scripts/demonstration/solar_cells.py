"""ELPV: 2,624 real electroluminescence images of solar cells, judged by experts.

S. Deitsch et al., "Automatic classification of defective photovoltaic module cells in electroluminescence images",
Solar Energy 2019 (arXiv 1807.02894), and C. Buerhop-Lutz et al., "A benchmark for visual identification of defective
solar cells in electroluminescence imagery", EU PVSEC 2018. The images are under CC BY-NC-SA 4.0: they are downloaded by
the user, and nothing of them is stored in this repository but figures that show a few of them, with that licence.
"""

import io
import zipfile
from dataclasses import dataclass

import numpy as np
from PIL import Image
from sklearn.model_selection import train_test_split

from scripts.demonstration.wheels import Wheel, wheel_file

ELPV = Wheel(
    requirement="elpv-dataset==1.0.0.post1",
    sha256="85e31c1126ee9b48e62d3a0232c58f58b2d189b0814a45c13642fa0415af4a4c",
    licence="CC BY-NC-SA 4.0",
    megabytes=91,
)
CLASSES = ("functional", "defective")
LEVELS = ("functional", "functional, unsure", "defective, unsure", "defective")
NUM_TEST = 656
"""Test cells, as many as in Deitsch et al., who train on the other 1,968. Which ones they took is not published."""

SPLIT_SEED = 2026
"""Draws the test cells, once for all."""

PUBLISHED = {"SVM": 0.8244, "VGG-19, fine-tuned": 0.8842}
"""Accuracies of Deitsch et al. (arXiv 1807.02894)."""


@dataclass(frozen=True)
class SolarCells:
    """Cells in the order of the dataset's table.

    Attributes:
        images: (N, 300, 300), grey levels.
        probabilities: (N,), of a defect: 0, 1/3, 2/3 or 1. Experts said whether a cell is functional or defective, and
            whether they are sure; 1/3 is "functional, unsure".
        kinds: (N,), `"mono"` or `"poly"`: the crystals of the cell's silicon.
    """

    images: np.ndarray
    probabilities: np.ndarray
    kinds: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        """(N,), 1 where the experts said defective, sure or not."""
        return (self.probabilities > 0.5).astype(np.int64)

    @property
    def levels(self) -> np.ndarray:
        """(N,), which of `LEVELS` the experts chose."""
        return np.rint(3 * self.probabilities).astype(np.int64)


def load_solar_cells() -> SolarCells:
    """Reads all cells, from the cache of the user or downloaded.

    Raises:
        OSError, ValueError: As `wheel_file`.
    """
    with zipfile.ZipFile(wheel_file(ELPV)) as archive:
        rows = [line.split() for line in archive.read("elpv_dataset/data/labels.csv").decode().splitlines() if line]
        pictures = [Image.open(io.BytesIO(archive.read(f"elpv_dataset/data/{path}"))).convert("L") for path, *_ in rows]
    images = np.stack([np.asarray(picture) for picture in pictures])
    thirds = np.array([round(3 * float(probability)) for _, probability, _ in rows])
    return SolarCells(images, thirds / 3, np.array([kind for *_, kind in rows]))


def split(cells: SolarCells, seed: int = SPLIT_SEED) -> tuple[np.ndarray, np.ndarray]:
    """Draws 656 test cells, with as many of each probability and kind as in the whole.

    Returns:
        Numbers of the training and of the test cells, ascending.
    """
    return _draw(cells, np.arange(len(cells.images)), NUM_TEST, seed)


def subset(cells: SolarCells, numbers: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Draws some of the given cells, with as many of each probability and kind as among them; numbers, ascending."""
    return _draw(cells, numbers, size, seed)[1] if size < len(numbers) else numbers


def _draw(cells: SolarCells, numbers: np.ndarray, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    groups = [f"{kind} {probability:.2f}" for kind, probability in zip(cells.kinds, cells.probabilities, strict=True)]
    rest, drawn = train_test_split(numbers, test_size=size, random_state=seed, stratify=np.array(groups)[numbers])
    return np.sort(rest), np.sort(drawn)
