"""What the tests of prediction and export begin with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trained_runs import KINDS, write_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """The folder of a run of each task, around tiny models of random weights."""
    folder = tmp_path_factory.mktemp("runs")
    return {task: write_run(folder / task, task) for task in KINDS}
