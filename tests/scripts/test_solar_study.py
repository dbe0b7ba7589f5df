"""The study on solar cells: which runs it wants, its statistics, and a run in small."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from transformers import Dinov2Config, Dinov2Model

from scripts.demonstration import cell_inputs, solar_cells
from scripts.demonstration.solar_cells import SolarCells
from scripts.solar_study import training
from scripts.solar_study.__main__ import main
from scripts.solar_study.plan import CELLS, RATES, ROWS, SEEDS, STAGES, Row, Run, chosen_rate, key_of, missing
from scripts.solar_study.statistics import auc, difference, holm


def made_up(run: Run, value: float) -> dict:
    return {"row": run.row.name, "learning_rate": run.rate, "seed": run.seed} | {
        "num_images": {"train": run.cells},
        "results": {"validation": {"auc": value, "loss": 0.5}},
    }


def test_rates_are_searched_for_first_and_seeds_of_all_rows_go_together():
    records = {}
    order = []
    while run := next(missing(records), None):
        order.append(run)
        records[run.key] = made_up(run, 0.9 - abs(np.log10(run.rate / 3e-3)) / 10)
    for row in ROWS:
        assert chosen_rate(row, CELLS, records) == pytest.approx(3e-3 if row.name != "full" else 1e-3)
    first_other = next(place for place, run in enumerate(order) if run.seed != SEEDS[0])
    assert {run.row.name for run in order[:first_other]} == {row.name for row in ROWS}
    after = order[first_other : first_other + 2 * len(ROWS)]
    assert [run.seed for run in after] == [1] * len(ROWS) + [2] * len(ROWS)
    for stage in STAGES:
        done = [run for run in order if run.cells == stage.cells and run.row in stage.rows]
        assert all({run.seed for run in done if run.row == row} >= set(stage.seeds) for row in stage.rows)
        at_others = {run.rate for run in done if run.row.name == "mona" and run.cells != CELLS}
        assert at_others <= {1e-3, 3e-3, 1e-2}  # the neighbours of what 400 cells chose
    spared = {run.rate for run in order if run.row.name == "mona-spared"}
    assert spared == {3e-3}  # Mona's, not searched for
    assert all(run.rate in RATES for run in order)


def test_weighted_area_is_that_of_the_repeated_cells():
    random = np.random.default_rng(0)
    labels, scores = random.integers(0, 2, 50), random.random(50)
    drawn = random.integers(0, 50, (3, 50))
    weights = np.stack([np.bincount(row, minlength=50) for row in drawn]).astype(float)
    expected = [roc_auc_score(labels[row], scores[row]) for row in drawn]
    assert auc(labels, scores, weights) == pytest.approx(expected, abs=1e-3)
    assert auc(labels, scores, np.ones((1, 50)))[0] == pytest.approx(roc_auc_score(labels, scores))


def test_a_clear_difference_is_one_and_noise_is_none():
    random = np.random.default_rng(1)
    labels = random.integers(0, 2, 300)
    noisy = [labels + 3 * random.normal(size=300) for _ in range(4)]
    better = [labels + 0.5 * random.normal(size=300) for _ in range(4)]
    clear, none = difference(labels, better, noisy), difference(labels, noisy, noisy[::-1])
    assert clear.p_value < 0.01
    assert clear.seeds[0] > 0.1
    assert clear.cells[0] > 0.1
    assert (clear.ahead, clear.count) == (4, 4)
    assert none.mean == pytest.approx(0)
    assert none.p_value > 0.5
    single = difference(labels, better[:1], noisy[:1])
    assert single.seeds is None
    assert single.p_value == 1  # whatever the cells say
    assert single.cells[0] > 0.1


def test_holm_multiplies_and_keeps_the_order():
    corrected = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert corrected == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})


def test_a_run_in_small_leaves_a_record(tmp_path, monkeypatch):
    torch.manual_seed(0)
    settings = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2, "image_size": 56}
    Dinov2Model(Dinov2Config(**settings, architectures=["Dinov2Model"])).save_pretrained(tmp_path)
    monkeypatch.setattr(cell_inputs, "dinov2_small", lambda: tmp_path)
    monkeypatch.setattr(solar_cells, "NUM_TEST", 24)
    for name, value in {"CELLS": 24, "NUM_VALIDATION": 24, "NUM_EPOCHS": {12: 1, 24: 1, 48: 1}}.items():
        monkeypatch.setattr(training, name, value)
    images = np.random.default_rng(0).integers(0, 255, (96, 60, 60), dtype=np.uint8)
    bench = training.Bench(SolarCells(images, np.tile([0, 1, 2, 3], 24) / 3, np.repeat(["mono", "poly"], 48)))
    fewer, drawn, more = (bench.drawn(seed=1, cells=number) for number in (12, 24, 48))
    for parts, total in ((fewer, 60), (drawn, 72), (more, 96)):
        assert sum(map(len, parts.values())) == len(set(np.concatenate(list(parts.values())))) == total
        assert np.array_equal(parts["validation"], drawn["validation"])
    assert set(fewer["train"]) < set(drawn["train"]) < set(more["train"])
    row = Row("mona", "Mona", "mona", 1e-3, {"bottleneck_dim": 4}, first_block=1)
    alike = bench.inputs(row, drawn)[drawn["test"], 0]
    assert torch.equal(alike, training.Bench(bench.cells).inputs(row, more)[drawn["test"], 0])
    mirrored = cell_inputs.mirrored_inputs(cell_inputs.classifier(), 1, cell_inputs.pixel_values(images))
    assert torch.allclose(bench.inputs(row, more)[more["train"]].float(), mirrored[more["train"]].float(), atol=0.02)
    run = Run(row, 24, 1e-3, 1)
    record = json.loads(json.dumps(training.train(bench, run)))
    assert key_of(record) == run.key
    assert len(record["test_scores"]) == 24
    assert record["settings"]["bottleneck_dim"] == 4
    assert 0 < record["parameters"]["adapter"] < record["parameters"]["trainable"] < record["parameters"]["base"]
    assert training.train(bench, run)["test_scores"] == record["test_scores"]
    spared = training.train(bench, replace(run, row=replace(run.row, is_sparing=True, weight_decay=0.5)))
    assert spared["settings"]["decays"]
    assert spared["test_scores"] != record["test_scores"]
    levels = training.train(bench, replace(run, row=replace(run.row, has_levels=True)))
    assert len(levels["settings"]["classes"]) == 4
    assert levels["parameters"]["trainable"] == record["parameters"]["trainable"] + 2 * (2 * 12 + 1)  # rows of the head
    assert all(0 < score < 1 for score in levels["test_scores"])
    assert levels["test_scores"] != record["test_scores"]


def test_records_that_cannot_be_written_are_told_of_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "load_bench", lambda: pytest.fail("the cells were loaded"))
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        main(["run", "--records", str(tmp_path / "file" / "records.jsonl.gz")])
