"""One way from a stored picture to the red, green and blue of 8 bits that image processors take.

| a file holds | what is read |
| --- | --- |
| grey, one bit, a palette, CMYK, YCbCr | the same colours in RGB |
| transparency, in a channel or a palette | the picture over white |
| EXIF data that turn it | the picture as it is shown |
| several pages or frames | the first |
| 16 or 32 bits a channel, or floats | `Decoding.pixel_range`, from black to white; without it what the file says |
| more than three channels | those that `Decoding.channels` names; refused without it |
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from mona_peft.tasks.data import deep_pixels
from mona_peft.tasks.data.stored import Source, open_stored, orientation, stored_content

ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")

TRANSPOSED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How a picture is to be turned, by what EXIF calls its orientation."""


@dataclass(frozen=True)
class Decoding:
    """What has to be known to read pictures that are no 8-bit RGB; chosen before training and kept with a model.

    Attributes:
        pixel_range: The values that become black and white, in pictures of more than 8 bits a channel. None: those that
            the file names, else all that its integers can hold, or 0 to 1 for floats.
        channels: Numbers, from 0, of the channels that become red, green and blue, or of the one that becomes grey.
            None: pictures have one or three, and perhaps transparency.
    """

    pixel_range: tuple[float, float] | None = None
    channels: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Check both."""
        if self.pixel_range is not None and not self.pixel_range[0] < self.pixel_range[1]:
            raise ValueError(
                f"--pixel_range {' '.join(map(str, self.pixel_range))}: two values are wanted, that of black and the "
                "greater one of white."
            )
        if self.channels is not None and (len(self.channels) not in (1, 3) or min(self.channels) < 0):
            raise ValueError(
                f"--channels {' '.join(map(str, self.channels))}: one number or three are wanted, counted from 0."
            )

    @classmethod
    def of(cls, image_processor: Any) -> "Decoding":
        """Returns how pictures are read for a model, as `keep` noted it with the model's image processor."""
        values = {name: getattr(image_processor, name, None) for name in ("pixel_range", "channels")}
        return cls(**{name: None if value is None else tuple(value) for name, value in values.items()})

    def keep(self, image_processor: Any) -> None:
        """Notes this with an image processor, which saves it in `preprocessor_config.json`."""
        for name, value in self.chosen().items():
            setattr(image_processor, name, value)

    def chosen(self) -> dict[str, list]:
        """Returns what is chosen, by name."""
        values = {"pixel_range": self.pixel_range, "channels": self.channels}
        return {name: list(value) for name, value in values.items() if value is not None}


def read_image(source: Source, decoding: Decoding = Decoding(), least: int | None = None) -> Image.Image:
    """Reads a picture as RGB of 8 bits, turned as it is shown.

    Args:
        source: The picture: a path, the content of a file, `path` and `bytes`, or a picture of Pillow's.
        decoding: What has to be known of pictures that are not 8-bit RGB.
        least: A JPEG may be decoded at a half, a quarter or an eighth of its size, as long as its shorter side keeps so
            many pixels: large photographs are read several times faster. None: at its full size.

    Raises:
        OSError: The file is missing, broken, or in a format that Pillow doesn't know. (And the others of `UNREADABLE`.)
        ValueError: It has more than three channels and `channels` are not chosen, or floats and no range is known.
    """
    try:
        image = open_stored(source)
    except Image.UnidentifiedImageError:
        # TIFF knows more kinds of pixels than Pillow.
        deep = deep_pixels.read_tiff(stored_content(source))
        return _to_rgb(deep, decoding)
    with image:
        turn = TRANSPOSED.get(orientation(image))
        if decoding.channels is not None or deep_pixels.is_deep(image):
            picture = _to_rgb(deep_pixels.read(image, source), decoding)
        else:
            if least is not None and image.format == "JPEG" and min(image.size) >= 2 * least:
                scale = min(image.size) / least
                image.draft("RGB", tuple(round(side / scale) for side in image.size))
            picture = over_white(image)
    return picture if turn is None else picture.transpose(turn)


def over_white(image: Image.Image) -> Image.Image:
    """Returns a picture in RGB, over white where it is transparent."""
    if image.mode == "RGB" and "transparency" not in image.info:
        image.load()
        return image
    if image.mode in ALPHA_MODES or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _to_rgb(deep: deep_pixels.DeepPicture, decoding: Decoding) -> Image.Image:
    """Chooses channels and scales them to 8 bits."""
    pixels = deep.chosen(decoding.channels)
    if pixels.dtype != np.uint8:
        black, white = decoding.pixel_range or deep.range()
        # What is no number, as where a sensor saw nothing, is black.
        scaled = np.nan_to_num((pixels.astype(np.float32) - black) * (255 / (white - black)), nan=0.0)
        pixels = np.round(scaled.clip(0, 255)).astype(np.uint8)
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else np.ascontiguousarray(pixels)).convert("RGB")
