"""Images with masks of every kind, a few each."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from scripts.data_formats.images import picture, text


def numbers(number: int) -> Image.Image:
    """A mask of two class numbers."""
    return Image.fromarray((np.indices((40, 48))[1] > 20 + number).astype(np.uint8))


def black_and_white(number: int) -> Image.Image:
    """A mask of 0 and 255."""
    return numbers(number).point(lambda value: 255 * value)


def palette(number: int) -> Image.Image:
    """A mask of numbers in a palette."""
    mask = numbers(number).convert("P")
    mask.putpalette([0, 0, 0, 200, 30, 30])
    return Image.fromarray(np.asarray(numbers(number))).convert("P") if mask.getpalette() is None else mask


def sixteen_bits(number: int) -> Image.Image:
    """A mask of numbers of 16 bits."""
    return Image.fromarray(np.asarray(numbers(number)).astype(np.uint16))


def coloured(number: int) -> Image.Image:
    """A mask in red and green."""
    return Image.fromarray(np.array([[255, 0, 0], [0, 255, 0]], np.uint8)[np.asarray(numbers(number))])


def masks(
    image: str,
    mask: str,
    draw: Callable[[int], Image.Image] = numbers,
    splits: Sequence[str] = ("train", "val"),
    **more,
) -> Callable[[Path], None]:
    """Images and masks; `{split}` and `{number}` in the places stand for those; further texts by their names."""

    def build(folder: Path) -> None:
        for part, split in enumerate(splits):
            for number in range(4):
                name = f"{part}{number}"
                picture(folder / image.format(split=split, number=name), 10 * part + number)
                path = folder / mask.format(split=split, number=name)
                path.parent.mkdir(parents=True, exist_ok=True)
                draw(number).save(path)
        for name, content in more.items():
            text(folder / name.replace("__", "."), content)

    return build


def voc_masks(folder: Path) -> None:
    """Pascal VOC's masks, with lists, and images that no list of masks names."""
    masks("JPEGImages/{number}.jpg", "SegmentationClass/{number}.png", palette, ("",))(folder)
    for number in range(5, 8):
        picture(folder / "JPEGImages" / f"{number}.jpg", 100 + number)
    text(folder / "ImageSets/Main/train.txt", "5\n6\n7\n")
    text(folder / "ImageSets/Segmentation/train.txt", "00\n01\n02\n")
    text(folder / "ImageSets/Segmentation/val.txt", "03\n")
    text(folder / "classes.txt", "ground\nplant\n")
