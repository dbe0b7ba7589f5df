"""The command `evaluate` and the report: numbers computed by hand, one file without links, evaluations added to it."""

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from transformers import Trainer

import mona_peft
from mona_peft.cli import run as cli
from mona_peft.tasks.objects.evaluation import BOXES_AND_MASKS, class_precisions, evaluate_objects, precision_recall
from mona_peft.tasks.reporting.details import Evaluated, classification_details
from mona_peft.tasks.reporting.report import write_evaluation, write_report
from mona_peft.tasks.task import IMAGE_CLASSIFICATION, TASKS
from tests import tiny_runs
from tests.script_runs import run_installed
from tests.scripts.test_coco_evaluation import BOX, LARGE, OTHER, truth
from tests.scripts.test_coco_evaluation import found as detected


class Sources(HTMLParser):
    """What a page asks for, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.text += data


def page_of(run: Path) -> Sources:
    return Sources((run / "report.html").read_text())


def images_of(count: int) -> SimpleNamespace:
    return SimpleNamespace(name=lambda row: f"image {row}.png", image=lambda row: Image.new("RGB", (40, 30)))


def test_classes_and_mistakes_by_hand(tmp_path):
    logits = np.log(np.array([[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.05, 0.9, 0.05], [0.1, 0.2, 0.7]]))
    evaluated = Evaluated(logits, np.array([0, 0, 2, 2]))
    details = classification_details(evaluated, images_of(4), ["a", "b", "<c>"])
    classes, confusion = details.tables
    assert classes.rows == [
        ["a", 2, 1.0, 0.5, pytest.approx(2 / 3)],
        ["b", 0, 0.0, None, 0.0],
        ["<c>", 2, 1.0, 0.5, pytest.approx(2 / 3)],
    ]
    assert confusion.rows == [["a", 1, 1, 0], ["b", 0, 0, 0], ["<c>", 0, 1, 1]]
    assert [says for says, _ in details.pictures] == ["image 2.png", "image 1.png"]  # the surest first, no right ones
    record = {"method": {"method": "mona"}, "classes": ["a", "b", "<c>"], "history": []}
    write_evaluation(tmp_path, "test", IMAGE_CLASSIFICATION, {"loss": 0.5, "top1": 0.5}, details)
    write_report(tmp_path, record, IMAGE_CLASSIFICATION)
    page = page_of(tmp_path)
    assert "<c>" in page.text  # escaped in the page
    assert len(page.sources) == 3
    rows = list(csv.reader((tmp_path / "report" / "test.csv").read_text().splitlines()))
    assert rows[0] == ["class", "images", "precision", "recall", "F1"]
    assert rows[2] == ["b", "0", "0.0", "", "0.0"]
    numbers = json.loads((tmp_path / "report" / "test.json").read_text())
    assert numbers["metrics"] == {"loss": 0.5, "top1": 0.5}
    assert numbers["tables"]["Classes"][0]["recall"] == 0.5


def test_average_precision_of_each_class_and_size_by_hand():
    rows = truth([(0, BOX), (0, OTHER)], [(1, LARGE)])
    detections = {5: [detected(0, [150, 10, 20, 20], 0.9), detected(0, BOX, 0.5)], 6: [detected(1, LARGE, 0.1)]}
    for evaluation in evaluate_objects(rows, detections, BOXES_AND_MASKS).values():
        half = pytest.approx(51 / 202, abs=1e-6)  # of two objects one, behind a wrong detection
        assert class_precisions(evaluation) == [
            [2, half, half, half, pytest.approx(0.5, abs=0.01), 0.0, None],
            [1, 1.0, 1.0, 1.0, None, None, 1.0],
        ]
        recall, precision = precision_recall(evaluation)
        np.testing.assert_allclose(precision[0], np.where(recall <= 0.5, 0.5, 0))
        np.testing.assert_allclose(precision[1], 1)


SAYS = {
    "image-classification": ["Confusion matrix", "Most confident mistakes", "top-1 accuracy", "precision"],
    "semantic-segmentation": ["IoU", "mIoU", "share of pixels", "Predictions before"],
    "object-detection": ["AP, small", "Precision and recall, by box", "Predictions before"],
    "instance-segmentation": ["Classes, by mask", "Precision and recall, by mask", "Predictions before"],
}


@pytest.mark.parametrize("task", list(SAYS))
def test_training_reports_and_evaluation_adds_to_it(task, tmp_path):
    """As a user types it. One file that asks for nothing else; what `evaluate` finds is what training found."""
    run = tmp_path / "run"
    said = run_installed("train", task, *tiny_runs.arguments(task), "--output_dir", str(run)).stdout
    assert f"using recipe {task}/mona: learning rate 0.01 (given; the recipe's is " in said
    assert f'"{TASKS[task].main_metric}"' in said
    assert mona_peft.load(run).labels == json.loads((run / "metrics.json").read_text())["classes"]
    before = page_of(run)
    record = json.loads((run / "metrics.json").read_text())
    for says in [
        *SAYS[task],
        "Evaluation: validation",
        "Recipe",
        "trained parameters",
        "peak memory",
        "Training images as",
    ]:
        assert says in before.text
    assert len(before.sources) >= 2
    assert all(source.startswith("data:image/") for source in before.sources)
    dataset = str(tiny_runs.dataset(task))
    split = "train" if task == "image-classification" else "validation" if task == "semantic-segmentation" else "val"
    evaluate = ["evaluate", str(run), "--dataset", dataset, "--use_cpu", "--batch_size", "2"]
    evaluated = run_installed(*evaluate)
    assert f"{TASKS[task].metrics[TASKS[task].main_metric]}: " in evaluated.stdout
    assert "split too" not in evaluated.stderr  # that the images stand in two splits
    numbers = json.loads((run / "report" / f"{split}.json").read_text())
    if split != "train":  # of the folder of classes training has split validation images off
        found, expected = numbers["metrics"], record["results"]["validation"]
        if task == "instance-segmentation":  # whose loss is of points drawn at random
            assert found.pop("loss") == pytest.approx(expected.pop("loss"), rel=0.1)
        assert found == pytest.approx(expected, rel=1e-4)
    after = page_of(run)
    assert f"Evaluation: {split}" in after.text
    assert "Evaluation: validation" in after.text
    assert "Training" in after.text
    assert (run / "report" / f"{split}.csv").is_file()


def test_images_of_several_classes_are_evaluated_as_in_training(tmp_path):
    folder = tmp_path / "data"
    for split, count in {"train": 4, "validation": 3}.items():
        (folder / split).mkdir(parents=True)
        rows = [f"{number}.png,{['cat', 'cat|dog', 'dog'][number % 3]}" for number in range(count)]
        (folder / split / "metadata.csv").write_text("\n".join(["file_name,label", *rows]))
        for number in range(count):
            noise = np.random.default_rng(number).integers(0, 255, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(noise).save(folder / split / f"{number}.png")
    run = tmp_path / "run"
    options = ["--model", str(tiny_runs.backbone()), "--dataset", str(folder), "--output_dir", str(run)]
    assert cli(["train", "image-classification", *options, *tiny_runs.FEW_STEPS]) == 0
    expected = json.loads((run / "metrics.json").read_text())["results"]["validation"]
    assert expected.keys() == {"loss", "map", "f1_macro", "f1_micro"}
    evaluate = ["evaluate", str(run), "--dataset", str(folder), "--split", "validation", "--use_cpu"]
    assert cli([*evaluate, "--output_dir", str(tmp_path / "again")]) == 0
    numbers = json.loads((tmp_path / "again" / "report" / "validation.json").read_text())
    assert numbers["metrics"] == pytest.approx(expected, rel=1e-4)


def test_validation_images_are_evaluated_once(tmp_path, monkeypatch):
    calls, loop = [], Trainer.evaluation_loop

    def counted(self, dataloader, description, *arguments, **keyword_arguments):
        calls.append(description)
        return loop(self, dataloader, description, *arguments, **keyword_arguments)

    monkeypatch.setattr(Trainer, "evaluation_loop", counted)
    run = tiny_runs.train("image-classification", tmp_path / "run")
    assert calls == ["Evaluation"]
    results = json.loads((run / "metrics.json").read_text())["results"]["validation"]
    assert results.keys() == {"loss", "top1"}
    calls.clear()
    options = ("--eval_strategy", "no", "--load_best_model_at_end", "false")
    tiny_runs.train("image-classification", tmp_path / "other", *options)
    assert calls == ["Prediction"]
    other = json.loads((tmp_path / "other" / "metrics.json").read_text())["results"]["validation"]
    assert other == pytest.approx(results)


def test_what_does_not_fit_the_run_is_said(tmp_path, capsys):
    run = tiny_runs.train("image-classification", tmp_path / "run")
    dataset = str(tiny_runs.dataset("image-classification"))
    assert cli(["evaluate", str(run), "--dataset", dataset, "--split", "holdout"]) == 2
    assert re.search("--split holdout: the dataset has no such split. It has: train", capsys.readouterr().err)
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "pets" / name / "1.png")
    assert cli(["evaluate", str(run), "--dataset", str(tmp_path / "pets")]) == 2
    assert "its classes are cat, dog, and the run knows blue, green, red" in capsys.readouterr().err
