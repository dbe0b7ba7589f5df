"""Runs what a comparison still needs, in any number of processes that share the work."""

from __future__ import annotations

import contextlib
import gc
import json
import multiprocessing
import shutil
import statistics
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from mona_peft.tasks.comparison.costs import CostCallback
from mona_peft.tasks.comparison.experiments import Comparison, Experiment, Record, settings_of
from mona_peft.tasks.comparison.records import check_settings, read_records, record_path, write_record
from mona_peft.tasks.comparison.rows import Row
from mona_peft.tasks.comparison.store import RUNNING
from mona_peft.tasks.training.records import write_json
from mona_peft.tasks.training.run_directory import complete_checkpoints

TRAINING = "training"
"""Folder in that of a run, of what its training script writes."""

COPIED = (
    *("task", "base_model", "dataset", "num_images", "results", "parameters", "adapter_bytes"),
    *("software", "hardware", "history"),
)
"""What a record takes from that of the training script."""

WAIT_SECONDS = 1.0
START_METHOD = "spawn"
"""How processes start: afresh, since threads of this one would not survive a fork."""


class CannotBeginError(ValueError):
    """A model, its data and a method do not go together, whatever rate and seed; the message says why."""


def run_all(comparison: Comparison, results: Path, jobs: int, threads: int) -> None:
    """Runs all experiments that a comparison still needs.

    Args:
        comparison: What is compared.
        results: Folder of the records.
        jobs: Number of processes. The same command, given again while it runs, adds more.
        threads: Of each process, on a CPU.

    Raises:
        ValueError: An argument is wrong, or a record in the folder can't be read or ran with other settings, or
            some experiments failed; the others have run.
    """
    for experiment in comparison.missing(records_of(comparison, results)):
        settings_of(experiment)  # arguments that are wrong are so for all, and known before anything runs
    if jobs == 1:
        worker(comparison, results, threads)
    else:
        context = multiprocessing.get_context(START_METHOD)
        processes = [context.Process(target=_process, args=(comparison, results, threads)) for _ in range(jobs)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
    missing = comparison.missing(read_records(results))
    if missing:
        raise ValueError(
            f"{len(missing)} experiments have failed, such as {missing[0].name}; their errors are above. Once that is "
            "mended, or with the --rows that can run, the same command goes on."
        )


def _process(comparison: Comparison, results: Path, threads: int) -> None:
    with contextlib.suppress(KeyboardInterrupt):  # which reaches the parent too
        worker(comparison, results, threads)


def worker(comparison: Comparison, results: Path, threads: int) -> None:
    """Runs one experiment after the other until none is left that is neither done, nor failed here, nor running."""
    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()
    failed: set[str] = set()
    refused: set[tuple[Row, str]] = set()
    while parent is None or parent.is_alive():
        missing = [
            experiment
            for experiment in comparison.missing(records_of(comparison, results))
            if experiment.name not in failed and (experiment.row, experiment.backbone) not in refused
        ]
        if not missing:
            return
        if not any(_run_unless_taken(experiment, results, failed, refused) for experiment in missing):
            time.sleep(WAIT_SECONDS)  # all are in other hands; what they find decides what is needed next


def records_of(comparison: Comparison, results: Path) -> dict[str, Record]:
    """Reads the records of a folder.

    Raises:
        ValueError: One can't be read, or one that this comparison uses ran with other settings.
    """
    records = read_records(results)
    for experiment in comparison.all():
        if experiment.name in records:
            check_settings(record_path(results, experiment), records[experiment.name], experiment)
    return records


def _run_unless_taken(experiment: Experiment, results: Path, failed: set[str], refused: set[tuple[Row, str]]) -> bool:
    """Runs an experiment unless it is done or another process is at it.

    Args:
        experiment: What is run.
        results: Folder of the records.
        failed: Gets its name if it fails.
        refused: Gets its row and model if they do not go together, whatever rate and seed.

    Returns:
        Whether it ran.
    """
    lock = results / RUNNING / f"{experiment.name}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    path = record_path(results, experiment)
    try:
        # The system frees the lock of a process that ends in whatever way.
        with FileLock(lock, timeout=0):
            if path.exists():
                return False
            folder = results / RUNNING / experiment.name
            record = run_one(experiment, folder)
            picture = folder / TRAINING / "predictions.png"
            if picture.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(picture, path.with_suffix(picture.suffix))
            write_record(path, record, record["metric"])
    except Timeout:
        return False
    except CannotBeginError as error:
        refused.add((experiment.row, experiment.backbone))
        print(f"{experiment.row.name} on {experiment.backbone} can't run: {error}", flush=True)
        return True
    except Exception:
        failed.add(experiment.name)
        print(f"{experiment.name} failed:\n{traceback.format_exc()}", flush=True)
        return True
    shutil.rmtree(folder)
    gc.collect()  # models and their trainers refer to each other, and would pile up
    score = record["results"]["validation"][record["metric"]]
    print(f"{experiment.name}: {record['metric']} {score:.4f} (validation), {record['seconds']:.0f} s", flush=True)
    return True


def run_one(experiment: Experiment, folder: Path) -> dict[str, Any]:
    """Runs an experiment, or goes on with it from its newest checkpoint.

    Args:
        experiment: What is run.
        folder: Of its checkpoints and its log.

    Returns:
        Its record.

    Raises:
        CannotBeginError: Its arguments are wrong, or do not go together.
    """
    started = time.monotonic()
    settings = settings_of(experiment)
    output_dir, settings_file = folder / TRAINING, folder / "settings.json"
    same = settings_file.is_file() and json.loads(settings_file.read_text(encoding="utf-8")) == settings
    if not same or not complete_checkpoints(output_dir):
        shutil.rmtree(folder, ignore_errors=True)
        write_json(settings_file, settings)
    arguments = experiment.arguments(str(output_dir))
    if output_dir.exists():
        arguments[-1].resume_from_checkpoint = "last"
    study, costs = experiment.study, CostCallback()
    with (folder / "log.txt").open("a", buffering=1, encoding="utf-8") as log, contextlib.redirect_stdout(log):
        try:
            trained, _ = study.train(*arguments, callbacks=[costs])
        except ValueError as error:
            if costs.has_begun:  # a loss that is no number is one of this rate alone
                raise
            raise CannotBeginError(error) from error
    return {
        "experiment": experiment.name,
        "row": experiment.row.name,
        "learning_rate": experiment.learning_rate,
        "seed": experiment.seed,
        "metric": study.task.main_metric,
        "settings": settings,
        **{name: trained[name] for name in COPIED},
        # None where all steps were done before an interruption.
        "step_seconds": statistics.median(costs.step_seconds) if costs.step_seconds else None,
        "kept_bytes": costs.kept_bytes,
        "seconds": costs.seconds_before + time.monotonic() - started,
    }
