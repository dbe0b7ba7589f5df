"""Tables and curves of a comparison, made of its records."""

import json
import re
from pathlib import Path

import pytest

from scripts.compare_methods.plots import mean_curve
from scripts.compare_methods.report import report
from scripts.compare_methods.rows import ROWS
from scripts.compare_methods.studies import STUDIES
from scripts.compare_methods.summary import summarise

CLASSIFICATION = STUDIES["image_classification"]


@pytest.fixture
def results(tmp_path) -> Path:
    return tmp_path / "runs"


def make_record(row: str, rate: float, seed: int, validation: float, test: float, backbone: str = "small") -> dict:
    trained = {"fixed": 1000, "full": 100_000, "mona": 5000, "mona-half-width": 3000, "mona-v1": 4900}
    trained = trained[row.removesuffix("-long")]
    return {
        "experiment": f"{backbone}/{row}/rate-{rate:g}-seed-{seed}",
        "row": row,
        "learning_rate": rate,
        "seed": seed,
        "metric": "top1",
        "settings": {"bottleneck_dim": {"mona-half-width": 8}.get(row, 16)},
        "base_model": f"models/{backbone}",
        "results": {"validation": {"top1": validation, "loss": 1.0}, "test": {"top1": test, "loss": 1.0}},
        "parameters": {
            "base": 100_000,
            "trainable": trained,
            "adapter": trained - 1000,
            "trainable_share": trained / 1e5,
        },
        "adapter_bytes": 4 * trained,
        "step_seconds": 0.25,
        "kept_bytes": 2_000_000,
        "seconds": 30.0,
        "software": {"torch": "2.0", "transformers": "5.0", "peft": "0.2", "commit": "0123456789abcdef"},
        "hardware": {"device": "abacus", "num_threads": 1},
        "history": [{"epoch": 0.5, "loss": 2.0 + seed}, {"epoch": 1.0, "eval_loss": None, "eval_top1": validation}],
    }


def write_records(results: Path, records: list[dict]) -> None:
    for record in records:
        path = results / f"{record['experiment']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record))


RECORDS = [
    # By the test images 1e-2 would be the better rate of Mona.
    make_record("mona", 1e-4, 0, 0.50, 0.1),
    make_record("mona", 1e-3, 0, 0.70, 0.6),
    make_record("mona", 1e-2, 0, 0.60, 0.9),
    make_record("mona", 1e-3, 1, 0.71, 0.64),
    make_record("mona", 1e-3, 2, 0.69, 0.62),
    make_record("full", 1e-4, 0, 0.80, 0.5),
    make_record("full", 1e-3, 0, 0.70, 0.9),
    make_record("full", 1e-4, 1, 0.71, 0.56),
    make_record("full", 1e-4, 2, 0.69, 0.53),
    make_record("fixed", 1e-3, 0, 0.3, 0.65),
    make_record("fixed", 1e-3, 1, 0.3, 0.60),
    make_record("mona-half-width", 1e-3, 0, 0.6, 0.5),
    make_record("mona-v1", 1e-3, 0, 0.6, 0.4),
    make_record("full", 1e-3, 0, 0.5, 0.45, backbone="tiny"),
    make_record("mona", 1e-3, 0, 0.5, 0.50, backbone="tiny"),
]


def row_of(page: str, heading: str, first: str) -> list[str]:
    part = page.split(f"## {heading}\n")[1].split("<!-- end -->")[0]
    (line,) = [line for line in part.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_tables_are_those_of_the_records(results, tmp_path):
    write_records(results, RECORDS)
    warnings = report(CLASSIFICATION, results, tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert row_of(page, "Methods", "Mona") == [
        *("Mona", "5,000", "4,000", "5.00%", "20 kB", "2.0 MB", "250 ms", "0.001", "70.0 ± 1.0", "62.0 ± 2.0")
    ]
    assert row_of(page, "Methods", "Full fine-tuning")[7:] == ["0.0001 (edge)", "73.3 ± 5.9", "53.0 ± 3.0"]
    # 10, 8 and 9 points, deviation 1; Student's quantile for two degrees of freedom is 4.303.
    assert row_of(page, "Mona against each", "Full fine-tuning")[1:] == [
        *("+9.0 ± 1.0", "+6.5 to +11.5", "3 of 3 seeds", "ahead")
    ]
    # Seeds that both have: -5 and +4.
    assert row_of(page, "Mona against each", "Task head alone")[1:2] == ["-0.5 ± 6.4"]
    assert row_of(page, "Mona against each", "Task head alone")[3:] == ["1 of 2 seeds", "undecided"]
    assert row_of(page, "Width", "8")[1:] == ["3,000", "0.001 (edge)", "60.0", "50.0"]
    assert row_of(page, "Width", "16")[4] == "62.0 ± 2.0"
    assert row_of(page, "Design versions", ROWS["mona-v1"].title)[4] == "40.0"
    assert row_of(page, "Backbones", "tiny") == ["tiny", "100,000", "45.0", "", "50.0", "+5.0"]
    assert row_of(page, "Backbones", "small")[5] == "+9.0 ± 1.0"
    assert row_of(page, "Learning rates", "Mona") == ["Mona", "50.0", "**70.0**", "60.0"]
    assert row_of(page, "Cost", "all")[1:] == ["15", "7.5", "30"]
    assert "abacus, 1 thread(s) a run; torch 2.0, transformers 5.0, peft 0.2; commit `0123456789ab`: 15 runs" in page
    assert "Full fine-tuning on small: the best learning rate, 0.0001, is at the edge of those tried." in warnings
    assert "Task head alone on small: 2 of 3 seeds so far." in warnings
    assert not [warning for warning in warnings if warning.startswith("Mona on small")]
    # Made again it changes the parts, and nothing else.
    (tmp_path / "page.md").write_text("Our words.\n" + page.replace("62.0 ± 2.0", "stale"))
    report(CLASSIFICATION, results, tmp_path / "page.md")
    assert (tmp_path / "page.md").read_text() == "Our words.\n" + page


def test_runs_that_do_not_share_their_settings_are_told_of(results, tmp_path):
    others = [{**record, "settings": {**record["settings"], "num_train_epochs": 4.0}} for record in RECORDS]
    others[0] = {**others[0], "settings": {**others[0]["settings"], "num_train_epochs": 40.0, "adam_beta2": 0.5}}
    write_records(results, others)
    warnings = report(CLASSIFICATION, results, tmp_path / "page.md")
    assert any(re.search(r"num_train_epochs: (4.0, 40.0|40.0, 4.0)\.", warning) for warning in warnings)
    assert any("do not share their adam_beta2" in warning for warning in warnings)
    write_records(results, RECORDS)
    assert not any("do not share" in warning for warning in report(CLASSIFICATION, results, tmp_path / "page.md"))


def test_longer_schedules_are_compared_with_each_other(results, tmp_path):
    longer = [
        make_record("full-long", 1e-3, 0, 0.5, 0.75),
        make_record("mona-long", 1e-3, 0, 0.5, 0.7),
    ]
    records = [
        {**record, "settings": {"num_train_epochs": epochs, "max_steps": -1}}
        for epochs, group in ((4.0, RECORDS[:9]), (12.0, longer))
        for record in group
    ]
    write_records(results, records)
    warnings = report(CLASSIFICATION, results, tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert row_of(page, "Schedule", "4 epochs")[1:] == ["53.0 ± 3.0", "", "62.0 ± 2.0", "+9.0 ± 1.0"]
    assert row_of(page, "Schedule", "12 epochs")[1:] == ["75.0", "", "70.0", "-5.0"]
    assert not any("do not share" in warning for warning in warnings)


def test_curves_are_means_over_the_seeds_at_the_chosen_rate():
    summary = summarise([record for record in RECORDS if record["row"] == "mona" and "small" in record["experiment"]])
    assert mean_curve(summary, "loss") == ([0.5], [3.0])
    assert mean_curve(summary, "eval_loss") == ([], [])


def test_records_of_unknown_rows_and_empty_folders_are_refused(results, tmp_path):
    with pytest.raises(ValueError, match=r"holds no records"):
        report(CLASSIFICATION, results, tmp_path / "page.md")
    write_records(results, [{**RECORDS[0], "row": "magic"}])
    with pytest.raises(ValueError, match=r"of a row that there is not. Rows are: full, fixed"):
        report(CLASSIFICATION, results, tmp_path / "page.md")
    assert not (tmp_path / "page.md").exists()
