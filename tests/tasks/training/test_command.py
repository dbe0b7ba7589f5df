"""`mona-peft train` as a user types it: what it asks for, what it starts from, what it refuses, how it goes on."""

import json
import re
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from torch import nn
from transformers import AutoModelForImageClassification

from mona_peft import MonaConfig
from mona_peft.cli import run as command
from mona_peft.tasks.models.methods import METHODS
from mona_peft.tasks.task import TASKS
from mona_peft.tasks.training.arguments import parse_arguments
from mona_peft.tasks.training.recipes import find_recipe, machine_settings
from mona_peft.tasks.training.setup import find_training
from mona_peft.tasks.training.train import load_once
from mona_peft.tasks.training.trainer import WholeModelTrainer
from tests.script_runs import equal_weights, interrupt
from tests.tiny_runs import arguments, backbone, dataset

CLASSIFICATION = "image-classification"


def parse(task: str, *argv: str):
    return parse_arguments(find_training(task), [*arguments(task), *argv], prog="mona-peft train", output_dir="out")


def train(task: str, folder: Path, *options: str) -> int:
    return command(["train", task, *arguments(task), "--output_dir", str(folder), *options])


def record_of(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


@pytest.mark.parametrize("task", TASKS)
def test_every_task_and_method_has_a_recipe_that_the_command_starts_from(task):
    for method in METHODS:
        assert 0 < find_recipe(TASKS[task], method).settings["learning_rate"] < 0.1
    argv = arguments(task)
    at = argv.index("--learning_rate")
    del argv[at : at + 2]
    *_, args = parse_arguments(find_training(task), [*argv, "--method", "full"], prog="", output_dir="out")
    recipe = find_recipe(TASKS[task], "full")
    assert args.learning_rate == recipe.settings["learning_rate"]
    assert args.load_best_model_at_end
    assert (args.metric_for_best_model, args.greater_is_better) == (TASKS[task].main_metric, True)
    assert recipe.source in args.recipe_note


@pytest.mark.parametrize(
    ("options", "best"),
    [
        ([], True),
        (["--load_best_model_at_end", "false"], False),
        (["--eval_strategy", "no"], False),
        (["--eval_strategy", "steps"], True),
        (["--eval_strategy", "steps", "--eval_steps", "30"], True),
        (["--save_strategy", "no"], False),
    ],
)
def test_best_checkpoint_is_kept_where_there_is_one(options, best):
    *_, args = parse(CLASSIFICATION, *options)
    assert args.load_best_model_at_end == best
    assert (args.save_strategy != "no") == ("--save_strategy" not in options)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "the task is missing. It comes first"),
        (["image-clasification"], "no such task. There are: image-classification, semantic-"),
        ([CLASSIFICATION, "--model", "x", "--output_dir", "OUT"], "--dataset is missing"),
        ([CLASSIFICATION, "--dataset", "x", "--model", "x"], "--output_dir is missing"),
        (
            ["object-detection", "--dataset", "x", "--output_dir", "OUT"],
            "--model is missing: .*`--model_type rt_detr --backbone microsoft/swin-tiny.* or `--model_type deformable",
        ),
        (
            ["semantic-segmentation", "--dataset", "x", "--output_dir", "OUT", "--model_type", "dpt"],
            "--backbone is missing: --model_type dpt",
        ),
        (
            [CLASSIFICATION, "--dataset", "x", "--modl", "x", "--output_dir", "OUT"],
            "--modl: no such argument. Is --model meant",
        ),
        ([CLASSIFICATION, "ALL", "--do_train", "false"], "--do_train false: .*mona-peft evaluate RUN"),
        ([CLASSIFICATION, "ALL", "--do_eval"], "--do_eval: .*mona-peft evaluate RUN"),
        (
            [CLASSIFICATION, "ALL", "--early_stopping_patience", "2", "--load_best_model_at_end", "false"],
            "--early_stopping_patience 2: .*--load_best_model_at_end true",
        ),
        *(
            ([task, "ALL", "--label_smoothing_factor", "0.1"], "--label_smoothing_factor 0.1: for image-classification")
            for task in TASKS
            if task != CLASSIFICATION
        ),
    ],
)
def test_mistake_is_one_message_and_nothing_is_written(argv, message, tmp_path, capsys):
    task, *options = argv or [""]
    given = [*arguments(task), "--output_dir", "OUT", *options[1:]] if "ALL" in options else options
    given = [str(tmp_path / "run") if argument == "OUT" else argument for argument in given]
    assert command(["train", *([task] if argv else []), *given]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_debug_shows_where_an_error_comes_from(tmp_path):
    with pytest.raises(ValueError, match="no such task"):
        command(["train", "--debug", "flying"])


def test_label_smoothing_changes_the_loss_of_a_classifier(tmp_path):
    losses = []
    for factor in ("0", "0.5"):
        folder = tmp_path / factor
        assert train(CLASSIFICATION, folder, "--label_smoothing_factor", factor, "--learning_rate", "0") == 0
        losses.append(record_of(folder)["results"]["validation"]["loss"])
    assert losses[0] != losses[1]


def test_help_shows_about_twenty_arguments_and_all_shows_the_rest(capsys):
    with pytest.raises(SystemExit) as stopped:
        command(["train", CLASSIFICATION, "--help"])
    assert stopped.value.code == 0
    short = capsys.readouterr().out
    shown = [line for line in short.splitlines() if line.startswith("  --")]
    assert 15 <= len(shown) <= 25
    assert all(group in short for group in ("Data:", "Model and method:", "Training:", "Output:"))
    assert "[20]" in short  # epochs, of the recipe
    with pytest.raises(SystemExit):
        command(["train", CLASSIFICATION, "--help", "all"])
    assert "--adam_beta1" in capsys.readouterr().out


def test_settings_of_the_machine(monkeypatch):
    monkeypatch.setattr("mona_peft.tasks.training.recipes.num_cores", lambda: 12)
    assert machine_settings(on_cpu=True) == {"use_cpu": True}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    assert machine_settings(on_cpu=False) == {"use_cpu": False, "dataloader_num_workers": 8, "bf16": True, "tf32": True}
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert machine_settings(on_cpu=False) == {"use_cpu": False, "dataloader_num_workers": 3}


def adapted(tmp_path: Path, **options) -> tuple[WholeModelTrainer, nn.Module]:
    *_, args = parse(CLASSIFICATION, "--output_dir", str(tmp_path), *options.pop("argv", ()))
    base = AutoModelForImageClassification.from_pretrained(backbone())
    model = get_peft_model(base, MonaConfig(bottleneck_dim=4, modules_to_save="task-head"))
    args.eval_strategy = "no"
    return WholeModelTrainer(model, args), model


def test_weight_decay_spares_norms_biases_and_gammas(tmp_path):
    trainer, model = adapted(tmp_path)
    decayed = {name for name in trainer.get_decay_parameter_names(model) if ".mona_" in name}
    assert {name.rpartition(".")[2] for name in decayed} == {
        "down_weight",
        "up_weight",
        "pw_weight",
        *(f"dw{k}_weight" for k in (3, 5, 7)),
    }
    spared = [group for group in trainer.create_optimizer().param_groups if group["weight_decay"] == 0]
    ids = {id(parameter) for group in spared for parameter in group["params"]}
    gammas = [value for name, value in model.named_parameters() if "gamma" in name or "norm_weight" in name]
    assert gammas
    assert all(id(value) in ids for value in gammas)


def test_head_has_its_own_learning_rate(tmp_path):
    trainer, model = adapted(tmp_path, argv=("--head_learning_rate", "0.5"))
    rates = {id(p): group["lr"] for group in trainer.create_optimizer().param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert rates[id(parameter)] == (0.5 if "classifier" in name else 0.01), name


def test_early_stopping(tmp_path):
    options = ("--early_stopping_patience", "1", "--learning_rate", "0", "--max_steps", "-1", "--num_train_epochs", "9")
    assert train(CLASSIFICATION, tmp_path / "run", *options) == 0
    assert max(entry["epoch"] for entry in record_of(tmp_path / "run")["history"]) == 2


def test_loss_that_is_no_number_stops_and_names_step_images_and_checkpoint(tmp_path, monkeypatch, capsys):
    original = WholeModelTrainer.compute_loss
    seen = []

    def compute_loss(self, model, inputs, *arguments, **more):
        loss = original(self, model, inputs, *arguments, **more)
        seen.append(loss)
        return loss * float("nan") if len(seen) == 2 and model.training else loss

    monkeypatch.setattr(WholeModelTrainer, "compute_loss", compute_loss)
    folder = tmp_path / "run"
    assert train(CLASSIFICATION, folder, "--save_strategy", "steps", "--save_steps", "1") == 2
    error = capsys.readouterr().err
    assert "The loss is nan in step 2, on image " in error
    assert error.count(str(dataset(CLASSIFICATION))) == 2
    assert f"last good checkpoint is {folder / 'checkpoint-1'}" in error


def test_crash_before_the_first_checkpoint_locks_nothing(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt(patch, steps=1)
        with pytest.raises(SystemExit):
            train(CLASSIFICATION, folder)
    (folder / "checkpoint-1").mkdir()  # half written
    capsys.readouterr()
    assert train(CLASSIFICATION, folder) == 0
    assert "stopped before its first checkpoint. It begins anew" in capsys.readouterr().out
    assert record_of(folder)["results"]["validation"]


def test_same_command_goes_on_and_another_is_refused(tmp_path, monkeypatch, capsys):
    options = ("--save_strategy", "steps", "--save_steps", "1", "--load_best_model_at_end", "false")
    assert train(CLASSIFICATION, tmp_path / "straight", *options) == 0
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt(patch, steps=1)
        with pytest.raises(SystemExit):
            train(CLASSIFICATION, folder, *options)
    assert train(CLASSIFICATION, folder, *options, "--seed", "7") == 2
    assert "seed was 42 and is 7" in capsys.readouterr().err
    assert train(CLASSIFICATION, folder, *options) == 0
    assert "It goes on from checkpoint-1" in capsys.readouterr().out
    assert equal_weights(folder / "adapter", tmp_path / "straight" / "adapter")
    assert train(CLASSIFICATION, folder, *options) == 2
    assert "already holds adapter" in capsys.readouterr().err


def test_folder_of_something_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("")
    assert train(CLASSIFICATION, tmp_path) == 2
    assert "already holds thesis.tex" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["paper_classification", "ade20k", "paper_detection", "paper_instance_segmentation"])
def test_presets_are_part_of_the_package(name):
    task = {
        "ade20k": "semantic-segmentation",
        "paper_classification": CLASSIFICATION,
        "paper_detection": "object-detection",
    }
    training = find_training(task.get(name, "instance-segmentation"))
    argv = ["--preset", name, "--dataset", "x", "--use_cpu"]
    model_args, *_, args = parse_arguments(training, argv, prog="", output_dir="out")
    assert model_args.base_model.startswith("microsoft/swin-")
    assert not args.load_best_model_at_end
    assert args.recipe_note == f"using preset {name}"


@pytest.mark.parametrize(("rank", "checked"), [(0, True), (1, False)])
def test_data_are_checked_by_one_process_while_the_others_wait(rank, checked):
    events = []

    class Args:
        process_index, seed = rank, 0

        @contextmanager
        def main_process_first(self, **kwargs):
            events.append("begin")
            yield
            events.append("end")

    given = find_training(CLASSIFICATION).data_arguments(dataset="x", verify_images=True)
    load_once(lambda args, seed: events.append(args.verify_images), given, Args())
    assert events == ["begin", checked, "end"]
    assert given.verify_images  # what the record says


@pytest.mark.parametrize("options", [(), ("--load_best_model_at_end", "false"), ("--eval_strategy", "no")])
def test_no_evaluation_is_done_twice(options, tmp_path, monkeypatch):
    original, calls = WholeModelTrainer.evaluation_loop, []
    monkeypatch.setattr(
        WholeModelTrainer, "evaluation_loop", lambda self, *a, **k: (calls.append(1), original(self, *a, **k))[1]
    )
    epochs = ("--max_steps", "-1", "--num_train_epochs", "2")
    assert train(CLASSIFICATION, tmp_path / "run", *epochs, *options) == 0
    record = record_of(tmp_path / "run")
    evaluated = [entry for entry in record["history"] if "eval_top1" in entry]
    assert len(calls) == (1 if "no" in options else 2)
    found = {(entry["eval_top1"], entry["eval_loss"]) for entry in evaluated}
    result = record["results"]["validation"]
    assert not found or (result["top1"], result["loss"]) in found
    if not options:
        assert result["top1"] == max(entry["eval_top1"] for entry in evaluated)
