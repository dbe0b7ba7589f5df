"""What the pixels of masks mean: class numbers, black and white, or colours that stand for classes."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import PIL.Image

from mona_peft.tasks.data.decoding import TRANSPOSED
from mona_peft.tasks.data.stored import open_stored, orientation

UNCOUNTED = -1
"""In class maps: a pixel that does not count."""

LOSSY = ("JPEG", "MPO")
"""Formats of images that masks can't be stored in."""

MAX_DERIVED = 64
"""From more colours on, masks are taken for pictures, or for maps whose edges were smoothed."""

WHITE = 255
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MaskReading:
    """How masks become class maps.

    Attributes:
        ignore_index: What pixels that do not count have. (Not where white stands for a class.)
        reduce_labels: Whether class n has n + 1 in the masks, and 0 does not count.
        black_and_white: Whether 0 is the first class and 255 the second.
        colours: Of the classes by number, where masks are in colours; white and black that are no class do not count.
    """

    ignore_index: int = 255
    reduce_labels: bool = False
    black_and_white: bool = False
    colours: tuple[tuple[int, int, int], ...] = ()

    def class_map(self, stored: dict[str, Any], name: str) -> np.ndarray:
        """Returns the (H, W) classes of a mask's pixels, `UNCOUNTED` for those that do not count; int32.

        Args:
            stored: The mask.
            name: What a message says of it.

        Raises:
            ValueError: It is a JPEG, or in colours without a map of colours, or has a colour that is no class.
            OSError: It can't be read. (And the others of `UNREADABLE`.)
        """
        pixels = mask_pixels(stored, name)
        if pixels.ndim == 2:
            if self.black_and_white:
                pixels = np.where(pixels == WHITE, 1, pixels)
                return np.where(pixels > 1, _gone(pixels, name), pixels).astype(np.int32)
            return np.where(pixels == self.ignore_index, UNCOUNTED, pixels - int(self.reduce_labels))
        if not self.colours:
            raise ValueError(
                f"The {name} is a picture in colours: one class number a pixel is needed, as grey level or number in a "
                "palette, or a table of colours (--class_names classes.csv, with name, r, g, b)."
            )
        codes = colour_codes(pixels)
        class_map = np.full(codes.shape, UNCOUNTED, np.int32)
        known = np.zeros(codes.shape, bool)
        for number, colour in enumerate(self.colours):
            here = codes == _code(colour)
            class_map[here], known = number, known | here
        other = np.unique(codes[~known & ~np.isin(codes, (_code((0, 0, 0)), _code((255, 255, 255))))])
        if len(other):
            raise ValueError(
                f"The {name} has {len(other)} colours that are no class, {hex_name(other[0])} for one. Masks must be "
                "stored without loss and without smoothed edges; or add the colours to the table of classes."
            )
        return class_map


def _gone(pixels: np.ndarray, name: str) -> int:
    if (pixels > 1).any():
        raise ValueError(
            f"The {name} has the number {pixels.max()}, and others have 0 and {WHITE} alone, which are taken for two "
            "classes. Say what the numbers mean with --class_names."
        )
    return 0


def mask_pixels(stored: dict[str, Any], name: str) -> np.ndarray:
    """Returns the pixels of a mask: (H, W) numbers, int32, or (H, W, 3) colours, uint8; turned as it is shown.

    Greys that are stored in three equal channels are numbers.

    Raises:
        ValueError: It is a JPEG, or of a kind that holds no numbers.
    """
    with open_stored(stored) as mask:
        if mask.format in LOSSY:
            raise ValueError(
                f"The {name} is a JPEG, which changes numbers at edges. Masks must be stored without loss, as PNG for "
                "instance, from where they come from: converting them won't mend them."
            )
        if mask.mode in ("F", "CMYK", "YCbCr", "LAB", "HSV"):
            raise ValueError(f"The {name} is a picture in {mask.mode}: whole numbers or colours are needed.")
        turn = TRANSPOSED.get(orientation(mask))
        picture: PIL.Image.Image = mask if turn is None else mask.transpose(turn)
        if picture.mode in ("RGBA", "LA", "PA"):
            picture = picture.convert(picture.mode[:-1])
        pixels = np.asarray(picture)
    if pixels.ndim == 3 and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]
    return pixels if pixels.ndim == 3 else pixels.astype(np.int32)


def colour_codes(pixels: np.ndarray) -> np.ndarray:
    """Returns (..., 3) colours as one number each."""
    return (pixels.astype(np.int32) * np.array([65536, 256, 1])).sum(-1, dtype=np.int32)


def _code(colour: Sequence[int]) -> int:
    return int(colour_codes(np.array(colour)))


def hex_name(code: int) -> str:
    """Returns the name of a colour, such as `#ff0000`."""
    return f"#{int(code):06x}"


@dataclass
class MaskSurvey:
    """What masks hold: the numbers of those in grey, and the colours of the others.

    Attributes:
        numbers: That occur.
        colours: That occur, as `colour_codes`.
        grey: How many masks are numbers.
        coloured: Names of those that are in colours.
    """

    numbers: set[int] = field(default_factory=set)
    colours: set[int] = field(default_factory=set)
    grey: int = 0
    coloured: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, masks: Iterable[tuple[str, np.ndarray]]) -> "MaskSurvey":
        """Looks at masks, each its name and its pixels as `mask_pixels` returns them."""
        survey = cls()
        for name, some in masks:
            if some.ndim == 2:
                survey.numbers |= set(np.unique(some).tolist())
                survey.grey += 1
            else:
                survey.colours |= set(np.unique(colour_codes(some)).tolist())
                survey.coloured.append(name)
        return survey

    def is_black_and_white(self, ignore_index: int) -> bool:
        """Tells whether 0 and 255 are all there is, so that 255 stands for a class and not for what does not count."""
        return not self.coloured and self.numbers == {0, WHITE} and ignore_index == WHITE

    def derived_colours(self) -> tuple[tuple[int, int, int], ...]:
        """Returns all colours, black first, as the classes of masks without a table of colours.

        Raises:
            ValueError: There are too many to stand for classes.
        """
        # A mask of one grey alone beside others in colours: black, mostly.
        codes = sorted(self.colours | {_code((number,) * 3) for number in self.numbers if 0 <= number <= 255})
        if len(codes) > MAX_DERIVED:
            raise ValueError(
                f"The masks are in colours, {len(codes)} different ones: too many to stand for classes. Masks must be "
                "stored without loss and without smoothed edges; name the colours of the classes with --class_names "
                "classes.csv (name, r, g, b)."
            )
        return tuple((code >> 16, code >> 8 & 255, code & 255) for code in codes)
