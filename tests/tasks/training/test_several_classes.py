"""Images that may show several classes: the thresholds that are found in training are those that predict uses."""

import json

import numpy as np
import pytest
from sklearn.metrics import f1_score

from mona_peft.cli import run as command
from mona_peft.tasks.training.metrics import best_thresholds
from tests.tiny_runs import FEW_STEPS, backbone, dataset


def test_no_other_threshold_has_a_better_f1():
    random = np.random.default_rng(0)
    truth = random.random((60, 3)) < (0.1, 0.5, 0.9)
    logits = 2 * truth + random.normal(0, 2, truth.shape)
    scores = 1 / (1 + np.exp(-logits))
    for number, threshold in enumerate(best_thresholds(logits, truth)):
        f1 = [f1_score(truth[:, number], scores[:, number] >= one) for one in (threshold, *np.linspace(0, 1, 201))]
        assert f1[0] == max(f1)
        assert threshold not in scores[:, number]


def test_classes_that_all_images_show_or_none_are_taken_from_a_half_on():
    truth = np.array([[1, 0], [1, 0], [1, 0]])
    assert best_thresholds(np.random.default_rng(0).normal(size=(3, 2)), truth) == [0.5, 0.5]


def test_thresholds_are_kept_with_the_model_and_used(tmp_path):
    folder = dataset("image-classification")
    names = sorted(path.relative_to(folder) for path in folder.rglob("*.png"))
    rows = [f"{name},{name.parts[0]}{'|bright' * (number % 2)}" for number, name in enumerate(names)]
    (tmp_path / "labels.csv").write_text("\n".join(["image,labels", *rows]))
    run = tmp_path / "run"
    data = ("--dataset", str(tmp_path / "labels.csv"), "--image_dir", str(folder), "--validation_fraction", "0.5")
    train = ["train", "image-classification", "--model", str(backbone()), *data, *FEW_STEPS, "--output_dir", str(run)]
    assert command(train) == 0
    record = json.loads((run / "adapter" / "run.json").read_text())
    own = record["thresholds"]["validation"]
    assert list(own) == record["classes"] == ["blue", "bright", "green", "red"]
    assert list(record["thresholds"]) == ["validation"]

    predict = ["predict", str(run), str(folder), "--use_cpu", "--no_pictures", "--output_dir"]
    for options, thresholds in (((), own), (("--threshold", "0.4"), dict.fromkeys(own, 0.4))):
        out = tmp_path / f"out{len(options)}"
        assert command([*predict, str(out), *options]) == 0
        for text in (out / "predictions.jsonl").read_text().splitlines():
            line = json.loads(text)
            assert line["labels"] == [name for name in own if line["scores"][name] >= thresholds[name]]
            assert line["scores"].keys() == own.keys()
    assert list(own.values()) != pytest.approx([0.5] * 4)
