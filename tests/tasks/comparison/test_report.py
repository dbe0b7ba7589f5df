"""Tables and curves of a comparison, made of its records."""

import json
import re
from pathlib import Path

import pytest

from mona_peft.tasks.comparison.plots import mean_curve
from mona_peft.tasks.comparison.records import PACKED, read_records
from mona_peft.tasks.comparison.report import report
from mona_peft.tasks.comparison.rows import ROWS
from mona_peft.tasks.comparison.summary import summarise
from scripts.compare_methods.__main__ import main
from scripts.compare_methods.studies import STUDIES

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
        "settings": {
            "bottleneck_dim": {"mona-half-width": 8}.get(row, 16),
            "num_train_epochs": 12.0 if row.endswith("-long") else 4.0,
            "max_steps": -1,
            "per_device_train_batch_size": 25,
        },
        "base_model": f"models/{backbone}",
        "dataset": "dots",
        "num_images": {"train": 1000, "validation": 100, "test": 50},
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
    others = list(RECORDS)
    others[0] = {**others[0], "settings": {**others[0]["settings"], "num_train_epochs": 40.0, "adam_beta2": 0.5}}
    others[1] = {**others[1], "num_images": {"train": 1001, "validation": 100, "test": 50}}
    write_records(results, others)
    warnings = report(CLASSIFICATION, results, tmp_path / "page.md")
    assert any(re.search(r"num_train_epochs: (4.0, 40.0|40.0, 4.0)\.", warning) for warning in warnings)
    assert any("do not share their adam_beta2" in warning for warning in warnings)
    assert any("do not share their num_images" in warning and "1001" in warning for warning in warnings)
    write_records(results, RECORDS)
    assert not any("do not share" in warning for warning in report(CLASSIFICATION, results, tmp_path / "page.md"))


def test_longer_schedules_are_compared_with_each_other(results, tmp_path):
    longer = [
        make_record("full-long", 1e-3, 0, 0.5, 0.75),
        make_record("mona-long", 1e-3, 0, 0.5, 0.7),
    ]
    write_records(results, [*RECORDS[:9], *longer])
    warnings = report(CLASSIFICATION, results, tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert row_of(page, "Schedule", "4 epochs")[1:] == ["53.0 ± 3.0", "", "62.0 ± 2.0", "+9.0 ± 1.0"]
    assert row_of(page, "Schedule", "12 epochs")[1:] == ["75.0", "", "70.0", "-5.0"]
    assert not any("do not share" in warning for warning in warnings)


def test_without_test_images_no_result_is_called_one_of_them(results, tmp_path):
    records = [{**record, "results": {"validation": record["results"]["validation"]}} for record in RECORDS]
    write_records(results, records)
    warnings = report(CLASSIFICATION, results, tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert "top-1 accuracy, validation, % |" in page
    assert ", test, %" not in page
    assert row_of(page, "Methods", "Mona")[8:] == ["70.0 ± 1.0"]
    assert row_of(page, "Mona against each", "Full fine-tuning")[1] == "-3.3 ± 5.8"
    assert row_of(page, "Width", "16")[3:] == ["70.0 ± 1.0"]
    assert row_of(page, "Backbones", "tiny") == ["tiny", "100,000", "50.0", "", "50.0", "+0.0"]
    assert "small: there are no test images. Results are on those that chose the learning rates." in warnings


def test_a_page_made_early_gets_the_parts_that_come_later_unless_somebody_wrote_into_it(results, tmp_path):
    page = tmp_path / "page.md"
    write_records(results, RECORDS[:1])
    warnings = report(CLASSIFICATION, results, page)
    assert "small: 1 seed(s) of each row at most, and it takes 3 to tell." in warnings
    assert "There is nothing yet to compare Mona with." in page.read_text()
    early = page.read_text().replace("## Cost", "Ours.\n\n## Cost")
    write_records(results, RECORDS)
    assert not any("has no place" in warning for warning in report(CLASSIFICATION, results, page))
    assert row_of(page.read_text(), "Backbones", "tiny")
    page.write_text(early)
    warnings = report(CLASSIFICATION, results, page)
    assert any("has no place for: widths, designs, backbones." in warning for warning in warnings)
    assert "Ours." in page.read_text()
    assert row_of(page.read_text(), "Cost", "all")[1] == "15"


def test_tables_are_about_the_model_asked_for_and_name_it(results, tmp_path):
    write_records(results, RECORDS)
    page = tmp_path / "page.md"
    report(CLASSIFICATION, results, page)
    assert (
        "\nsmall, 100,000 parameters, on dots: images, 1,000 for train, 100 for validation, 50 for test; 4 epochs, "
        in (page.read_text())
    )
    report(CLASSIFICATION, results, page, model="tiny")
    assert "\ntiny, 100,000 parameters" in page.read_text()
    assert row_of(page.read_text(), "Methods", "Mona")[8] == "50.0"
    with pytest.raises(ValueError, match=r"--model huge: .*There are runs of small, tiny"):
        report(CLASSIFICATION, results, page, model="huge")


def test_records_that_lack_something_are_named(results, tmp_path):
    write_records(results, [{key: value for key, value in RECORDS[0].items() if key != "results"}])
    with pytest.raises(ValueError, match=r"mona/rate-0.0001-seed-0.json holds no record of a run .*results.*Remove it"):
        report(CLASSIFICATION, results, tmp_path / "page.md")


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


def test_packed_records_make_the_same_page_and_are_no_longer_single(tmp_path):
    results = tmp_path / "results"
    write_records(results, RECORDS)
    single, packed = tmp_path / "single.md", tmp_path / "packed.md"
    main(["report", "--results", str(results), "--page", str(single)])
    main(["pack", "--results", str(results)])
    assert [path.name for path in results.rglob("*") if path.is_file()] == [PACKED, f"{PACKED}.lock"]
    main(["report", "--results", str(results), "--page", str(packed)])
    assert packed.read_text().replace("packed/", "single/") == single.read_text()
    whole = (results / PACKED).read_bytes()
    main(["pack", "--results", str(results)])
    assert (results / PACKED).read_bytes() == whole
    # A new run's record stands beside them, but not a second one of the same run.
    write_records(results, RECORDS[:1])
    with pytest.raises(ValueError, match=rf"rate-0.0001-seed-0.json holds .*{PACKED} has too"):
        read_records(results)
    (results / PACKED).write_bytes(whole[:50])
    with pytest.raises(ValueError, match=rf"{PACKED} holds no records"):
        read_records(results)
