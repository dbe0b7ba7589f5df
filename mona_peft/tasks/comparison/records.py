"""Records of runs: a JSON file an experiment, in a folder of results, until all are packed into one file there."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mona_peft.tasks.comparison.experiments import Experiment, Record, settings_of
from mona_peft.tasks.comparison.rows import ROWS
from mona_peft.tasks.comparison.store import SUFFIX, lock_of, read_lines, write_lines
from mona_peft.tasks.models.arguments import MethodArguments
from mona_peft.tasks.models.methods import METHODS
from mona_peft.tasks.training.arguments import RECIPE_IF_CHANGED, FineTuningArguments
from mona_peft.tasks.training.records import write_json

OWN_SETTINGS = ("learning_rate", "seed", "model_name_or_path", "backbone")
"""Settings in which the runs of a comparison differ, beside those of their methods."""

LENGTHS = ("num_train_epochs", "max_steps")
"""Settings that a row's `length` multiplies."""

USUAL = {name: FineTuningArguments.__dataclass_fields__[name].default for name in RECIPE_IF_CHANGED}
"""Settings that records name only where they are not so."""

NOW_CALLED = {("augmentation", "crop"): "light", ("train_split", "train"): None}
"""Values of settings in older records, and what means the same now."""

IDLE = ("verify_images",)
"""Settings that change no result."""

KEYS = (
    *("row", "learning_rate", "seed", "metric", "settings", "base_model", "dataset", "num_images", "results"),
    *("parameters", "adapter_bytes", "step_seconds", "kept_bytes", "seconds", "software", "hardware", "history"),
)
"""What tables and pictures take from a record."""

KEPT_FROM_HISTORY = ("epoch", "loss", "eval_loss", "seconds")


PACKED = f"records{SUFFIX}"
"""Name of the file of packed records in a folder of results."""


def record_path(results: Path, experiment: Experiment) -> Path:
    """Returns the file of an experiment's record."""
    return results / f"{experiment.name}.json"


def read_records(results: Path) -> dict[str, Record]:
    """Reads all records of a folder, packed ones and single ones.

    Returns:
        Records by the names of their experiments.

    Raises:
        ValueError: A file holds no record, or one that there is already; names it.
    """
    packed = results / PACKED
    records = {}
    for record in read_lines(packed):
        records[_checked_name(packed, record, "Restore it")] = record
    for path in sorted(results.glob("*/*/*.json")):
        remedy = "Remove it: the comparison runs its experiment again"
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} holds no record of a run ({type(error).__name__}: {error}). {remedy}.") from error
        name = _checked_name(path, record, remedy)
        if results / f"{name}.json" != path:
            raise ValueError(f"{path} holds the record of {name}. Move it to where it belongs, or remove it.")
        if name in records:
            raise ValueError(f"{path} holds the record of {name}, which {packed} has too. Remove one of them.")
        records[name] = record
    return dict(sorted(records.items()))


def _checked_name(path: Path, record: Any, remedy: str) -> str:
    try:
        name, missing = record["experiment"], [key for key in KEYS if key not in record]
        if missing:
            raise KeyError(", ".join(missing))
    except (TypeError, KeyError) as error:
        message = f"{path} holds no record of a run ({type(error).__name__}: {error}). {remedy}."
        raise ValueError(message) from error
    return name


def pack(results: Path) -> int:
    """Moves all single records of a folder into its one compressed file, and returns how many there are in it now.

    Raises:
        ValueError: As `read_records`; then nothing is changed.
    """
    records = read_records(results)
    single = [results / f"{name}.json" for name in records]
    with lock_of(results / PACKED):
        write_lines(results / PACKED, list(records.values()))
    for path in single:
        path.unlink(missing_ok=True)
        for folder in (path.parent, path.parent.parent):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
    return len(records)


def check_settings(path: Path, record: Record, experiment: Experiment) -> None:
    """Checks that a record is of an experiment as it is defined now.

    Raises:
        ValueError: It ran with other settings.
    """
    settings, recorded = ({**USUAL, **some} for some in (settings_of(experiment), record["settings"]))
    # One that the record does not name was none yet when it ran.
    recorded = {name: NOW_CALLED.get((name, str(value)), value) for name, value in recorded.items()}
    other = {name: value for name, value in recorded.items() if name not in IDLE and settings.get(name) != value}
    if other:
        listed = ", ".join(f"{name}={value!r} (now {settings.get(name)!r})" for name, value in other.items())
        raise ValueError(
            f"{path} ran with other settings than this comparison: {listed}. Give the arguments that it was started "
            "with, or another folder for the results."
        )


def differing_settings(records: Iterable[Record]) -> dict[str, list[Any]]:
    """Returns the settings, beside those of the methods, and the numbers of images that records don't share.

    Runs that are compared differ in method, model, learning rate and seed alone, and in length as their rows say.
    """
    own = {"method", *OWN_SETTINGS, *MethodArguments.__dataclass_fields__}
    own |= {name for method in METHODS.values() for name in method.overrides}
    values: dict[str, list[Any]] = {}
    for record in records:
        settings = {**USUAL, **record["settings"], "num_images": record["num_images"]}
        length = ROWS[record["row"]].length
        settings |= {name: settings[name] / length for name in LENGTHS if settings.get(name, 0) > 0}
        for name in settings.keys() - own:
            if settings[name] not in values.setdefault(name, []):
                values[name].append(settings[name])
    return {name: found for name, found in sorted(values.items()) if len(found) > 1}


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
