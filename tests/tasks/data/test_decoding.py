"""Pictures of every kind that Pillow and TIFF know, as the 8-bit RGB that a model gets."""

import struct
import warnings
import zlib
from functools import partial

import numpy as np
import pytest
import tifffile
from PIL import Image
from transformers import ViTImageProcessorPil
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from mona_peft.tasks.data.decoding import Decoding, read_image
from mona_peft.tasks.data.deep_pixels import find_pixel_range
from mona_peft.tasks.data.stored import UNREADABLE, check_content, read_header

RAMP = np.linspace(0, 65535, 64 * 64).reshape(64, 64)
GREY = np.round(RAMP / 257).astype(np.uint8)


def read(path, **settings) -> np.ndarray:
    image = read_image(path, Decoding(**settings))
    assert image.mode == "RGB"
    return np.array(image)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_sixteen_bits_keep_all_256_levels(tmp_path, name):
    Image.fromarray(RAMP.astype(np.uint16)).save(tmp_path / name)
    pixels = read(tmp_path / name)
    assert (pixels == pixels[..., :1]).all()
    assert np.abs(pixels[..., 0].astype(int) - GREY).max() <= 1


def test_twelve_bits_in_sixteen_reach_from_black_to_white_by_the_training_images(tmp_path):
    paths = []
    for number in range(3):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray((RAMP / 16).astype(np.uint16)).save(paths[-1])
    assert read(paths[0]).max() < 20  # what a file says alone
    (low, high), told = find_pixel_range(paths)
    assert (low, high) == pytest.approx((4, 4091), abs=5)
    assert "3 of 3 training images" in told
    pixels = read(paths[0], pixel_range=(low, high))[..., 0]
    assert pixels.min() == 0
    assert pixels.max() == 255
    assert np.abs(pixels.astype(int) - GREY).max() <= 2


def test_values_that_a_tiff_names_count_before_percentiles(tmp_path):
    values = (RAMP / 65535 * 900 + 100).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", values, extratags=[(280, 3, 1, 100, True), (281, 3, 1, 1000, True)])
    assert find_pixel_range([tmp_path / "a.tif"])[0] == (100, 1000)
    assert np.abs(read(tmp_path / "a.tif")[..., 0].astype(int) - GREY).max() <= 1


def test_floats_up_to_one_are_shares_and_others_need_a_range(tmp_path):
    Image.fromarray((RAMP / 65535).astype(np.float32)).save(tmp_path / "shares.tif")
    assert np.abs(read(tmp_path / "shares.tif")[..., 0].astype(int) - GREY).max() <= 1
    heights = (RAMP / 65535 * 3000 - 500).astype(np.float32)
    heights[0, 5] = np.nan
    Image.fromarray(heights).save(tmp_path / "heights.tif")
    with pytest.raises(ValueError, match=r"float32 from -500 to 2500, .* --pixel_range"):
        read(tmp_path / "heights.tif")
    pixels = read(tmp_path / "heights.tif", pixel_range=(-500, 2500))[..., 0]
    assert np.abs(pixels.astype(int) - GREY)[1:].max() <= 1
    assert pixels[0, 5] == 0
    assert find_pixel_range([tmp_path / "heights.tif"])[0] == pytest.approx((-500, 2500), abs=10)


def test_colours_of_sixteen_bits(tmp_path):
    colours = np.stack([RAMP, RAMP[::-1], RAMP.T], -1).astype(np.uint16)
    tifffile.imwrite(tmp_path / "full.tif", colours, photometric="rgb")
    assert np.abs(read(tmp_path / "full.tif").astype(int) - np.round(colours / 257)).max() <= 1
    tifffile.imwrite(tmp_path / "low.tif", colours // 16, photometric="rgb")
    (low, high), _ = find_pixel_range([tmp_path / "low.tif"])
    assert np.abs(read(tmp_path / "low.tif", pixel_range=(low, high)).astype(int) - colours / 257).max() <= 2


@pytest.mark.parametrize("count", [2, 4, 5])
def test_other_channels_are_refused_by_name_and_chosen(tmp_path, count):
    bands = np.stack([np.full((20, 30), 10 * band, np.uint8) for band in range(count)], -1)
    tifffile.imwrite(
        tmp_path / "bands.tif",
        bands,
        photometric="rgb" if count > 3 else "minisblack",
        planarconfig="contig",
        extrasamples=["unspecified"] * (count - (3 if count > 3 else 1)),
    )
    with pytest.raises(ValueError, match=rf"it has {count} channels \(.*unspecified.*\), .* --channels"):
        read(tmp_path / "bands.tif")
    assert (read(tmp_path / "bands.tif", channels=(count - 1, 1, 0))[0, 0] == [10 * (count - 1), 10, 0]).all()
    assert (read(tmp_path / "bands.tif", channels=(1,))[0, 0] == [10, 10, 10]).all()
    with pytest.raises(ValueError, match=rf"--channels 9: .* 0 to {count - 1}"):
        read(tmp_path / "bands.tif", channels=(9,))


def test_what_is_transparent_lies_over_white(tmp_path):
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[..., 0], pixels[:2, :, 3] = 200, 255
    Image.fromarray(pixels).save(tmp_path / "alpha.png")
    palette = Image.fromarray(np.repeat([[0], [1]], 4, 1).astype(np.uint8)).convert("P")
    palette.putpalette([200, 0, 0, 0, 255, 0])
    palette.save(tmp_path / "palette.png", transparency=1)
    for name, rows in (("alpha.png", 2), ("palette.png", 1)):
        image = read(tmp_path / name)
        assert (image[:rows] == [200, 0, 0]).all()
        assert (image[rows:] == 255).all()


def test_one_bit_palette_and_cmyk(tmp_path):
    half = Image.fromarray(np.repeat([[0], [255]], 8, 1).astype(np.uint8))
    half.convert("1").save(tmp_path / "bit.png")
    half.convert("P").save(tmp_path / "palette.gif")
    half.convert("CMYK").save(tmp_path / "cmyk.tif")
    for name in ("bit.png", "palette.gif", "cmyk.tif"):
        assert (read(tmp_path / name)[:, 0, 0] == [0, 255]).all(), name


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_exif_says(tmp_path, orientation, deep):
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    stored = grey.astype(np.uint16) * 257 if deep else grey
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    turned = {
        1: grey,
        2: grey[:, ::-1],
        3: grey[::-1, ::-1],
        4: grey[::-1],
        5: grey.T,
        6: np.rot90(grey, -1),
        7: grey[::-1, ::-1].T,
        8: np.rot90(grey),
    }
    assert (read(tmp_path / "a.png")[..., 0] == turned[orientation]).all()


def test_of_several_frames_the_first_is_read(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for name in ("a.gif", "a.tif", "a.webp", "a.png"):
        extra = {"lossless": True} if name.endswith("webp") else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **extra)
        assert (read(tmp_path / name)[0, 0] == [255, 0, 0]).all(), name


def test_drafts_keep_the_pixels_that_are_asked_for(tmp_path):
    Image.fromarray(np.repeat(np.repeat(GREY, 10, 0), 10, 1)).convert("RGB").save(tmp_path / "a.jpg")
    assert read_image(tmp_path / "a.jpg").size == (640, 640)
    assert read_image(tmp_path / "a.jpg", least=100).size == (160, 160)
    assert read_image(tmp_path / "a.jpg", least=400).size == (640, 640)


def test_a_model_keeps_how_its_pictures_are_read(tmp_path):
    processor = ViTImageProcessorPil()
    Decoding(pixel_range=(100, 4000.5), channels=(2, 1, 0)).keep(processor)
    processor.save_pretrained(tmp_path)
    assert Decoding.of(AutoImageProcessor.from_pretrained(tmp_path)) == Decoding((100, 4000.5), (2, 1, 0))
    assert Decoding.of(ViTImageProcessorPil()) == Decoding()


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"pixel_range": (5, 5)}, "--pixel_range 5 5: two values"), ({"channels": (0, 1)}, "--channels 0 1: one number")],
)
def test_settings_without_meaning_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Decoding(**settings)


def test_no_file_is_left_open(tmp_path):
    """A folder of images has more files than a process may keep open."""
    Image.fromarray(GREY).save(tmp_path / "grey.png")
    Image.fromarray(RAMP.astype(np.uint16)).save(tmp_path / "deep.png")
    tifffile.imwrite(tmp_path / "channels.tif", np.zeros((8, 8, 5), np.uint16), planarconfig="contig")
    (tmp_path / "broken.png").write_bytes((tmp_path / "deep.png").read_bytes()[:150])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", ResourceWarning)
        find_pixel_range([tmp_path / "grey.png", tmp_path / "deep.png"])
        read(tmp_path / "channels.tif", channels=(0, 1, 2))
        with pytest.raises(OSError):
            read(tmp_path / "broken.png")
    assert [str(warning.message) for warning in told if warning.category is ResourceWarning] == []


COLOURS = np.stack([GREY, GREY[:, ::-1], np.full_like(GREY, 77)], -1)
DEEP_COLOURS = COLOURS.astype(np.uint16) * 257


def png_of_16_bits(path, pixels, colour_type: int) -> None:
    """Pillow writes no PNG of 16 bits with transparency."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels.reshape(len(pixels), -1))
    head = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, colour_type, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    number = partial(struct.pack, ">I")
    packed = (number(len(data)) + name + data + number(zlib.crc32(name + data)) for name, data in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))


def with_alpha(pixels, share: float) -> np.ndarray:
    return np.dstack([pixels, np.full(pixels.shape[:2], round(65535 * share), np.uint16)])


WIDE = {
    "least is white": (
        lambda path: tifffile.imwrite(path, 65535 - RAMP.astype(np.uint16), photometric="miniswhite"),
        GREY,
    ),
    "big-endian": (lambda path: tifffile.imwrite(path, RAMP.astype(np.uint16), byteorder=">"), GREY),
    "32 bits without a sign": (lambda path: tifffile.imwrite(path, RAMP.astype(np.uint32) * 65536), GREY),
    "16 bits with a sign": (lambda path: tifffile.imwrite(path, (RAMP - 32768).astype(np.int16)), GREY),
    "planes": (
        lambda path: tifffile.imwrite(
            path, DEEP_COLOURS.transpose(2, 0, 1), photometric="rgb", planarconfig="separate"
        ),
        COLOURS,
    ),
    "tiles": (lambda path: tifffile.imwrite(path, RAMP.astype(np.uint16), tile=(32, 32)), GREY),
    "half transparent PNG": (
        lambda path: png_of_16_bits(path, with_alpha(RAMP.astype(np.uint16), 0.5), 4),
        GREY / 2 + 127.5,
    ),
    "opaque PNG in colours": (lambda path: png_of_16_bits(path, with_alpha(DEEP_COLOURS, 1), 6), COLOURS),
    "Pillow's LZW": (lambda path: Image.fromarray(RAMP.astype(np.uint16)).save(path, compression="tiff_lzw"), GREY),
}


@pytest.mark.parametrize("kind", WIDE)
def test_wide_channels_of_every_kind(tmp_path, kind):
    write, expected = WIDE[kind]
    path = tmp_path / f"a.{'png' if 'PNG' in kind else 'tif'}"
    write(path)
    found = find_pixel_range([path])
    pixels = read(path, pixel_range=found and found[0]).astype(int)
    expected = expected if expected.ndim == 3 else expected[..., None]
    assert np.abs(pixels - np.broadcast_to(expected, pixels.shape)).max() <= 2


@pytest.mark.parametrize("suffix", ["tif", "png", "jpg", "gif", "webp", "bmp", "jp2"])
def test_files_cut_anywhere_are_unreadable_and_nothing_else(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(COLOURS).save(path)
    content = path.read_bytes()
    for length in {*range(0, 200, 3), len(content) // 2, len(content) - 5}:
        path.write_bytes(content[:length])
        for reader in (read_image, read_header, check_content):
            try:
                reader(path)
            except UNREADABLE:
                continue
