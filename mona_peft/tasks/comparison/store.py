"""Records of a study in one compressed file: JSON Lines, a record a line, in gzip."""

import gzip
import json
from pathlib import Path
from typing import Any

from filelock import FileLock

from mona_peft.tasks.training.run_directory import replace_file

SUFFIX = ".jsonl.gz"
RUNNING = ".running"
"""Folder beside records, of locks, and of what runs leave that have not ended."""


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the records of a file, none where there is no file.

    Raises:
        ValueError: The file holds something else; names it.
    """
    if not path.exists():
        return []
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(
            f"{path} holds no records in compressed JSON Lines ({type(error).__name__}: {error})."
        ) from error


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    """Writes a file of records, whole or not at all; the same records make the same bytes."""
    text = "".join(json.dumps(record) + "\n" for record in records)
    with replace_file(path) as new:
        new.write_bytes(gzip.compress(text.encode(), mtime=0))


def add_line(path: Path, record: dict[str, Any]) -> None:
    """Adds a record to a file; any number of processes may do so at a time."""
    with lock_of(path):
        write_lines(path, [*read_lines(path), record])


def check_writable(path: Path) -> None:
    """Writes the records of a file once more, before a run whose record would be lost.

    Raises:
        OSError: It can't be written.
        ValueError: It holds something else than records.
    """
    with lock_of(path):
        write_lines(path, read_lines(path))


def lock_of(path: Path) -> FileLock:
    """Returns the lock that whoever changes a file of records holds."""
    lock = path.parent / RUNNING / f"{path.name}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(lock)
