"""Saving an adapter so that a kill at any moment leaves the old one or the new one, and so that damage shows.

The new files are written aside, in a hidden folder, and then moved into place. An adapter is two files, and renaming
moves one at a time; so the configuration waits beside the weights, under a name that says which weights it belongs to,
and renaming the weights is the one step that makes the new adapter the valid one. If the last step, renaming the
configuration, is missing, whoever loads the adapter takes it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors import safe_open

UNFINISHED = ".unfinished_adapter"
"""How the folder begins in which a process writes an adapter before it is moved into place; its number follows."""

ABANDONED_AFTER = 3600
"""Age in seconds of such a folder from which on its process counts as dead."""

DIGEST = "sha256"
"""Name of the digest of all tensors in a weight file's metadata."""

LENGTH_BYTES = ALIGNMENT = 8
"""A safetensors file begins with the length of its header, a little-endian integer; data begin at a multiple of 8."""


@contextmanager
def unfinished_folder(folder: Path) -> Iterator[Path]:
    """Provide an empty hidden folder inside `folder`, which is made if need be, and remove it afterwards.

    Each process has its own, for several may save the same adapter in one place.
    """
    unfinished = folder / f"{UNFINISHED}.{os.getpid()}"
    for other in folder.glob(f"{UNFINISHED}.*"):
        with suppress(FileNotFoundError):  # another process may be the first to remove it
            if other == unfinished or time.time() - other.stat().st_mtime > ABANDONED_AFTER:
                shutil.rmtree(other, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def move_into_place(new: Path, folder: Path) -> None:
    """Move all files of `new` to `folder`, those of an adapter as one step.

    Args:
        new: Folder with finished files, on the same file system as `folder`; an adapter's weights carry their digest.
        folder: Folder that may hold older files of the same names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = new / SAFETENSORS_WEIGHTS_NAME
    if weights.is_file():
        waiting = folder / _waiting_config(recorded_digest(weights))
        for stale in set(folder.glob(_waiting_config("*"))) - {waiting}:
            stale.unlink(missing_ok=True)
        os.replace(new / CONFIG_NAME, waiting)
        os.replace(weights, folder / SAFETENSORS_WEIGHTS_NAME)
        finish_interrupted_save(folder)
    for path in sorted(new.iterdir()):
        if path.is_file():
            os.replace(path, folder / path.name)


def finish_interrupted_save(folder: Path) -> None:
    """Take the last step of a save that was killed after its weights had been moved into place."""
    weights = folder / SAFETENSORS_WEIGHTS_NAME
    if weights.is_file() and any(folder.glob(_waiting_config("*"))):
        # Another process that saves or loads the same adapter may be the first to rename it.
        with suppress(FileNotFoundError):
            os.replace(folder / _waiting_config(recorded_digest(weights)), folder / CONFIG_NAME)


def _waiting_config(digest: str | None) -> str:
    return f".{CONFIG_NAME}.{digest}"


def add_digest(weights: Path) -> None:
    """Write the digest of all tensors of a weight file into its metadata."""
    header, data = _parts(weights)
    # safetensors' own writer puts several entries of metadata in another order every time.
    header["__metadata__"] = {**header.get("__metadata__", {}), DIGEST: _digest(header, data)}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % ALIGNMENT)
    weights.write_bytes(len(encoded).to_bytes(LENGTH_BYTES, "little") + encoded + data)


def recorded_digest(weights: Path) -> str | None:
    """Return the digest in a weight file's metadata, or None if it has none, as when another program wrote it."""
    with safe_open(weights, framework="pt") as file:
        return (file.metadata() or {}).get(DIGEST)


def is_intact(weights: Path) -> bool:
    """Whether the tensors of a weight file are those that its digest was made of; a file without one counts as such.

    Raises:
        SafetensorError: If the file is not even a whole safetensors file.
    """
    recorded = recorded_digest(weights)
    return recorded is None or recorded == _digest(*_parts(weights))


def _parts(weights: Path) -> tuple[dict[str, Any], bytes]:
    """Split a safetensors file into its header (names, types, shapes and places of tensors; metadata) and its data."""
    content = weights.read_bytes()
    start = LENGTH_BYTES + int.from_bytes(content[:LENGTH_BYTES], "little")
    return json.loads(content[LENGTH_BYTES:start]), content[start:]


def _digest(header: dict[str, Any], data: bytes) -> str:
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    digest = hashlib.sha256(json.dumps(tensors, sort_keys=True).encode())
    digest.update(data)
    return digest.hexdigest()
