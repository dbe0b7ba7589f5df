"""The benchmarks of reading images, in small: every pipeline and task is measured, and the page says of what."""

import json
from functools import partial

import pytest
from transformers import SwinConfig

from mona_peft.tasks.reporting.pages import place
from scripts.benchmark import loader, loader_inputs, training_run
from scripts.benchmark.__main__ import main
from tests.models import TWO_STAGES


def test_loader(tmp_path, monkeypatch):
    monkeypatch.setattr(loader, "SIZES", {"small": (96, 72)})
    monkeypatch.setattr(loader_inputs, "SIDE", 16)
    monkeypatch.setattr(loader_inputs, "DENSE_SIDE", 32)
    page, record = tmp_path / "page.md", tmp_path / "loader.json"
    page.write_text("\n".join(place("loader", name) for name in ("pipelines", "tasks", "provenance")))
    options = ["--workers", "0", "1", "--images", "2", "--rounds", "1", "--sizes", "small"]
    main(["loader", *options, "--output", str(record), "--page", str(page)])
    found = json.loads(record.read_text())
    named = found["pipelines"]["small"]
    assert {"ours", "ours, no drafts", "transformers' example, in Pillow", "decoding alone"} <= set(named)
    assert all(figures["milliseconds"] > 0 for figures in named.values())
    assert all(list(figures["per_second"]) == ["0", "1"] for figures in named.values())
    assert set(found["tasks"]) == set(loader_inputs.MAKE)
    text = page.read_text()
    assert "| small | ours |" in text
    assert f"torch {found['software']['torch']}" in text
    assert ("torchvision was not there" in text) is not found["torchvision"]


def test_training_run(tmp_path, monkeypatch):
    config = {**TWO_STAGES, "image_size": 224, "num_labels": 2}
    monkeypatch.setattr(training_run, "TINY", SwinConfig(**config))
    small = partial(loader_inputs.photograph, size=(64, 48))
    monkeypatch.setattr(training_run, "photograph", lambda path, size, seed: small(path, seed=seed))
    page, record = tmp_path / "page.md", tmp_path / "training_run.json"
    page.write_text("\n".join(place("training", name) for name in ("runs", "provenance")))
    options = ["--images", "8", "--steps", "3", "--rounds", "1", "--batch_size", "1", "--workers", "0"]
    main(["training_run", *options, "--output", str(record), "--page", str(page)])
    found = json.loads(record.read_text())
    (typed,), (example,) = (found["runs"][way] for way in ("train, Mona", "example, LoRA"))
    assert len(typed["steps"]) == len(example["steps"]) == 1
    assert found["ratios"]["train, Mona / example, LoRA"] == {
        "wall": pytest.approx(typed["wall"] / example["wall"]),
        "processor": pytest.approx(typed["processor"] / example["processor"]),
        "step": pytest.approx(typed["steps"][0] / example["steps"][0]),
    }
    assert min(typed["processor"], example["processor"]) > 0
    rows = [line.strip("| ").split(" | ") for line in page.read_text().splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows[2:]] == list(training_run.WAYS)
    assert rows[-1][-2:] == ["1.000", "1.000"]
    assert f"torch {found['software']['torch']}" in page.read_text()
