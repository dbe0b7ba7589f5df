"""Output directories, records, model cards and pictures."""

import json

import pytest
import torch
from huggingface_hub import ModelCard
from matplotlib.figure import Figure
from peft import get_peft_model
from transformers import AutoModelForImageClassification, TrainingArguments

from mona_peft import MonaConfig
from mona_peft.tasks.reporting.model_card import model_card
from mona_peft.tasks.reporting.plots import draw_loss, draw_metric
from mona_peft.tasks.task import IMAGE_CLASSIFICATION, OBJECT_DETECTION
from mona_peft.tasks.training.records import hardware, parameter_counts, software
from mona_peft.tasks.training.run_directory import find_checkpoint, replace_directory, replace_file


def write_half(path) -> None:
    path.write_text("sec")
    raise RuntimeError("power cut")


def test_directory_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "adapter"
    with replace_directory(target) as new:
        (new / "weights").write_text("first")
        assert not target.exists()
    with pytest.raises(RuntimeError, match="power cut"), replace_directory(target) as new:
        write_half(new / "weights")
    assert (target / "weights").read_text() == "first"
    with replace_directory(target) as new:
        (new / "weights").write_text("third")
    assert (target / "weights").read_text() == "third"
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_file_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "metrics.json"
    target.write_text("first")
    with pytest.raises(RuntimeError, match="power cut"), replace_file(target) as new:
        write_half(new)
    assert target.read_text() == "first"
    with replace_file(target) as new:
        new.write_text("second")
    assert target.read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


@pytest.mark.parametrize("state", [None, '{"epoch": 1.0, "glob'])
def test_newest_complete_checkpoint_is_taken(tmp_path, state):
    for number in (5, 10):
        (tmp_path / f"checkpoint-{number}").mkdir()
        (tmp_path / f"checkpoint-{number}" / "trainer_state.json").write_text("{}")
    (tmp_path / "checkpoint-15").mkdir()  # its writing was interrupted
    if state is not None:
        (tmp_path / "checkpoint-15" / "trainer_state.json").write_text(state)
    args = TrainingArguments(output_dir=str(tmp_path), resume_from_checkpoint="last", use_cpu=True)
    assert find_checkpoint(args) == str(tmp_path / "checkpoint-10")
    args.resume_from_checkpoint = str(tmp_path / "checkpoint-15")
    with pytest.raises(ValueError, match=r"not a complete checkpoint .*checkpoint-5, .*checkpoint-10; `last`"):
        find_checkpoint(args)


def test_parameter_counts(swin_folder):
    base = AutoModelForImageClassification.from_pretrained(swin_folder)
    num_base, num_head = base.num_parameters(), base.classifier.weight.numel() + base.classifier.bias.numel()
    model = get_peft_model(base, MonaConfig(bottleneck_dim=4, modules_to_save="task-head"))
    counts = parameter_counts(model)
    assert counts["base"] == num_base
    assert counts["trainable"] == model.get_nb_trainable_parameters()[0]
    assert counts["adapter"] == counts["trainable"] - num_head
    assert counts["trainable_share"] == pytest.approx(counts["trainable"] / num_base)


def test_parameter_counts_of_a_whole_model(swin_folder):
    base = AutoModelForImageClassification.from_pretrained(swin_folder)
    num_base, num_head = base.num_parameters(), base.classifier.weight.numel() + base.classifier.bias.numel()
    assert parameter_counts(base) == {
        "base": num_base,
        "trainable": num_base,
        "adapter": num_base - num_head,
        "trainable_share": 1,
    }


CLASSES = ["barn owl", "eagle's owl"]


def make_record(**changes) -> dict:
    record = {
        "base_model": "somebody/swin",
        "model": {"model_name_or_path": "somebody/swin"},
        "dataset": "somebody/owls",
        "classes": CLASSES,
        "num_images": {"train": 10, "validation": 2},
        "method": {"method": "mona", "bottleneck_dim": 64},
        "data": {"dataset": "somebody/owls"},
        "training": {"learning_rate": 1e-3},
        "seed": 42,
        "results": {"validation": {"loss": 0.5, "top1": 0.75}},
        "parameters": {"base": 1000, "trainable": 50, "adapter": 40, "trainable_share": 0.05},
        "adapter_path": "outputs/owls/adapter",
        "hub_model_id": None,
        "software": software(),
    }
    return {**record, **changes}


def test_card_tells_how_to_load_and_what_to_expect(tmp_path):
    model_card(make_record(), IMAGE_CLASSIFICATION).save(tmp_path / "README.md")
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.base_model == "somebody/swin"
    assert {"mona", "image-classification", "base_model:adapter:somebody/swin"} <= set(card.data.tags)
    assert card.data.datasets == ["somebody/owls"]
    assert card.data.library_name == "peft"
    text = card.text
    assert "mona_peft.load('outputs/owls/adapter')" in text
    assert "| validation | 0.7500 |" in text
    assert "5.00% of the model's 1,000" in text
    assert '"learning_rate": 0.001' in text


def test_card_of_a_pushed_run_loads_from_its_repository():
    text = model_card(make_record(hub_model_id="me/owls"), IMAGE_CLASSIFICATION).text
    assert "mona_peft.load('me/owls')" in text
    assert "outputs/owls" not in text


def test_card_of_a_split_without_large_objects_leaves_their_precision_out():
    results = {"validation": {"box_ap": 0.5, "box_ap_large": 0.25}, "test": {"box_ap": 0.125}}
    record = make_record(results=results, model_class="RTDetr", model_module="transformers")
    text = model_card(record, OBJECT_DETECTION).text
    assert "| validation | 0.5000 | 0.2500 |" in text
    assert "| test | 0.1250 |  |" in text


def test_card_gives_the_hub_no_local_folder_as_a_name(tmp_path, swin_folder):
    record = make_record(base_model=str(swin_folder), data={"dataset": str(tmp_path)}, dataset=str(tmp_path))
    data = model_card(record, IMAGE_CLASSIFICATION).data
    assert data.base_model is None
    assert data.datasets is None
    assert data.tags == ["image-classification", "mona"]


def test_curves_show_what_was_logged():
    history = [
        {"epoch": 0.5, "step": 1, "loss": 2.0},
        {"epoch": 1.0, "step": 2, "eval_loss": 1.5, "eval_top1": 0.25},
        {"epoch": 2.0, "step": 4, "loss": 1.0},
        {"epoch": 2.0, "step": 4, "eval_loss": 1.25, "eval_top1": 0.5},
        {"epoch": 2.0, "step": 4, "train_runtime": 3.0, "train_loss": 1.5},
    ]
    loss_axes, metric_axes = Figure().subplots(1, 2)
    draw_loss(loss_axes, {"mona": history})
    draw_metric(metric_axes, {"mona": history}, "top1", "top-1 accuracy")
    lines = {line.get_label(): line.get_xydata().tolist() for axes in (loss_axes, metric_axes) for line in axes.lines}
    assert lines == {
        "mona, training": [[0.5, 2.0], [2.0, 1.0]],
        "mona, validation": [[1.0, 1.5], [2.0, 1.25]],
        "mona": [[1.0, 0.25], [2.0, 0.5]],
    }


def test_hardware_is_what_a_run_was_on(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert hardware(torch.device("cpu"))["num_threads"] == torch.get_num_threads()
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    assert hardware(torch.device("cuda", 0), 8) == {"device": "a GPU", "num_devices": 8}


def test_software_names_versions_as_json():
    assert json.loads(json.dumps(software()))["transformers"].startswith("5.")
