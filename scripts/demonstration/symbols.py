"""Printed letters and symbols over photographs: what the demonstration backbone is pre-trained on. No digits."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageStat

from scripts.demonstration.overlay import Variation, overlay
from scripts.demonstration.photographs import exchange_colours, random_background

CAPITALS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LETTERS = CAPITALS + "abdefghikmnqrtuy"  # the other small letters look like their capitals
GREEK = "αβγδεζηθλμξπρσφψωΓΔΘΛΞΠΣΦΨΩ"
SYMBOLS = "!?#$%&@*+=<>/[](){}§¶€£¥→↓∫∑√∞∂∇∈∪∀⊕♠♣♥♦♪"
CLASSES = tuple(LETTERS + GREEK + SYMBOLS)

FONTS = {
    **dict.fromkeys(
        [
            *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
            *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique")),
            *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
        ],
        LETTERS + GREEK + SYMBOLS,
    ),
    "STIXGeneral": LETTERS + GREEK,
    "STIXGeneralBol": LETTERS + GREEK,
    "STIXGeneralItalic": LETTERS + GREEK,
    **dict.fromkeys(["cmb10", "cmr10", "cmss10", "cmti10", "cmtt10"], LETTERS),
}
"""Fonts that ship with matplotlib, and which characters are drawn in each."""

PLAIN = Variation(size=(0.6, 0.95), angle=10, shear=0.1, stretch=1.1, contrast=80, opacity=0.95)
VARIATION = Variation(size=(0.3, 0.9), angle=20, shear=0.25, stretch=1.4, contrast=30, opacity=0.6)
STENCIL_SIZE = 96


@cache
def _font(name: str) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", f"{name}.ttf"), STENCIL_SIZE)


@cache
def _fonts_with(character: str) -> tuple[str, ...]:
    return tuple(name for name, characters in FONTS.items() if character in characters)


@cache
def symbol_stencil(character: str, font: str) -> Image.Image:
    """Draws a character in grey levels, cut to its bounds."""
    left, top, right, bottom = (round(edge) for edge in _font(font).getbbox(character))
    stencil = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(stencil).text((-left, -top), character, fill=255, font=_font(font))
    return stencil.crop(stencil.getbbox())


def random_symbol(characters: Sequence[str], random: np.random.Generator) -> tuple[int, Image.Image]:
    """Returns the number of one of several characters, and a stencil of it in one of its fonts."""
    label = int(random.integers(len(characters)))
    fonts = _fonts_with(characters[label])
    return label, symbol_stencil(characters[label], fonts[random.integers(len(fonts))])


def symbol_background(size: int, difficulty: float, random: np.random.Generator) -> Image.Image:
    """Cuts a square of side `size` out of a photograph: an even ground at difficulty 0, the photograph itself at 1."""
    background = exchange_colours(random_background("pretraining", size, random), random)
    even = Image.new("RGB", background.size, tuple(round(level) for level in ImageStat.Stat(background).mean))
    return Image.blend(even, background, difficulty)


def difficulty(number: int, ramp: tuple[int, int]) -> float:
    """Returns how hard the picture of a number is: 0 up to the ramp's start, 1 from its end on."""
    start, stop = ramp
    return min(max((number - start) / (stop - start), 0.0), 1.0)


@dataclass(frozen=True)
class PrintedSymbols:
    """An endless set of pictures by number, each of one class of `CLASSES`.

    From pictures as hard as these a Swin with random weights learns nothing in thousands of steps: they differ in their
    backgrounds first of all. So the first ones may be large symbols on even grounds, and grow harder bit by bit.

    Attributes:
        size: Side of the pictures in pixels.
        seed: A picture follows from seed, number and `ramp` alone.
        ramp: From which number on pictures grow harder, and from which on they are as hard as they get.
    """

    size: int
    seed: int
    ramp: tuple[int, int] = (-1, 0)

    def picture(self, number: int) -> tuple[Image.Image, int]:
        """Returns the picture of a number, and the number of its class."""
        random = np.random.default_rng([self.seed, number])
        label, stencil = random_symbol(CLASSES, random)
        share = difficulty(number, self.ramp)
        background = symbol_background(self.size, share, random)
        picture, _ = overlay(background, stencil, PLAIN.towards(VARIATION, share), random)
        return picture, label
