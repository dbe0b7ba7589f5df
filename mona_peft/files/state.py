"""Reading a saved adapter: configuration and weights of one and the same save, whole, without writing anything."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors

from mona_peft.files.weights import WEIGHTS_NAME, is_intact, recorded_digest

CONFIG_NAME = "adapter_config.json"
"""Name of an adapter's configuration, as PEFT has it."""

PICKLED_WEIGHTS_NAME = "adapter_model.bin"

ATTEMPTS = 100
"""How often a folder is read anew in which somebody saves at the same time."""


@dataclass(frozen=True)
class SavedState:
    """One saved state of an adapter.

    Attributes:
        config: Its configuration, as it stands in the file.
        weights: The file with its weights.
        content: What that file held.
    """

    config: dict[str, Any]
    weights: Path
    content: bytes

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the tensors by name.

        Raises:
            ValueError: If the file is truncated or damaged, or its tensors are not those that were saved.
        """
        try:
            intact, tensors = is_intact(self.content), load_tensors(self.content)
        except (SafetensorError, ValueError, TypeError, KeyError, OverflowError) as error:
            raise ValueError(
                f"{self.weights} cannot be read ({error}). It is {len(self.content)} bytes long and probably truncated "
                "or damaged: copy or download it again."
            ) from error
        if not intact:
            raise ValueError(
                f"{self.weights} is damaged: its tensors are not those that were saved, by the digest in its metadata. "
                "Copy or download it again."
            )
        return tensors


def read_state(config: Path, weights: Path) -> SavedState:
    """Read an adapter that somebody else may be saving at this moment: the old one or the new one, never a mixture.

    Args:
        config: File with the configuration.
        weights: File with the weights.

    Raises:
        ValueError: If the weights are missing or pickled, or the folder changes all the time.
    """
    for _ in range(ATTEMPTS):
        try:
            before = _identity(weights)
            content = weights.read_bytes()
            settings = json.loads(current_config(config, content).read_text(encoding="utf-8"))
            if _identity(weights) == before:
                return SavedState(settings, weights, content)
        except FileNotFoundError:  # a waiting configuration may just have been moved into place
            if not weights.is_file():
                raise _missing(weights) from None
            if not config.is_file():
                raise
    raise ValueError(f"{weights} was replaced {ATTEMPTS} times while it was read: another program saves into it.")


def check_weights(folder: Path, is_needed: bool) -> None:
    """Check that the weights of an adapter in a local folder are whole; does nothing where there is no such folder.

    Raises:
        ValueError: If they are missing though needed, pickled, or damaged.
    """
    if not folder.is_dir():
        return
    weights = folder / WEIGHTS_NAME
    if weights.is_file():
        SavedState({}, weights, weights.read_bytes()).tensors()
    elif is_needed or (folder / PICKLED_WEIGHTS_NAME).is_file():
        raise _missing(weights)


def current_config(config: Path, content: bytes) -> Path:
    """Return the file with the configuration that belongs to weights.

    It is `config`, unless a save was killed before its last step; its configuration then still waits beside it.

    Args:
        config: File with the configuration.
        content: What the weight file holds.
    """
    try:
        waiting = config.with_name(waiting_name(recorded_digest(content)))
    except ValueError:  # damaged weights, which `SavedState.tensors` refuses
        return config
    return waiting if waiting.is_file() else config


def waiting_name(digest: str | None) -> str:
    """Return the name under which the configuration of a save waits until its weights are in place."""
    return f".{CONFIG_NAME}.{digest}"


def _identity(path: Path) -> tuple[int, int, int]:
    stat = os.stat(path)
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _missing(weights: Path) -> ValueError:
    folder = weights.parent
    if (folder / PICKLED_WEIGHTS_NAME).is_file():
        return ValueError(
            f"{folder} holds pickled weights, {PICKLED_WEIGHTS_NAME}, and they are not read: unpickling a file of "
            f"others can run their code. Ask for {WEIGHTS_NAME}."
        )
    return ValueError(
        f"{weights} is missing: {folder} holds an adapter's configuration without its weights, only "
        f"{sorted(file.name for file in folder.iterdir())}."
    )
