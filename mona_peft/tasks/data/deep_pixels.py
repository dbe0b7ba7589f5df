"""Pictures of more than 8 bits a channel, or more than three channels: X-rays, microscopes, satellites."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from mona_peft.tasks.data.stored import UNREADABLE, Source, open_stored, opened_tiff, stored_content

DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
"""Pillow's names of one channel of more than 8 bits. It reads several channels of 16 bits as their upper halves."""

BITS, SAMPLES, EXTRA, LEAST, GREATEST = 258, 277, 338, (340, 280), (341, 281)
"""Tags of TIFF: bits and number of the channels, kinds of the others, the values of black and white."""

PERCENTILES = (0.1, 99.9)
"""Of the pixels of the training images: the values of black and white, where files do not tell them."""

MOST_IMAGES, MOST_PIXELS = 100, 20_000
"""Of how many images, and how many pixels of each, percentiles are taken."""


@dataclass(frozen=True)
class DeepPicture:
    """What a file holds, before it is made a picture of 8 bits.

    Attributes:
        pixels: (H, W, C) integers or floats.
        declared: The values of black and white, if the file names them.
        described: What a message says of the channels.
        alpha: Whether the last channel says how opaque a pixel is.
    """

    pixels: np.ndarray
    declared: tuple[float, float] | None = None
    described: str = ""
    alpha: bool = False

    def chosen(self, channels: tuple[int, ...] | None) -> np.ndarray:
        """Returns the pixels of the channels that are taken, (H, W, 1) or (H, W, 3); over white where transparent.

        Raises:
            ValueError: There are others than one or three and none are chosen, or those chosen are not there.
        """
        count = self.pixels.shape[2]
        if channels is None and self.alpha and count in (2, 4):
            return _over_white(self.pixels, self.declared[1] if self.declared else None)
        if channels is not None:
            if max(channels) >= count:
                raise ValueError(f"--channels {' '.join(map(str, channels))}: it has the channels 0 to {count - 1}")
            return self.pixels[:, :, list(channels)]
        if count not in (1, 3):
            raise ValueError(
                f"it has {count} channels ({self.described}), and a model takes three: say which, in the order red, "
                "green, blue, for instance with --channels 2 1 0, or take one as grey"
            )
        return self.pixels

    def range(self) -> tuple[float, float]:
        """Returns the values of black and white: as declared, all of 16 bits, or 0 to 1 of floats.

        Raises:
            ValueError: Floats or wider integers reach beyond; nobody knows what is white.
        """
        if self.declared is not None:
            return self.declared
        if self.pixels.dtype == np.uint16:
            return 0.0, 65535.0
        colours = self.pixels[..., :-1] if self.alpha else self.pixels
        finite = colours[np.isfinite(colours)] if colours.dtype.kind == "f" else colours
        least, greatest = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        if self.pixels.dtype.kind == "f" and least >= 0 and greatest <= 1:
            return 0.0, 1.0
        if self.pixels.dtype.kind in "iu" and least >= 0 and greatest <= 65535:
            return 0.0, 65535.0
        raise ValueError(
            f"its pixels are {self.pixels.dtype} from {least:g} to {greatest:g}, and no range is known: say which "
            "values become black and white, for instance with --pixel_range 0 4095"
        )


def is_deep(image: Image.Image) -> bool:
    """Tells whether a picture has more bits a channel, or other channels, than Pillow hands out as RGB."""
    return image.mode in DEEP_MODES or has_upper_halves(image) or _has_wide_channels(image)


def has_upper_halves(image: Image.Image) -> bool:
    """Tells whether Pillow hands out the upper halves of several channels of 16 bits, as of a PNG in colours."""
    return any(";16" in str(tile[3]) for tile in getattr(image, "tile", None) or []) and image.mode not in DEEP_MODES


def _has_wide_channels(image: Image.Image) -> bool:
    """Tells whether a TIFF has channels of more than 8 bits, which Pillow misreads in planes, or other ones."""
    tags = getattr(image, "tag_v2", None)
    if image.format != "TIFF" or tags is None:
        return False
    if max(np.ravel(tags.get(BITS, 1))) > 8:
        return True
    extra = tags.get(EXTRA, ())
    extra = extra if isinstance(extra, tuple) else (extra,)
    alpha = sum(kind in (1, 2) for kind in extra)
    return tags.get(SAMPLES, 1) > 1 and (len(extra) > alpha or alpha > 1)


def read(image: Image.Image, source: Source) -> DeepPicture:
    """Reads a picture that `is_deep`, or of which channels are to be chosen.

    Args:
        image: Opened, not decoded.
        source: What it was opened from.
    """
    tags = dict(getattr(image, "tag_v2", {}))
    if image.format == "TIFF" and not isinstance(source, Image.Image):
        try:
            return read_tiff(stored_content(source))
        except ValueError as error:
            # tifffile wants another package for some compressions, of which Pillow reads grey pictures right.
            if "imagecodecs" not in str(error) or image.mode not in DEEP_MODES:
                raise
    if image.mode not in DEEP_MODES and image.mode not in ("L", "RGB", "RGBA", "CMYK", "LA"):
        image = image.convert("RGB")
    pixels = np.asarray(image)
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    # Older releases of Pillow read 16 bits of PNG and PGM as 32.
    if pixels.dtype == np.int32 and image.format in ("PNG", "PPM"):
        pixels = pixels.astype(np.uint16)
    return DeepPicture(np.atleast_3d(pixels), _declared(tags), image.mode, image.mode in ("RGBA", "LA"))


def read_tiff(content: str | Path | bytes) -> DeepPicture:
    """Reads the first page of a TIFF, with all its channels; raises `UnidentifiedImageError` for what is none."""
    with opened_tiff(content) as file:
        page = file.pages[0]
        pixels = page.asarray()
        planes = page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and page.samplesperpixel > 1
        inverted = page.photometric == tifffile.PHOTOMETRIC.MINISWHITE
        tags = {tag.code: tag.value for tag in page.tags}
        extra = [kind.name.lower() for kind in page.extrasamples]
        described = f"{' and '.join([page.photometric.name.lower(), *extra])}, {page.dtype}"
    pixels = np.moveaxis(pixels, 0, -1) if planes else np.atleast_3d(pixels)
    if pixels.ndim != 3:
        raise ValueError(f"it has the shape {pixels.shape}, and is no picture of height, width and channels")
    declared, alpha = _declared(tags), extra in (["assocalpha"], ["unassalpha"])
    if inverted and pixels.dtype.kind == "u" and not alpha:
        pixels = _inverted(pixels, declared)
    return DeepPicture(pixels, declared, described, alpha)


def _inverted(pixels: np.ndarray, declared: tuple[float, float] | None) -> np.ndarray:
    """Returns pixels whose least value is white, as some X-rays have them, the other way round."""
    least, greatest = declared or (0, np.iinfo(pixels.dtype).max)
    return (least + greatest - pixels.astype(np.float64)).clip(0, np.iinfo(pixels.dtype).max).astype(pixels.dtype)


def _declared(tags: dict[int, Any]) -> tuple[float, float] | None:
    """Returns the values of black and white that TIFF's tags name, if they say more than the type of the pixels."""
    low, high = (
        next((float(np.ravel(tags[number])[0]) for number in numbers if number in tags), None)
        for numbers in (LEAST, GREATEST)
    )
    return None if high is None or (low or 0.0) >= high else (low or 0.0, high)


def _over_white(pixels: np.ndarray, white: float | None) -> np.ndarray:
    """Returns the other channels over white, where the last one, alpha, is transparent."""
    most = float(np.iinfo(pixels.dtype).max) if pixels.dtype.kind in "iu" else 1.0
    colour, alpha = pixels[..., :-1].astype(np.float64), pixels[..., -1:].astype(np.float64) / most
    return (colour * alpha + (white or most) * (1 - alpha)).astype(pixels.dtype)


def find_pixel_range(
    sources: Sequence[Source], channels: tuple[int, ...] | None = None
) -> tuple[tuple[float, float], str] | None:
    """Decides which values become black and white in the deep pictures of a data set.

    Args:
        sources: The training images.
        channels: Numbers of those that are taken. None: all.

    Returns:
        The two values and what a person reads of where they come from: from the files, if all name the same, else from
        percentiles of the pixels of some of them. None where no picture needs a range.

    Raises:
        ValueError: Pictures in colours use only a few of their 16 bits, of which Pillow reads the upper half.
    """
    deep = [source for source in sources if _is_deep(source)]
    pictures, values = [], []
    for source in deep[:: max(1, len(deep) // MOST_IMAGES)][:MOST_IMAGES]:
        try:
            picture = _read_deep(source)
            pixels = picture.chosen(channels)
        except UNREADABLE as error:
            raise ValueError(f"The image {_name(source)} can't be read: {error}.") from error
        if pixels.dtype == np.uint8:
            continue
        pictures.append(picture)
        flat = pixels.reshape(-1)
        flat = flat[:: max(1, flat.size // MOST_PIXELS)].astype(np.float64)
        values.append(flat[np.isfinite(flat)])
    if not pictures:
        return None
    count = f"{len(deep)} of {len(sources)} training images have more than 8 bits a channel"
    if pictures[0].declared is not None and len({picture.declared for picture in pictures}) == 1:
        return pictures[0].declared, f"{count}; their files name the values of black and white"
    low, high = (float(value) for value in np.percentile(np.concatenate(values), PERCENTILES))
    if low == high:
        low, high = low - 1, high + 1
    shares = " and ".join(f"{share:g} %" for share in PERCENTILES)
    return (low, high), f"{count}; {shares} of the pixels of {len(pictures)} of them lie below black and white"


def _is_deep(source: Source) -> bool:
    """Tells whether a picture is a TIFF that Pillow doesn't know, or `is_deep`; leaves no file open."""
    try:
        with open_stored(source) as image:
            return is_deep(image)
    except Image.UnidentifiedImageError:
        return True


def _read_deep(source: Source) -> DeepPicture:
    try:
        image = open_stored(source)
    except Image.UnidentifiedImageError:
        return read_tiff(stored_content(source))
    with image:
        upper = has_upper_halves(image)
        picture = read(image, source)
    colours = picture.pixels[..., :-1] if picture.alpha else picture.pixels
    if upper and colours.dtype == np.uint8 and 0 < (most := int(colours.max(initial=0))) < 64:
        raise ValueError(
            f"it has 16 bits a channel and uses the lower ones alone (up to about {256 * most + 255} of 65535), which "
            "Pillow can't read of pictures in colours: it would be nearly black. Store such images as TIFF of 16 bits, "
            "or scale them to 8 bits"
        )
    return picture


def _name(source: Source) -> str:
    name = source.get("path") if isinstance(source, dict) else source
    return str(name) if isinstance(name, (str, Path)) else "of a table"
