"""The picture that grows: a column before training, one at the first evaluation, one after training."""

from types import SimpleNamespace

import numpy as np
from PIL import Image

from mona_peft.tasks.reporting.pictures import PredictionPictures


def test_a_column_is_added_before_at_the_first_evaluation_and_after(tmp_path):
    colours = iter(["red", "lime", "blue"])
    inputs = {"input": [Image.new("RGB", (8, 8), "white")]}
    pictures = PredictionPictures(tmp_path / "p.png", inputs, lambda: [Image.new("RGB", (8, 8), next(colours))])
    pictures.add("before training")
    for epoch in (1.0, 2.0):
        pictures.on_evaluate(None, SimpleNamespace(is_world_process_zero=True, epoch=epoch), None)
    pictures.add("after training")
    assert list(pictures.columns) == ["input", "before training", "epoch 1", "after training"]
    with Image.open(tmp_path / "p.png") as panel:
        row = np.asarray(panel.convert("RGB"))[panel.height // 2]
    places = [int(np.flatnonzero((row == colour).all(1)).mean()) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    assert places == sorted(places)


def test_other_processes_draw_nothing(tmp_path):
    pictures = PredictionPictures(tmp_path / "p.png", {"input": []}, lambda: [])
    pictures.on_evaluate(None, SimpleNamespace(is_world_process_zero=False, epoch=1.0), None)
    assert not (tmp_path / "p.png").exists()
