"""Datasets of the hub: what is handed on to it, and the shapes that its datasets have."""

import numpy as np
import pytest
from datasets import load_dataset

from mona_peft.tasks.data import hub as hub_reader
from mona_peft.tasks.data.objects.check import decode_masks
from scripts.data_formats import hub
from scripts.data_formats.loading import load
from scripts.data_formats.objects import BOXES

BY_TASK = {
    "image-classification": hub.classes,
    "object-detection": hub.cppe5,
    "instance-segmentation": hub.ade20k_mini,
    "semantic-segmentation": hub.sidewalk,
}


@pytest.mark.parametrize("task", BY_TASK)
def test_revision_token_and_cache_reach_the_hub(tmp_path, monkeypatch, task):
    """Of the table, and of the file with the names of the classes beside it."""
    BY_TASK[task](tmp_path / "set")
    asked = []

    def loaded(name, config, **place):
        asked.append((name, config, place))
        return load_dataset(str(tmp_path / "set"), cache_dir=tmp_path / "elsewhere")

    def downloaded(name, file, repo_type, **place):
        asked.append((name, repo_type, place))
        return tmp_path / "set" / file

    monkeypatch.setattr(hub_reader, "load_dataset", loaded)
    monkeypatch.setattr(hub_reader, "hf_hub_download", downloaded)
    options = ["--dataset_config", "small", "--dataset_revision", "v2", "--token", "secret", "--cache_dir", "cache"]
    splits, classes = load(task, ["--dataset", "somebody/pets", *options])
    place = {"revision": "v2", "token": "secret", "cache_dir": "cache"}
    names = [("somebody/pets", "dataset", place)] if task == "semantic-segmentation" else []
    assert asked == [("somebody/pets", "small", place), *names]
    assert {split: len(rows) for split, rows in splits.items()} == hub.SPLITS
    assert len(classes) == 2 + (task == "instance-segmentation")


@pytest.mark.parametrize("reduced", [False, True])
def test_instance_maps_are_the_objects_that_were_drawn(tmp_path, reduced):
    hub.ade20k_mini(tmp_path)
    options = ["--reduce_labels"] if reduced else []
    splits, classes = load("instance-segmentation", ["--dataset", str(tmp_path), *options])
    assert classes == (["cat", "dog"] if reduced else ["nothing", "cat", "dog"])
    row = splits["train"][1]
    found = dict(zip(row["objects"]["category"], decode_masks(row["objects"], 48, 40), strict=True))
    assert set(found) == set(range(len(classes)))
    for name, (x, y, w, h) in BOXES.items():
        expected = np.zeros((40, 48), bool)
        expected[y : y + h, x : x + w] = True
        assert (found[classes.index(name)] == expected).all()
