"""Overlays on pictures whose every pixel is known."""

import numpy as np
from PIL import Image

from mona_peft.tasks.reporting.overlays import overlay_boxes, overlay_class_map, overlay_masks, palette, save_panel

GREY = Image.new("RGB", (4, 3), (100, 100, 100))


def test_colours_differ():
    colours = palette(60).astype(int)
    distances = np.abs(colours[:, None] - colours[None]).sum(-1) + 1000 * np.eye(60, dtype=int)
    assert distances.min() > 10
    assert min(distances[number, number + 1] for number in range(59)) > 150


def test_class_map_is_painted_where_a_class_is():
    class_map = np.array([[0, 1, 2, 255], [0, 0, 1, -1], [2, 2, 2, 0]])
    pixels = np.asarray(overlay_class_map(GREY, class_map, 3, unpainted=[0], opacity=0.5))
    colours = palette(3)
    for row in range(3):
        for column in range(4):
            label = class_map[row, column]
            expected = (
                [100] * 3 if label in (-1, 0, 255) else np.round((100 + colours[label].astype(float)) / 2).tolist()
            )
            assert pixels[row, column].tolist() == expected


def test_masks_are_painted_from_back_to_front():
    masks = np.zeros((2, 3, 4), dtype=bool)
    masks[0, :2], masks[1, 1:, 0] = True, True
    pixels = np.asarray(overlay_masks(GREY, masks, [4, 1], 5, opacity=1))
    colours = palette(5).tolist()
    expected = [[colours[4]] * 4, [colours[1], *[colours[4]] * 3], [colours[1], *[[100] * 3] * 3]]
    assert pixels.tolist() == expected


def test_boxes_enclose_their_pixels():
    image = Image.new("RGB", (96, 96))
    picture = overlay_boxes(image, np.array([[20, 40, 50, 90]]), [1], ["a", "b"], [0.87])
    assert picture.size == (288, 288)
    colour = (np.asarray(picture) == palette(2)[1]).all(-1)
    box = colour.copy()
    box[: 40 * 3] = False  # the label stands above
    rows, columns = np.nonzero(box)
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (120, 270, 60, 150)
    assert not colour[125:265, 65:145].any()
    assert colour[:120].any()
    # Where there is no room above, the label stands inside.
    inside = np.asarray(overlay_boxes(image, np.array([[0, 0, 96, 96]]), [1], ["a", "b"]))
    assert (inside == palette(2)[1]).all(-1)[3:8, 3:8].any()


def test_large_images_keep_their_size():
    image = Image.new("RGB", (400, 300))
    assert overlay_boxes(image, np.zeros((0, 4)), [], ["a"]).tobytes() == image.tobytes()


def test_panel_shows_the_pictures(tmp_path):
    red, blue = Image.new("RGB", (8, 8), (255, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 255))
    legend = {"cat": np.array([0, 255, 0])}
    save_panel({"input": [red, red], "prediction": [blue, red]}, tmp_path / "panel.png", legend)
    with Image.open(tmp_path / "panel.png") as panel:
        pixels = np.asarray(panel).reshape(-1, 3)
    counts = [(pixels == colour).all(1).sum() for colour in ((255, 0, 0), (0, 0, 255), (0, 255, 0))]
    assert counts == [3 * 192**2, 192**2, 16**2]
