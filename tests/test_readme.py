"""What the README says runs, and shows what was measured."""

from __future__ import annotations

import json
import re

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForImageClassification

from mona_peft import cli
from scripts.demonstration import cells_demo
from tests.documents import HUB_MODEL, README, ROOT, commands, snippets

TEXT = README.read_text(encoding="utf-8")
TRAIN, PREDICT = (command for command in commands(README) if command[0] in ("train", "predict"))
USE, ADAPT = snippets(README, "python")
RUN = "outputs/mine"


@pytest.fixture
def at_home(swin_folder, image_folder, tmp_path, monkeypatch):
    """Lets the README's code run in an empty folder, on a model and images that are there."""
    monkeypatch.chdir(tmp_path)
    images = str(image_folder)
    places = {"path/to/images": images, "path/to/photos": images, HUB_MODEL: str(swin_folder)}

    def run(code: str) -> str:
        for written, place in places.items():
            code = code.replace(written, place)
        return code

    return run


def test_what_is_trained_is_used_to_predict_and_from_python(at_home, image_folder, tmp_path, capsys):
    assert cli.run([*map(at_home, TRAIN), "--max_steps", "1", "--use_cpu", "--disable_tqdm", "true"]) == 0
    assert cli.run([*map(at_home, PREDICT), "--use_cpu"]) == 0
    lines = (tmp_path / "predictions" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len([*image_folder.rglob("*.png")])
    line = json.loads(lines[0])
    capsys.readouterr()
    exec(USE.replace("path/to/image.jpg", line["image"]), {})
    assert f"'label': '{line['label']}'" in capsys.readouterr().out


def test_adapting_in_python_runs_and_what_it_saves_loads(at_home, swin_folder):
    names: dict = {}
    exec(at_home(ADAPT), names)
    base = AutoModelForImageClassification.from_pretrained(swin_folder, num_labels=10, ignore_mismatched_sizes=True)
    reloaded = PeftModel.from_pretrained(base, "swin-tiny-mona").eval()
    pixel_values = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(reloaded(pixel_values).logits, names["model"].eval()(pixel_values).logits)


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"make ([\w-]+)", TEXT))
    assert {"demo", "docs", "test"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_linked_files_exist():
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    local = [link for link in links if not link.startswith("http")]
    assert len(local) > 3
    assert not [link for link in local if not (ROOT / link).exists()]


def test_it_is_short():
    assert len(TEXT.splitlines()) < 150


def test_demonstration_table_is_the_record_of_a_run():
    records = json.loads((ROOT / "docs" / "demo.json").read_text(encoding="utf-8"))
    assert cells_demo.results_table(records) in TEXT
