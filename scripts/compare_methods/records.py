"""Records of runs: one JSON file an experiment, in a folder of results."""

import json
import math
from pathlib import Path
from typing import Any

from scripts.common.records import write_json
from scripts.compare_methods.experiments import Experiment, Record, settings_of

KEPT_FROM_HISTORY = ("epoch", "loss", "eval_loss", "seconds")


def record_path(results: Path, experiment: Experiment) -> Path:
    """Returns the file of an experiment's record."""
    return results / f"{experiment.name}.json"


def read_records(results: Path) -> dict[str, Record]:
    """Reads all records of a folder.

    Returns:
        Records by the names of their experiments.

    Raises:
        ValueError: A file holds no record; names it.
    """
    records = {}
    for path in sorted(results.glob("*/*/*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            name = record["experiment"]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{path} holds no record of a run ({type(error).__name__}: {error}). Remove it: "
                "`python -m scripts.compare_methods run` runs its experiment again."
            ) from error
        if results / f"{name}.json" != path:
            raise ValueError(f"{path} holds the record of {name}. Move it to where it belongs, or remove it.")
        records[name] = record
    return records


def check_settings(path: Path, record: Record, experiment: Experiment) -> None:
    """Checks that a record is of an experiment as it is defined now.

    Raises:
        ValueError: It ran with other settings.
    """
    settings = settings_of(experiment)  # one that the record does not name was none yet when it ran
    other = {name: value for name, value in record["settings"].items() if settings.get(name) != value}
    if other:
        listed = ", ".join(f"{name}={value!r} (now {settings.get(name)!r})" for name, value in other.items())
        raise ValueError(
            f"{path} ran with other settings than this comparison: {listed}. Give the arguments that it was started "
            "with, or another --results folder."
        )


def write_record(path: Path, record: dict[str, Any], metric: str) -> None:
    """Writes a record; of the history only what tables and plots use, in few digits.

    Args:
        path: Of the file.
        record: As the training script returns it, and what the comparison adds.
        metric: Name of the metric that decides.
    """
    keys = (*KEPT_FROM_HISTORY, f"eval_{metric}")
    entries = ({key: entry[key] for key in keys if key in entry} for entry in record["history"])
    history = [entry for entry in entries if len(entry) > 2]  # more than epoch and time
    write_json(path, _finite({**record, "history": _rounded(history)}))


def _rounded(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{key: float(f"{value:.6g}") for key, value in entry.items()} for entry in history]


def _finite(value: Any) -> Any:
    """Replaces numbers that JSON does not know by None."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
