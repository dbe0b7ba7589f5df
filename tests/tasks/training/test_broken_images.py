"""Images that are broken behind their heads, where no check has read that far: one message names the file."""

import re
import shutil

import pytest

from mona_peft.cli import run as command
from tests.tiny_runs import TASKS, arguments, dataset


@pytest.mark.parametrize(("task", "workers"), [*((task, 0) for task in TASKS), ("image-classification", 1)])
def test_training_names_the_file(tmp_path, capsys, task, workers):
    folder = shutil.copytree(dataset(task), tmp_path / "data")
    images = [path for path in sorted(folder.rglob("*")) if path.suffix in (".png", ".jpg")]
    images = [path for path in images if "mask" not in str(path.relative_to(folder))]
    for path in images:
        path.write_bytes(path.read_bytes()[:-200])
    argv = ["train", task, *arguments(task), "--dataset", str(folder), "--output_dir", str(tmp_path / "run")]
    assert command([*argv, "--dataloader_num_workers", str(workers)]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert "can't be read" in error
    assert any(f"The image {path} can't be read" in error for path in images)
    assert command([*argv, "--verify_images", "true"]) == 2
    assert re.search("([0-9]+) of \\1 images can't be read", capsys.readouterr().err)
