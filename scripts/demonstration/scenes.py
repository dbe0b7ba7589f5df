"""Scenes of several objects over a photograph, with an exact mask of each: the data of the dense demonstration tasks.

The parts are those of the classification task: handwritten digits, or printed letters, which the demonstration
backbone knows. Boxes and class maps follow from the masks.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import ClassVar

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from scripts.demonstration import digits, symbols
from scripts.demonstration.overlay import Variation, overlay
from scripts.demonstration.photographs import exchange_colours, random_background

DIGIT_SCENES = "scenes of handwritten digits over photographs (embedded default)"
NUM_SCENES = {"train": 2000, "validation": 200, "test": 400}
"""How many scenes of digits each split of the embedded default has."""

IMAGE_SIZE = 96
MAX_OBJECTS = 4
SIZES = (0.22, 0.5)
"""Least and greatest length of an object's longer side, as a share of the scene's side."""

DIGIT_VARIATION = replace(digits.VARIATION, size=SIZES, contrast=80, opacity=0.9)
"""Digits stand out more than in the pictures of the classification task, since here they have to be found as well."""

FADING = 0.6
"""How far the photographs behind digits are faded towards their mean colour, from 0 to 1."""

MAX_DIFFICULTY = 0.5
"""Of scenes of letters, which are about as hard to see then as digits are in theirs."""

MIN_COVERAGE = 0.4
"""Of the grey levels of a shape: from here on a pixel belongs to it."""

MIN_VISIBLE = 0.7
"""Least share of an object that others leave visible."""

MAX_ATTEMPTS = 5
"""How many places are tried for an object that would cover too much of another."""

DrawObject = Callable[[np.random.Generator], tuple[int, Image.Image]]
"""Draws an object: its class, and its shape in grey levels."""


@dataclass(frozen=True)
class Scene:
    """A picture and the objects in it, from back to front.

    Attributes:
        image: Square picture in RGB.
        classes: (N,) Class of each object, at least one.
        masks: (N, H, W) Which pixels show an object: bool, disjoint, none of them empty.
    """

    image: Image.Image
    classes: np.ndarray
    masks: np.ndarray

    @property
    def boxes(self) -> np.ndarray:
        """(N, 4) Left, top, right and bottom edge of what is visible of each object, in pixels from the left upper
        corner; right and bottom edge lie behind the last pixel."""
        spans = []
        for axis in (1, 2):  # over the rows: the columns that an object occupies, then the rows
            occupied = self.masks.any(axis)
            spans.append((occupied.argmax(1), occupied.shape[1] - occupied[:, ::-1].argmax(1)))
        (left, right), (top, bottom) = spans
        return np.stack([left, top, right, bottom], axis=1)

    @property
    def class_map(self) -> np.ndarray:
        """(H, W) 0 for the background, else 1 + the class of the object there; uint8."""
        return ((1 + self.classes[:, None, None]) * self.masks).sum(0).astype(np.uint8)


def compose(
    background: Image.Image, draw_object: DrawObject, count: int, variation: Variation, random: np.random.Generator
) -> Scene:
    """Lays objects over a picture one after the other, each over those before it.

    An object that leaves less than `MIN_VISIBLE` of another is tried at other places, and left out if it fits at none:
    all that is in the picture is also in the annotation.

    Args:
        background: Square picture in RGB.
        draw_object: Draws an object.
        count: Number of objects; the first always fits.
        variation: How far shapes vary.
        random: Source of random numbers.
    """
    picture, classes = background, []
    whole: list[np.ndarray] = []  # masks without what covers them
    visible: list[np.ndarray] = []
    for _ in range(count):
        label, stencil = draw_object(random)
        for _ in range(MAX_ATTEMPTS):
            changed, shape = overlay(picture, stencil, variation, random)
            mask = shape >= MIN_COVERAGE * shape.max()
            left = [other & ~mask for other in visible]
            if all(part.sum() >= MIN_VISIBLE * all_.sum() for part, all_ in zip(left, whole, strict=True)):
                picture, visible = changed, [*left, mask]
                whole.append(mask)
                classes.append(label)
                break
    return Scene(picture, np.array(classes), np.stack(visible))


def fade(picture: Image.Image, share: float) -> Image.Image:
    """Returns a picture a share of the way, from 0 to 1, to its mean colour."""
    colour = tuple(round(level) for level in np.asarray(picture).mean((0, 1)))
    return Image.blend(picture, Image.new("RGB", picture.size, colour), share)


@cache
def _scans() -> tuple[list[Image.Image], np.ndarray]:
    """Returns stencils of all scans, and the digits they show."""
    scans = load_digits()
    return [digits.digit_stencil(scan) for scan in scans.images], scans.target


@dataclass(frozen=True)
class DigitScenes:
    """An endless set of scenes of handwritten digits, by number.

    Attributes:
        split: Key of `digits.SCANS`. No two splits share a scan or a photograph.
        size: Side of the scenes in pixels.
        seed: A scene follows from split, size, seed and number alone.
    """

    classes: ClassVar[tuple[str, ...]] = tuple(str(digit) for digit in range(10))

    split: str
    size: int = IMAGE_SIZE
    seed: int = 0

    def scene(self, number: int) -> Scene:
        """Returns the scene of a number, of one to `MAX_OBJECTS` digits."""
        random = np.random.default_rng([self.seed, list(digits.SCANS).index(self.split), number])
        background = fade(exchange_colours(random_background(self.split, self.size, random), random), FADING)
        count = int(random.integers(1, MAX_OBJECTS + 1))
        return compose(background, self._draw_digit, count, DIGIT_VARIATION, random)

    def _draw_digit(self, random: np.random.Generator) -> tuple[int, Image.Image]:
        stencils, targets = _scans()
        scan = random.choice(digits.SCANS[self.split])
        return int(targets[scan]), stencils[scan]


@dataclass(frozen=True)
class LetterScenes:
    """An endless set of scenes of printed capital letters, by number, over the photographs of the pre-training.

    Of all symbols that the backbone knows a model that also has to find them would see each too rarely to learn to tell
    them apart within an hour.

    Attributes:
        size: Side of the scenes in pixels.
        seed: A scene follows from size, seed, number and `ramp` alone.
        ramp: From which number on scenes grow harder, and from which on they are as hard as they get.
    """

    classes: ClassVar[tuple[str, ...]] = tuple(symbols.CAPITALS)

    size: int = IMAGE_SIZE
    seed: int = 0
    ramp: tuple[int, int] = (-1, 0)

    def scene(self, number: int) -> Scene:
        """Returns the scene of a number, of one to `MAX_OBJECTS` letters."""
        random = np.random.default_rng([self.seed, number])
        difficulty = MAX_DIFFICULTY * symbols.difficulty(number, self.ramp)
        background = symbols.symbol_background(self.size, difficulty, random)
        variation = replace(symbols.PLAIN.towards(symbols.VARIATION, difficulty), size=SIZES)
        count = int(random.integers(1, MAX_OBJECTS + 1))
        return compose(background, partial(symbols.random_symbol, self.classes), count, variation, random)
