"""What a run has trained is loaded again by one line, and works in transformers' pipelines: all four tasks."""

import logging
import re
import shutil

import pytest
import torch
from peft import PeftModel
from PIL import Image
from transformers import PreTrainedModel, Trainer, pipeline

import mona_peft
from tests.tiny_runs import TASKS, dataset, train

SUBTASKS = {"semantic-segmentation": {"subtask": "semantic"}, "instance-segmentation": {"subtask": "instance"}}


def trained_outputs(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        outputs = model(torch.ones(1, 3, 64, 64))
    return outputs.logits if "logits" in outputs else outputs.masks_queries_logits


@pytest.fixture(scope="module", params=TASKS)
def trained(request, tmp_path_factory):
    """A short training of each task: its name, its output directory, and what the trained model says of an image."""
    models = []
    with pytest.MonkeyPatch.context() as patch:
        original = Trainer.train
        patch.setattr(Trainer, "train", lambda self, **given: (models.append(self.model), original(self, **given)))
        folder = train(request.param, tmp_path_factory.mktemp("trained") / "run")
    return request.param, folder, trained_outputs(models[0].eval())


def test_one_line_loads_model_processor_and_labels(trained):
    task, folder, expected = trained
    run = mona_peft.load(folder)
    assert isinstance(run.model, PeftModel)
    assert not run.model.training
    assert torch.equal(trained_outputs(run.model), expected)
    assert run.labels == list(run.model.config.id2label.values())
    assert (run.task.command, run.method) == (task, "mona")
    assert run.settings["dataset"] == str(dataset(task))
    assert run.image_processor(Image.new("RGB", (40, 50)), return_tensors="pt")["pixel_values"].shape[1] == 3


def test_folder_of_the_adapter_alone_is_enough(trained, tmp_path):
    _, folder, expected = trained
    shutil.copytree(folder / "adapter", tmp_path / "moved")
    assert torch.equal(trained_outputs(mona_peft.load(tmp_path / "moved").model), expected)


def test_output_directories_of_older_versions_go_on_loading(trained, tmp_path):
    _, folder, expected = trained
    shutil.copytree(folder, tmp_path / "old")
    (tmp_path / "old" / "adapter" / "run.json").unlink()
    assert torch.equal(trained_outputs(mona_peft.load(tmp_path / "old").model), expected)


def test_loading_and_pipeline_work_without_a_word(trained, caplog):
    task, folder, _ = trained
    image = next(dataset(task).rglob("*.png"))
    logging.getLogger("transformers").addHandler(caplog.handler)
    try:
        run = mona_peft.load(folder)
        predict = pipeline(run.task.pipeline_tag, model=run.model, image_processor=run.image_processor)
        found = predict(str(image), **SUBTASKS.get(task, {"threshold": 0.0} if "detection" in task else {}))
    finally:
        logging.getLogger("transformers").removeHandler(caplog.handler)
    assert not caplog.records
    assert {entry["label"] for entry in found} <= set(run.labels)
    assert found or task == "instance-segmentation"


def test_code_of_the_card_runs(trained, tmp_path, monkeypatch, capsys):
    task, folder, _ = trained
    codes = re.findall(r"```python\n(.*?)```", (folder / "adapter" / "README.md").read_text(), re.DOTALL)
    shutil.copy(next(dataset(task).rglob("*.png")), tmp_path / "image.png")
    names: dict = {}
    for code in codes:
        exec(code.replace("path/to/image.jpg", str(tmp_path / "image.png")), names)
    assert len(codes) == 3
    assert capsys.readouterr().out or "detection" in task or "instance" in task


def test_model_that_was_trained_whole(tmp_path):
    folder = train("image-classification", tmp_path / "run", "--method", "full")
    run = mona_peft.load(folder)
    assert isinstance(run.model, PreTrainedModel)
    assert run.labels == ["blue", "green", "red"]
    assert run.method == "full"


def test_base_model_that_has_moved_is_asked_for_and_given(tmp_path, swin_folder):
    moved = tmp_path / "swin"
    shutil.copytree(swin_folder, moved)
    folder = train("image-classification", tmp_path / "run", "--model", str(moved))
    expected = trained_outputs(mona_peft.load(folder).model)
    shutil.move(moved, tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="base_model="):
        mona_peft.load(folder)
    run = mona_peft.load(folder, base_model=str(tmp_path / "elsewhere"))
    assert torch.equal(trained_outputs(run.model), expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder.rmdir(), "neither a folder here nor a repository"),
        (lambda folder: None, "no trained model in this folder. It needs adapter/ or model/"),
        (lambda folder: (folder / "checkpoint-5").mkdir(), "has not ended"),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), "has no run.json"),
        (
            lambda folder: [(folder / name).write_text("{}") for name in ("adapter_config.json", "run.json")],
            "no record of a run .it lacks task",
        ),
    ],
)
def test_what_can_not_be_loaded_is_named(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(ValueError, match=message):
        mona_peft.load(tmp_path)
