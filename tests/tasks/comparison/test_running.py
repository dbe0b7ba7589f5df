"""The comparison: run, interrupted, shared among processes; rates chosen."""

import copy
import itertools
import json
import multiprocessing
import os
import pickle
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from PIL import Image
from torch.utils.data import DataLoader
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    Trainer,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    ViTImageProcessorPil,
    default_data_collator,
)

from mona_peft.cli.compare import parse
from mona_peft.cli.compare import run as main
from mona_peft.tasks.comparison import run, study
from mona_peft.tasks.comparison.costs import CostCallback
from mona_peft.tasks.comparison.experiments import best_rate, rates_to_try, settings_of
from mona_peft.tasks.comparison.report import report
from mona_peft.tasks.comparison.rows import ROWS
from scripts.compare_methods.__main__ import comparison, parser
from scripts.compare_methods.__main__ import main as of_the_demonstration
from scripts.compare_methods.studies import STUDIES
from tests.folders import write_masks
from tests.models import FOUR_STAGES, upernet

CLASSIFICATION = STUDIES["image_classification"]


@pytest.fixture
def results(tmp_path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def arguments(swin_folder, image_folder, results) -> list[str]:
    """Runs of four steps."""
    return [
        *("image-classification", "--output_dir", str(results.parent)),
        *("--model", str(swin_folder), "--dataset", str(image_folder)),
        *("--bottleneck_dim", "4", "--num_train_epochs", "2", "--per_device_train_batch_size", "14", "--use_cpu"),
        *("--validation_fraction", "0.25", "--logging_steps", "1", "--rates", "0.001", "0.01", "0.1"),
    ]


def contents(results: Path) -> dict[str, bytes]:
    return {path.relative_to(results).as_posix(): path.read_bytes() for path in results.glob("*/*/*.json")}


def without_times(record: dict) -> dict:
    history = [{key: value for key, value in entry.items() if key != "seconds"} for entry in record["history"]]
    kept = {name: record[name] for name in ("results", "parameters", "settings", "adapter_bytes")}
    return {**kept, "history": history}


def test_every_row_is_run_once_and_reported(arguments, results, tmp_path, capsys):
    arguments = [*arguments, "--rows", "fixed", "full", "mona", "--rates", "0.001", "0.01", "--seeds", "3", "5"]
    main(arguments)
    assert capsys.readouterr().out.count("(validation)") == 9
    before = contents(results)
    # Two rates with the first seed, the best of them with the second.
    assert len(before) == 3 * (2 + 1)
    records = [json.loads(record) for record in before.values()]
    assert {record["row"] for record in records if record["seed"] == 5} == {"fixed", "full", "mona"}
    for row in ("fixed", "full", "mona"):
        mine = [record for record in records if record["row"] == row]
        scores = {r["learning_rate"]: r["results"]["validation"]["top1"] for r in mine if r["seed"] == 3}
        (second,) = [r["learning_rate"] for r in mine if r["seed"] == 5]
        assert scores[second] == max(scores.values())
    fixed, full, mona = (next(r for r in records if r["row"] == row) for row in ("fixed", "full", "mona"))
    assert fixed["parameters"]["adapter"] == 0
    assert fixed["kept_bytes"] < mona["kept_bytes"] < full["kept_bytes"]
    assert fixed["adapter_bytes"] < mona["adapter_bytes"] < full["adapter_bytes"]
    assert mona["settings"]["bottleneck_dim"] == 4
    assert {record["software"]["torch"] for record in records} == {fixed["software"]["torch"]}
    assert 0 < mona["step_seconds"] < mona["seconds"]
    assert [entry["epoch"] for entry in mona["history"] if "eval_loss" in entry] == [1, 2]
    assert not list((results / run.RUNNING).rglob("*.safetensors"))

    main(arguments)  # nothing is missing
    assert contents(results) == before

    text = (tmp_path / "comparison.md").read_text()
    assert "| Full fine-tuning | " in text
    assert "| all | 9 | " in text
    for picture in ("results.png", "curves.png"):
        assert f"(comparison/{picture})" in text
        with Image.open(tmp_path / "comparison" / picture) as image:
            assert image.width > 500


def test_an_interrupted_run_goes_on_from_its_checkpoint(arguments, results, monkeypatch):
    arguments = [*arguments, "--rows", "mona", "--rates", "0.01", "--seeds", "0"]
    main([*arguments, "--output_dir", str(results.with_name("straight"))])
    original, counter = Trainer.training_step, itertools.count()

    def training_step(self, *args, **kwargs):
        if next(counter) == 3:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "training_step", training_step)
    with pytest.raises(KeyboardInterrupt, match=r"Interrupted. The same command goes on."):
        main(arguments)
    assert not contents(results)
    main(arguments)
    assert next(counter) == 4 + 2  # the second epoch alone was done again
    (record,), (straight,) = (
        map(json.loads, contents(folder).values()) for folder in (results, results.with_name("straight") / "runs")
    )
    assert without_times(record) == without_times(straight)
    seconds = [entry["seconds"] for entry in record["history"]]
    assert seconds == sorted(seconds)
    assert record["seconds"] > seconds[-1]


def test_two_processes_share_the_work(arguments, results, capfd, monkeypatch):
    assert pickle.loads(pickle.dumps(parse(arguments)[0])) == parse(arguments)[0]  # for new processes
    monkeypatch.setattr(run, "START_METHOD", "fork")  # quicker: nothing is imported anew
    main([*arguments, "--rows", "fixed", "--seeds", "0", "1", "--jobs", "2"])
    finished = [line.split(":")[0] for line in capfd.readouterr().out.splitlines() if "(validation)" in line]
    assert sorted(f"{name}.json" for name in finished) == sorted(contents(results))
    assert len(finished) == 4


def hold_and_die(lock: Path) -> None:
    FileLock(lock).acquire()
    os._exit(9)


def test_a_run_in_other_hands_is_waited_for_and_a_dead_processs_taken_over(
    arguments, swin_folder, results, monkeypatch
):
    folder = results / run.RUNNING / swin_folder.name / "fixed"
    folder.mkdir(parents=True)
    process = multiprocessing.get_context("fork").Process(target=hold_and_die, args=(folder / "rate-0.01-seed-0.lock",))
    process.start()
    process.join()
    assert process.exitcode == 9
    other = FileLock(folder / "rate-0.001-seed-0.lock")
    other.acquire()
    waits = []

    def sleep(seconds: float) -> None:
        waits.append(list(contents(results)))
        other.release()  # the other process ends without a result

    monkeypatch.setattr(run.time, "sleep", sleep)
    main([*arguments, "--rows", "fixed", "--rates", "0.001", "0.01", "--seeds", "0"])
    assert waits == [[f"{swin_folder.name}/fixed/rate-0.01-seed-0.json"]]
    assert len(contents(results)) == 2


def test_an_experiment_that_fails_does_not_stop_the_others(arguments, results, monkeypatch, capsys):
    original = study.train

    def train(training, model_args, data_args, method_args, args, callbacks):
        if args.learning_rate == 0.01:
            raise MemoryError("too large")
        return original(training, model_args, data_args, method_args, args, callbacks)

    monkeypatch.setattr(study, "train", train)
    with pytest.raises(ValueError, match=r"1 experiments have failed, such as .*/fixed/rate-0.01-seed-0"):
        main([*arguments, "--rows", "fixed", "--seeds", "0"])
    assert "MemoryError: too large" in capsys.readouterr().out
    assert len(contents(results)) == 2


def test_a_rate_that_destroys_a_model_does_not_stop_the_others(arguments, results, monkeypatch, capsys):
    original = Trainer.training_step

    def training_step(self, *args, **kwargs):
        if self.args.learning_rate == 0.01:
            raise ValueError("matrix contains invalid numeric entries")  # as the matching of DETR's queries does
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "training_step", training_step)
    with pytest.raises(ValueError, match=r"1 experiments have failed, such as .*/fixed/rate-0.01-seed-0"):
        main([*arguments, "--rows", "fixed", "--seeds", "0"])
    assert "rate-0.01-seed-0 failed:\nTraceback" in capsys.readouterr().out
    assert len(contents(results)) == 2


def test_a_row_that_does_not_go_with_the_model_is_tried_once(arguments, results, tmp_path, capsys):
    config = ConvNextConfig(hidden_sizes=[8] * 4, depths=[1] * 4)
    ConvNextForImageClassification(config).save_pretrained(tmp_path / "convnext")
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "convnext")
    argv = [*arguments, "--model", str(tmp_path / "convnext"), "--max_steps", "1", "--seeds", "0"]
    with pytest.raises(ValueError, match="3 experiments have failed, such as convnext/adaptformer"):
        main([*argv, "--rows", "adaptformer", "fixed"])
    output = capsys.readouterr().out
    assert output.count("can't run: sites=('mlp',): the chosen blocks (ConvNextLayer) have one residual each") == 1
    assert "Choose another method for this model." in output
    assert len(contents(results)) == 3


def test_equal_seeds_mean_equal_heads_and_orders_for_all_methods(arguments, results, tmp_path):
    config = SwinConfig(image_size=32, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4, drop_path_rate=0)
    SwinForImageClassification(config).save_pretrained(tmp_path / "plain")
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "plain")
    arguments = [*arguments, "--model", str(tmp_path / "plain"), "--rates", "0.001", "--max_steps", "1"]
    main([*arguments, "--rows", "fixed", "full", "mona", "--seeds", "0"])
    main([*arguments, "--rows", "fixed", "--seeds", "1"])
    first = {}
    for record in map(json.loads, contents(results).values()):
        (loss,) = [entry["loss"] for entry in record["history"] if "loss" in entry]
        first.setdefault(record["seed"], []).append(loss)
    assert first[0] == pytest.approx([first[0][0]] * 3, abs=1e-5)
    assert abs(first[0][0] - first[1][0]) > 1e-3


def test_records_of_other_settings_and_broken_ones_are_named(arguments, results):
    arguments = [*arguments, "--rows", "fixed", "--rates", "0.001", "--seeds", "0"]
    main(arguments)
    (name,) = contents(results)
    with pytest.raises(ValueError, match=rf"{name} ran with other settings .*max_steps=-1 \(now 1\).*another folder"):
        main([*arguments, "--max_steps", "1"])
    for options, message in (
        (["--adam_beta2", "0.5"], r"adam_beta2=0\.999 \(now 0\.5\)"),
        (["--data_seed", "0"], "data_seed"),
    ):
        with pytest.raises(ValueError, match=message):
            main([*arguments, *options])
    with pytest.raises(ValueError, match=r"is of another task than object detection\. Give its --task"):
        of_the_demonstration(["report", "--results", str(results), "--task", "object_detection"])
    whole = (results / name).read_bytes()
    (results / name).write_bytes(whole[:100])
    for command, argv in ((main, arguments), (of_the_demonstration, ["report", "--results", str(results)])):
        with pytest.raises(ValueError, match=rf"{name} holds no record of a run .*Remove it"):
            command(argv)
    misplaced = results / name.replace("seed-0", "seed-7")
    (results / name).rename(misplaced)
    misplaced.write_bytes(whole)
    with pytest.raises(ValueError, match=r"seed-7.json holds the record of .*seed-0. Move it"):
        main(arguments)


@pytest.mark.parametrize("options", [["--num_train_epochs", "many"], ["--optim", "magic"]])
def test_wrong_arguments_are_known_before_anything_runs(arguments, results, options):
    with pytest.raises((SystemExit, ValueError)):
        main([*arguments, *options])
    assert not results.exists()


def test_models_whose_results_would_go_to_one_place_are_refused(arguments):
    with pytest.raises(ValueError, match=r"--model a/model b/model: results are kept by the last part of the name"):
        main([*arguments, "--model", "a/model", "b/model"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--jobs", "0"], "at least 1"),
        (["--threads", "-1"], "at least 1"),
        (["--rates", "0.001", "nan"], "learning rate above 0"),
        (["--rates", "0"], "learning rate above 0"),
        (["--seeds", "-1"], "from 0 up"),
    ],
)
def test_numbers_that_are_none_are_refused(arguments, options, message, capsys):
    with pytest.raises(SystemExit):
        main([*arguments, *options])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("argument", ["--dataset", "--preset"])
def test_own_data_are_what_the_package_s_command_is_for(argument):
    with pytest.raises(ValueError, match=r"On your own images it is `mona-peft compare image-classification --dataset"):
        of_the_demonstration(["run", argument, "mine"])


@pytest.mark.parametrize("argument", ["--learning_rate", "--learning-rate", "--seed=3", "--method"])
def test_arguments_that_the_comparison_gives_are_refused(arguments, argument):
    with pytest.raises(
        ValueError,
        match=rf"{argument.split('=')[0].replace('g-r', 'g_r')}: the comparison gives these itself; see --rows",
    ):
        main([*arguments, argument])


GRID = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)


@pytest.mark.parametrize(
    ("scores", "wanted"),
    [
        ({}, {3e-4, 1e-3, 3e-3}),
        ({1e-3: 0.5}, {3e-4, 3e-3}),
        ({3e-4: 0.4, 1e-3: 0.5, 3e-3: 0.3}, set()),
        ({3e-4: 0.6, 1e-3: 0.5, 3e-3: 0.3}, {1e-4}),
        ({1e-4: 0.7, 3e-4: 0.6, 1e-3: 0.5, 3e-3: 0.3}, set()),  # the grid's edge
        ({3e-4: 0.4, 1e-3: 0.5, 3e-3: 0.6}, {1e-2}),
    ],
)
def test_rates_are_tried_outwards_until_the_best_has_neighbours(scores, wanted):
    assert rates_to_try(GRID, {rate: (score, -1.0) for rate, score in scores.items()}) == wanted


def test_small_grids_are_tried_whole():
    assert rates_to_try((1e-3, 1e-2), {}) == {1e-3, 1e-2}
    assert rates_to_try((1e-3,), {1e-3: (0.5, -1.0)}) == set()


def test_of_equal_accuracies_the_lower_loss_wins_then_the_lower_rate():
    assert best_rate({1e-3: (0.5, -1.0), 1e-2: (0.5, -0.9), 1e-1: (0.4, -0.1)}) == 1e-2
    assert best_rate({1e-2: (0.5, -1.0), 1e-3: (0.5, -1.0)}) == 1e-3


def test_further_backbones_run_the_main_rows_alone():
    args, defaults = parser().parse_known_args(["run", "--model", "first", "second"])
    rows = {(e.backbone, e.row.name) for e in comparison(args, defaults).missing({})}
    assert {row for backbone, row in rows if backbone == "first"} == set(ROWS)
    assert {row for backbone, row in rows if backbone == "second"} == {"full", "fixed", "mona"}


def test_on_own_data_methods_are_compared_and_no_ablations():
    wanted, _ = parse(["image-classification", "--output_dir", "out", "--dataset", "data", "--model", "swin"])
    rows = {e.row.name for e in wanted.missing({})}
    assert {"full", "lora", "mona"} < rows
    assert not rows & {"mona-half-width", "mona-v1", "mona-paper-init", "full-long"}


def test_rows_that_the_defaults_make_equal_are_refused():
    args, defaults = parser().parse_known_args(
        ["run", "--rows", "lora", "mona", "mona-paper-init", "--init_weights", "paper"]
    )
    with pytest.raises(ValueError, match=r"mona-paper-init is the same training as mona. Name the rows without it"):
        comparison(args, defaults)


@pytest.mark.parametrize(
    ("given", "wanted"), [(("--num_train_epochs", "4"), (12, -1)), (("--max_steps", "30"), (4, 90))]
)
def test_a_longer_row_trains_longer_than_the_defaults_say(given, wanted):
    args, defaults = parser().parse_known_args(["run", "--rows", "mona", "mona-long", *given])
    settings = {e.row.name: settings_of(e) for e in comparison(args, defaults).missing({})}
    lengths = settings["mona-long"]["num_train_epochs"], settings["mona-long"]["max_steps"]
    assert lengths == wanted
    other = {name for name, value in settings["mona"].items() if settings["mona-long"][name] != value}
    assert other <= {"num_train_epochs", "max_steps"}


@pytest.mark.parametrize("task", STUDIES)
def test_the_defaults_of_every_task_are_arguments_of_its_script(task):
    args, defaults = parser().parse_known_args(["run", "--task", task])
    experiment = comparison(args, defaults).missing({})[0]
    settings = settings_of(experiment)
    assert settings["model_name_or_path"] == experiment.backbone
    assert (settings["bf16"], settings["attn_implementation"]) == (True, "eager")
    assert set(STUDIES[task].metrics) <= set(STUDIES[task].task.metrics)


def test_the_committed_comparison_is_complete_and_of_the_settings_that_hold():
    args, defaults = parser().parse_known_args(["run"])
    assert not comparison(args, defaults).missing(run.records_of(comparison(args, defaults), CLASSIFICATION.results))


def test_new_models_are_built_around_the_backbones_given():
    own = ["--output_dir", "out", "--dataset", "data", "--model_type", "rt_detr", "--model", "swin"]
    wanted, _ = parse(["object-detection", *own])
    model_args, *_ = wanted.missing({})[0].arguments("outputs")
    assert (model_args.model_name_or_path, model_args.backbone) == (None, "swin")


def test_a_dense_task_is_compared_by_its_own_metrics(results, tmp_path):
    write_masks(tmp_path / "data", {"train": 4, "val": 2})
    SwinForImageClassification(SwinConfig(**FOUR_STAGES)).save_pretrained(tmp_path / "swin")
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "swin")
    config = {"hidden_size": 8, "auxiliary_channels": 8, "pool_scales": [1, 2]}
    argv = [
        *("semantic-segmentation", "--dataset", str(tmp_path / "data"), "--validation_split", "val"),
        *("--model_type", "upernet", "--model", str(tmp_path / "swin"), "--model_config", json.dumps(config)),
        *("--image_size", "32", "--crop_size", "32", "--max_steps", "1", "--per_device_train_batch_size", "2"),
        *("--bottleneck_dim", "4", "--rates", "0.001", "--seeds", "0", "--use_cpu", "--rows", "fixed", "mona"),
    ]
    main([*argv, "--output_dir", str(results.parent)])
    fixed, mona = (json.loads(content) for _, content in sorted(contents(results).items()))
    assert fixed["parameters"]["adapter"] == 0 < mona["parameters"]["adapter"]
    assert 0 < fixed["kept_bytes"] < mona["kept_bytes"]
    assert mona["metric"] == "mean_iou"
    assert results.joinpath(f"{mona['experiment']}.png").exists()

    page, short = results.parent / "page.md", tmp_path / "short.md"
    short.write_text("<!-- comparison: summary -->\n<!-- end -->\n")
    for path in (page, short):
        report(STUDIES["semantic_segmentation"], results, path)
    scores = [100 * mona["results"]["validation"][metric] for metric in ("mean_iou", "pixel_accuracy")]
    (row,) = [line for line in short.read_text().splitlines() if line.startswith("| Mona |")]
    assert [cell.strip() for cell in row.strip("|").split("|")[3:]] == [f"{score:.1f}" for score in scores]
    assert "mIoU, validation, %" in page.read_text()
    assert "## Width" not in page.read_text()
    for picture in ("results", "curves", "predictions"):
        assert f"(page/{picture}.png)" in page.read_text()
        assert page.with_suffix("").joinpath(f"{picture}.png").exists()


def test_measuring_what_a_step_keeps_changes_neither_the_model_nor_what_follows():
    model = upernet()
    images = [{"pixel_values": torch.randn(3, 64, 64), "labels": number} for number in range(4)]
    loader = DataLoader(images, batch_size=2, collate_fn=default_data_collator)
    args = TrainingArguments("unused", use_cpu=True, per_device_train_batch_size=2)
    before, expected = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    costs = CostCallback()
    costs.on_train_end(args, TrainerState(), TrainerControl(), model=model, train_dataloader=loader)
    assert costs.kept_bytes > 0
    assert torch.equal(torch.random.get_rng_state(), expected)
    assert any("running_mean" in name for name in before)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
