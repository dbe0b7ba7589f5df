"""Saving an adapter so that a kill at any moment, or another writer, leaves one whole adapter: the old or the new.

The new files are written aside, in a hidden folder, and then moved into place. An adapter is two files, and renaming
moves one at a time; so the configuration waits beside the weights, under a name that says which weights it belongs to,
and renaming the weights is the one step that makes the new adapter the valid one. Whoever reads the adapter takes the
waiting configuration where the last step, renaming it, is missing (`state.py`).
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from mona_peft.files.state import CONFIG_NAME, waiting_name
from mona_peft.files.weights import WEIGHTS_NAME, recorded_digest

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

UNFINISHED = ".unfinished_adapter."
"""How the folder begins in which an adapter is written before it is moved into place."""

ABANDONED_AFTER = 3600
"""Age in seconds of such a folder from which on its writer counts as dead, where locks don't tell."""

PATIENCE = 5.0
"""How many seconds a writer waits for another one to move its files into the same folder."""


@contextmanager
def unfinished_folder(folder: Path) -> Iterator[Path]:
    """Provide an empty hidden folder inside `folder`, which is made if need be, and remove it afterwards.

    Each writer has its own, for several may save into one place. Folders of writers that died are removed first.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        with _lock(folder, PATIENCE):  # or another writer could take the new folder for one whose writer died
            for other in folder.glob(f"{UNFINISHED}*"):
                if _is_abandoned(other):
                    shutil.rmtree(other, ignore_errors=True)
            unfinished = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=folder))
            stack.enter_context(_lock(unfinished, patience=0))
        try:
            yield unfinished
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
            for path in made:  # nothing is left of a save that failed
                with suppress(OSError):
                    path.rmdir()


def move_into_place(new: Path, folder: Path) -> None:
    """Move all files of `new` to `folder`, those of an adapter as one step.

    Args:
        new: Folder with finished files, on the same file system as `folder`; an adapter's weights carry their digest.
        folder: Folder that may hold older files of the same names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder, PATIENCE):
        weights = new / WEIGHTS_NAME
        if weights.is_file():
            waiting = folder / waiting_name(recorded_digest(weights.read_bytes()))
            os.replace(new / CONFIG_NAME, waiting)
            os.replace(weights, folder / WEIGHTS_NAME)
            finish_interrupted_save(waiting)
            for stale in folder.glob(waiting_name("*")):
                stale.unlink(missing_ok=True)
        for path in sorted(new.iterdir()):
            if path.is_file():
                os.replace(path, folder / path.name)


def finish_interrupted_save(waiting: Path) -> None:
    """Take the last step of a save, which one that was killed lacks: the waiting configuration gets its name."""
    with suppress(FileNotFoundError):  # where locks don't work another writer may have taken it
        os.replace(waiting, waiting.with_name(CONFIG_NAME))


def _is_abandoned(folder: Path) -> bool:
    try:
        with _lock(folder, patience=0) as locked:
            return locked or time.time() - folder.stat().st_mtime > ABANDONED_AFTER
    except FileNotFoundError:  # its writer has just removed it
        return False


@contextmanager
def _lock(folder: Path, patience: float) -> Iterator[bool]:
    """Hold the lock of a folder, if it can be had within `patience` seconds; say whether it is held.

    The system lets go of it when the process dies. File systems without locks go without.
    """
    if fcntl is None:
        yield False
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield _acquire(descriptor, patience)
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, patience: float) -> bool:
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.002)
        except OSError:
            return False
