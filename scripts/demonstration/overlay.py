"""Lay a shape over a photograph: enlarged, tinted, turned a little, somewhere."""

from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Variation:
    """How far the laid-over shapes vary.

    Attributes:
        size: Least and greatest length of the shape's longer side, as a share of the image's side.
        angle: Greatest turn to either side, in degrees.
        shear: Greatest horizontal shear to either side.
        stretch: Greatest factor between the changes of width and height.
        contrast: Least distance between the shape's brightness and that of what it covers, in grey levels of 256.
        opacity: Least opacity; the greatest is 1.
    """

    size: tuple[float, float]
    angle: float
    shear: float
    stretch: float
    contrast: float
    opacity: float

    def towards(self, other: "Variation", share: float) -> "Variation":
        """Returns the bounds a share of the way, from 0 to 1, to those of `other`."""
        (start, stop), (other_start, other_stop) = self.size, other.size
        mixed = {
            name: (1 - share) * getattr(self, name) + share * getattr(other, name)
            for name in ("angle", "shear", "stretch", "contrast", "opacity")
        }
        size = ((1 - share) * start + share * other_start, (1 - share) * stop + share * other_stop)
        return Variation(size=size, **mixed)


def overlay(
    background: Image.Image, stencil: Image.Image, variation: Variation, random: np.random.Generator
) -> tuple[Image.Image, np.ndarray]:
    """Lays a shape over a picture.

    Args:
        background: Square picture in RGB.
        stencil: The shape in grey levels, from 0 (nothing) to 255, cut to its bounds.
        variation: Bounds of what is random.
        random: Source of random numbers.

    Returns:
        A new picture of the size of `background`; the shape lies inside it completely. And the shape where it lies, of
        shape (H, W) and in the stencil's grey levels.
    """
    side = background.width
    shape = _vary(stencil, round(side * random.uniform(*variation.size)), variation, random)
    shape.thumbnail((side, side))
    left, top = (int(random.integers(side - length + 1)) for length in shape.size)
    covered = np.asarray(background.crop((left, top, left + shape.width, top + shape.height)).convert("L"))
    alpha = np.asarray(shape) / 255 * random.uniform(variation.opacity, 1)
    colour = _contrasting_colour(float(np.average(covered, weights=alpha + 1e-6)), variation.contrast, random)
    picture, placed = background.copy(), Image.new("L", background.size)
    picture.paste(Image.new("RGB", shape.size, colour), (left, top), Image.fromarray((alpha * 255).astype(np.uint8)))
    placed.paste(shape, (left, top))
    return picture, np.asarray(placed)


def _vary(stencil: Image.Image, length: int, variation: Variation, random: np.random.Generator) -> Image.Image:
    """Shears, stretches and turns a stencil and cuts it to its bounds, with a longer side of `length` pixels."""
    shear = random.uniform(-variation.shear, variation.shear)
    # Wide enough for the sheared shape; the affine map leads from the result back to the stencil.
    margin = round(abs(shear) * stencil.height / 2) + 1
    width, centre = stencil.width + 2 * margin, stencil.height / 2
    shape = stencil.transform(
        (width, stencil.height),
        Image.Transform.AFFINE,
        (1, shear, -margin - shear * centre, 0, 1, 0),
        Image.Resampling.BICUBIC,
    )
    stretch = variation.stretch ** random.uniform(-0.5, 0.5)
    shape = shape.resize(
        (max(1, round(shape.width * stretch)), max(1, round(shape.height / stretch))), Image.Resampling.BICUBIC
    )
    turned = shape.rotate(
        random.uniform(-variation.angle, variation.angle), resample=Image.Resampling.BICUBIC, expand=True
    )
    # Not `getbbox` of the shape itself: rounding leaves traces at its rim.
    shape = turned.crop(turned.point(lambda level: 255 if level > 16 else 0).getbbox())
    scale = length / max(shape.size)
    return shape.resize(tuple(max(1, round(side * scale)) for side in shape.size), Image.Resampling.BICUBIC)


def _contrasting_colour(covered: float, contrast: float, random: np.random.Generator) -> tuple[int, int, int]:
    """Draws colours until one is far enough from the brightness `covered` (0 to 255)."""
    while True:
        colour = random.integers(0, 256, 3)
        if abs(colour @ (0.299, 0.587, 0.114) - covered) >= contrast:
            red, green, blue = (int(level) for level in colour)
            return red, green, blue
