"""Pictures of a run: one that grows in training, and images to train on as the model sees them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessorPil

from mona_peft.tasks.reporting.overlays import palette
from mona_peft.tasks.reporting.pictures import PredictionPictures
from mona_peft.tasks.reporting.training_images import draw_inputs, write_training_images


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


PROCESSOR = ViTImageProcessorPil(size={"height": 32, "width": 32}, image_mean=[0.4, 0.5, 0.6], image_std=[0.2] * 3)
INSIDE = torch.zeros(32, 32, dtype=torch.long)
INSIDE[8:24, 8:24] = 1


@pytest.mark.parametrize(
    "labels",
    [
        {"labels": INSIDE},
        {"mask_labels": INSIDE[None].float(), "class_labels": torch.tensor([1])},
        {"labels": {"boxes": torch.tensor([[0.5, 0.5, 0.5, 0.5]]), "class_labels": torch.tensor([1])}},
    ],
)
def test_the_annotation_lies_where_the_model_is_told_that_it_is(labels):
    """Over the colours of the image, from which nothing of the normalisation is left."""
    grey = Image.new("RGB", (32, 32), (90, 100, 110))
    pixel_values = PROCESSOR(grey, return_tensors="pt")["pixel_values"][0]
    labels = {
        name: torch.where(value == 0, 255, value) if name == "labels" and torch.is_tensor(value) else value
        for name, value in labels.items()
    }
    picture = np.asarray(draw_inputs({"pixel_values": pixel_values, **labels}, PROCESSOR, ["a", "b"]).convert("RGB"))
    scale = len(picture) // 32
    changed = (picture != (90, 100, 110)).any(-1)
    rows, columns = np.nonzero(changed)
    assert (rows.max() + 1, columns.min()) == (24 * scale, 8 * scale)
    colour = picture[24 * scale - 1, 16 * scale].astype(int) - (90, 100, 110)
    assert (np.sign(colour) == np.sign(palette(2)[1].astype(int) - (90, 100, 110))).all()


@pytest.mark.parametrize("count", [5, 30])
def test_images_of_the_whole_of_the_data_are_drawn(tmp_path, count):
    asked = []

    class Images:
        image_processor = PROCESSOR

        def __len__(self):
            return count

        def __getitem__(self, index):
            asked.append(index)
            return {"pixel_values": torch.zeros(3, 32, 32), "labels": index % 2}

    path = write_training_images(tmp_path, Images(), ["a", "b"])
    assert asked[0] == 0
    assert asked[-1] == count - 1
    assert len(asked) == min(12, count)
    with Image.open(path) as panel:
        assert panel.width > 4 * 192
