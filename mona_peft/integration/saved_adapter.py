"""Finding a saved adapter of ours, in a folder or on the hub, and handing it to PEFT as one checked state."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors.torch import save_file
from torch import nn

from mona_peft.config import MethodConfig
from mona_peft.files.state import CONFIG_NAME, SavedState, read_state
from mona_peft.files.weights import WEIGHTS_NAME
from mona_peft.integration.fit import fit
from mona_peft.integration.layer import weights_follow

HUB_ARGUMENTS = ("subfolder", "revision", "cache_dir", "token", "force_download", "local_files_only")


@dataclass(frozen=True)
class SavedAdapter:
    """An adapter of ours as it was saved: its configuration, its tensors, and the file that these stand in, if any."""

    config: MethodConfig
    tensors: dict[str, torch.Tensor]
    content: bytes = b""


class CheckedFolder(str):
    """Path of a folder with an adapter that has been checked against the model, of whose renaming nothing is left."""


def read_adapter(model_id: str | Path, arguments: Mapping[str, Any]) -> SavedAdapter | None:
    """Read a saved adapter; None if it is not one of this package's methods, or there is none.

    Args:
        model_id: Folder, or name on the hub.
        arguments: Arguments of the caller, among which may be `HUB_ARGUMENTS`.

    Raises:
        ValueError: If it is one of ours and can't be used: weights missing, pickled or damaged, or a configuration that
            this version does not know.
    """
    where = {name: arguments[name] for name in HUB_ARGUMENTS if arguments.get(name) is not None}
    local = Path(model_id, where.get("subfolder", ""))
    if local.is_dir():
        config_file = local / CONFIG_NAME
    else:
        try:
            config_file = Path(hf_hub_download(str(model_id), CONFIG_NAME, **where))
        except Exception:  # PEFT or transformers looks again, and says what is wrong
            return None
    config_cls = _config_class(config_file)
    if config_cls is None:
        return None
    state = read_state(config_file, local / WEIGHTS_NAME) if local.is_dir() else _from_hub(model_id, where)
    config = config_cls.from_peft_type(**config_cls.check_kwargs(**state.config))
    return SavedAdapter(config, state.tensors(), state.content)


def _config_class(file: Path) -> type[MethodConfig] | None:
    try:
        peft_type = json.loads(file.read_text(encoding="utf-8")).get("peft_type")
        config_cls = PEFT_TYPE_TO_CONFIG_MAPPING.get(peft_type)
    except (OSError, ValueError, AttributeError, TypeError):
        return None
    return config_cls if config_cls is not None and issubclass(config_cls, MethodConfig) else None


def _from_hub(model_id: str | Path, where: Mapping[str, Any]) -> SavedState:
    try:
        weights = Path(hf_hub_download(str(model_id), WEIGHTS_NAME, **where))
    except EntryNotFoundError as error:
        raise ValueError(
            f"{model_id} has no {WEIGHTS_NAME}. Pickled weights are not read: unpickling a file of others can run "
            "their code."
        ) from error
    # Of the commit that the weights are of: the repository may have got another one in between.
    commit = weights.parts[weights.parts.index("snapshots") + 1]
    config = hf_hub_download(str(model_id), CONFIG_NAME, **{**where, "revision": commit, "force_download": False})
    return read_state(Path(config), weights)


@contextmanager
def checked_folder(
    model: nn.Module, config: MethodConfig, saved: SavedAdapter, is_whole: bool = True
) -> Iterator[CheckedFolder]:
    """Provide a folder of an adapter that nobody else writes to, for PEFT, which reads adapters from files alone.

    Args:
        model: The model that the adapter is for, without PEFT's wrapper.
        config: Configuration that the adapter is to have.
        saved: The adapter.
        is_whole: Whether it has to fit the model. Then nothing that is attached within is initialised first.

    Raises:
        ValueError: If it has to fit and does not.
    """
    tensors = fit(model, config, saved.tensors) if is_whole else saved.tensors
    with tempfile.TemporaryDirectory(prefix="mona_peft_") as folder, weights_follow() if is_whole else nullcontext():
        saved.config.save_pretrained(folder)
        if saved.content and tensors.keys() == saved.tensors.keys():
            Path(folder, WEIGHTS_NAME).write_bytes(saved.content)
        else:
            save_file(tensors, Path(folder, WEIGHTS_NAME), metadata={"format": "pt"})
        yield CheckedFolder(folder)
