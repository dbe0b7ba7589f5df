"""Class maps, masks and boxes over the images they belong to, and panels of such pictures."""

import colorsys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mona_peft.tasks.training.run_directory import replace_file

GOLDEN_RATIO = (5**0.5 - 1) / 2
MAX_LEGEND = 30
CELL, GAP, LINE, ENTRY = 192, 6, 32, 120
"""Of a panel, in pixels: side of a picture, what is left between two, height of a line of text, width in a legend."""


def palette(count: int) -> np.ndarray:
    """Returns (count, 3) colours of even brightness, uint8, of which neighbours differ much."""
    hues = (np.arange(count) * GOLDEN_RATIO) % 1
    colours = [colorsys.hsv_to_rgb(hue, (0.95, 0.6)[number // 8 % 2], 1.0) for number, hue in enumerate(hues)]
    return np.round(np.array(colours).reshape(-1, 3) * 255).astype(np.uint8)


def paint(image: Image.Image, mask: np.ndarray, colours: np.ndarray, opacity: float) -> Image.Image:
    """Paints the pixels of a mask over an image.

    Args:
        image: In RGB.
        mask: (H, W) bool.
        colours: (3,) or (H, W, 3), uint8.
        opacity: From 0 to 1.
    """
    pixels = np.asarray(image).astype(np.float32)
    painted = np.where(mask[..., None], (1 - opacity) * pixels + opacity * colours.astype(np.float32), pixels)
    return Image.fromarray(np.round(painted).astype(np.uint8))


def overlay_class_map(
    image: Image.Image, class_map: np.ndarray, num_classes: int, unpainted: Sequence[int] = (), opacity: float = 0.6
) -> Image.Image:
    """Paints each class in its colour of `palette(num_classes)`.

    Args:
        image: In RGB.
        class_map: (H, W) Class of each pixel; numbers that are no class are left unpainted.
        num_classes: Number of classes.
        unpainted: Classes that are left unpainted, such as the background.
        opacity: Of the colours.
    """
    painted = (class_map >= 0) & (class_map < num_classes) & ~np.isin(class_map, unpainted)
    colours = palette(num_classes)[np.where(painted, class_map, 0)]
    return paint(image, painted, colours, opacity)


def overlay_masks(
    image: Image.Image, masks: np.ndarray, classes: Sequence[int], num_classes: int, opacity: float = 0.6
) -> Image.Image:
    """Paints the mask of each object in the colour of its class, the first object at the back.

    Args:
        image: In RGB.
        masks: (N, H, W) bool.
        classes: (N,) Class of each object.
        num_classes: Number of classes.
        opacity: Of the colours.
    """
    colours = palette(num_classes)
    for mask, label in zip(masks, classes, strict=True):
        image = paint(image, mask, colours[label], opacity)
    return image


def overlay_boxes(
    image: Image.Image,
    boxes: np.ndarray,
    classes: Sequence[int],
    names: Sequence[str],
    scores: Sequence[float] | None = None,
    side: int = 288,
) -> Image.Image:
    """Draws boxes with the names of their classes, on an image enlarged for that if it is small.

    Args:
        image: In RGB.
        boxes: (N, 4) Left, top, right and bottom edge in pixels of `image`.
        classes: (N,) Class of each box.
        names: Names of all classes.
        scores: (N,) From 0 to 1, written behind the names.
        side: Least length of the result's longer side in pixels; enlargement is by a whole number.
    """
    factor = max(1, -(-side // max(image.size)))
    picture = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    size = _text_size(picture)
    draw, font, colours = ImageDraw.Draw(picture), ImageFont.load_default(size), palette(len(names))
    for number, (box, label) in enumerate(zip(boxes, classes, strict=True)):
        left, top, right, under = (float(edge) * factor for edge in box)
        colour = tuple(int(level) for level in colours[label])
        # Pillow draws the last pixel too.
        draw.rectangle((left, top, max(left, right - 1), max(top, under - 1)), outline=colour, width=size // 10)
        text = names[label] if scores is None else f"{names[label]} {scores[number]:.2f}"
        _, _, end, bottom = draw.textbbox((left, top), text, font)
        height = bottom - top
        at = (max(0, min(left, picture.width - (end - left))), top - height if top >= height else top)
        draw.rectangle(draw.textbbox(at, text, font), fill=colour)
        draw.text(at, text, "black", font)
    return picture


def overlay_text(image: Image.Image, lines: Sequence[str], side: int = 288) -> Image.Image:
    """Writes lines of text into the left upper corner of an image, enlarged for that if it is small.

    Args:
        image: In RGB.
        lines: Of text.
        side: As `overlay_boxes` takes it.
    """
    factor = max(1, -(-side // max(image.size)))
    picture = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(_text_size(picture))
    left, top, right, bottom = draw.multiline_textbbox((4, 4), "\n".join(lines), font)
    draw.rectangle((left - 4, top - 4, right + 4, bottom + 4), "white")
    draw.multiline_text((4, 4), "\n".join(lines), "black", font)
    return picture


def paste_legend(image: Image.Image, legend: Mapping[str, np.ndarray], side: int = 288) -> Image.Image:
    """Sets the names of classes beside an image, each on its colour; the image is enlarged if it is small.

    Args:
        image: In RGB.
        legend: Colours (3,) by what they stand for.
        side: As `overlay_boxes` takes it.
    """
    factor = max(1, -(-side // max(image.size)))
    image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    size = _text_size(image)
    font, line = ImageFont.load_default(size), round(1.5 * size)
    width = max((round(font.getlength(name)) for name in legend), default=0) + 8 if legend else 0
    picture = Image.new("RGB", (image.width + width, max(image.height, line * len(legend))), "white")
    picture.paste(image)
    draw = ImageDraw.Draw(picture)
    for number, (name, colour) in enumerate(legend.items()):
        top = number * line
        draw.rectangle((image.width, top, picture.width, top + line - 1), tuple(int(level) for level in colour))
        draw.text((image.width + 4, top + line / 2), name, "black", font, anchor="lm")
    return picture


def _text_size(picture: Image.Image) -> int:
    """Returns the size of letters that are to be read on a picture."""
    return max(20, max(picture.size) // 50)


def save_panel(
    columns: Mapping[str, Sequence[Image.Image]], path: Path, legend: Mapping[str, np.ndarray] | None = None
) -> None:
    """Writes pictures side by side, one row an image and one column a stage: input, truth, prediction, ...

    Args:
        columns: Pictures by the title of their column; every column has as many.
        path: Of the PNG.
        legend: Colours (3,) by what they stand for; a long one is left out.
    """
    rows, step = len(next(iter(columns.values()))), CELL + GAP
    entries = list(legend.items()) if legend and len(legend) <= MAX_LEGEND else []
    per_line = max(1, len(columns) * step // ENTRY)
    lines = -(-len(entries) // per_line)
    panel = Image.new("RGB", (len(columns) * step + GAP, LINE + rows * step + GAP + lines * LINE), "white")
    draw, font = ImageDraw.Draw(panel), ImageFont.load_default(16)
    for column, (title, pictures) in enumerate(columns.items()):
        left = GAP + column * step
        draw.text((left + CELL / 2, LINE / 2), title, "black", font, anchor="mm")
        for row, picture in enumerate(pictures):
            scale = CELL / max(picture.size)
            resample = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR
            shown = picture.resize([max(1, round(side * scale)) for side in picture.size], resample)
            panel.paste(shown, (left, LINE + row * step))
    for number, (name, colour) in enumerate(entries):
        left, top = GAP + number % per_line * ENTRY, LINE + rows * step + number // per_line * LINE
        draw.rectangle((left, top + 8, left + 15, top + 23), tuple(int(level) for level in colour))
        draw.text((left + 22, top + LINE / 2), name, "black", font, anchor="lm")
    with replace_file(path) as new:
        panel.save(new)


def save_grid(
    pictures: Sequence[Image.Image],
    path: Path,
    columns: int,
    title: str = "",
    legend: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Writes pictures in rows of so many.

    Args:
        pictures: In their order.
        path: Of the PNG.
        columns: How many stand side by side.
        title: Of the first column.
        legend: As `save_panel` takes it.
    """
    missing = -len(pictures) % columns
    filled = [*pictures, *[Image.new("RGB", (8, 8), "white")] * missing]
    by_title = {title if column == 0 else " " * column: filled[column::columns] for column in range(columns)}
    save_panel(by_title, path, legend)
