"""`mona-peft compare` as a user types it."""

import json

import pytest

from mona_peft.cli import run as command
from tests.tiny_runs import arguments


@pytest.mark.parametrize("task", ["image-classification", "object-detection"])
def test_methods_are_compared_on_own_data_and_model(task, tmp_path, capsys):
    given = arguments(task)
    for name in ("--learning_rate", *(["--backbone"] if "--backbone" in given else [])):
        at = given.index(name)
        (_, value), given = given[at : at + 2], given[:at] + given[at + 2 :]
    model = ["--model", value] if name == "--backbone" else []
    few = ["--rows", "fixed", "mona", "--rates", "0.001", "--seeds", "0", "--output_dir", str(tmp_path)]
    assert command(["compare", task, *given, *model, *few]) == 0
    page = (tmp_path / "comparison.md").read_text()
    assert "| Mona | " in page
    assert "| Task head alone | " in page
    records = [json.loads(path.read_text()) for path in tmp_path.glob("runs/*/*/*.json")]
    assert {record["row"] for record in records} == {"fixed", "mona"}
    assert not any("load_best_model_at_end" in record["settings"] for record in records)  # after the last epoch
    assert "the same command goes on" not in capsys.readouterr().err


def test_own_data_want_an_own_model(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        command(["compare", "image-classification", "--dataset", str(tmp_path), "--output_dir", str(tmp_path)])
    assert stopped.value.code == 2
    assert "--model" in capsys.readouterr().err


def test_what_the_comparison_gives_itself_is_refused(tmp_path, capsys):
    given = ["--dataset", "x", "--model", "x", "--output_dir", str(tmp_path), "--learning_rate", "1"]
    assert command(["compare", "image-classification", *given]) == 2
    assert "--learning_rate: the comparison gives these itself" in capsys.readouterr().err
