"""A user's mistake in a script is a message and an exit code, not a traceback."""

from __future__ import annotations

import runpy
import sys

import pytest


@pytest.mark.parametrize(
    ("script", "arguments", "named"),
    [
        ("published_tables", ["run", "vtab-vit", "--only", "nothing", "--output_dir", "{out}"], "--only nothing"),
        ("compare_methods", ["run", "--preset", "mine.yaml"], "--preset"),
        ("demo", ["--data", "digits", "--output_dir", "{out}", "--dataset", "mine"], "--dataset"),
        ("train_object_detection", ["--dataset", "{out}", "--output_dir", "{out}"], "--model"),
        (
            "train_promptable_segmentation",
            ["--dataset", "{out}/none", "--model", "{out}", "--output_dir", "x"],
            "{out}/none",
        ),
        ("load_official_checkpoint", ["{out}/none.pth", "{out}", "--output_dir", "{out}/adapter"], "{out}"),
    ],
)
def test_error_is_a_message(script, arguments, named, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script, *(argument.format(out=tmp_path) for argument in arguments)])
    with pytest.raises(SystemExit) as end:
        runpy.run_module(f"scripts.{script}", run_name="__main__", alter_sys=True)
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert f"python -m scripts.{script}: " in said
    assert named.format(out=tmp_path) in said
