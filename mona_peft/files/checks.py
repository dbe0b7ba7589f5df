"""Saved adapters: whether a file is whole, and whether its tensors fit the model, before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import torch
from peft.utils import SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME
from safetensors import SafetensorError
from torch import nn

from mona_peft.files.saving import is_intact


def check_weight_file(folder: str | Path, subfolder: str | None, is_needed: bool) -> None:
    """Check the weights of an adapter in a local folder; does nothing for a hub name.

    Raises:
        ValueError: If they are missing though needed, pickled, or damaged.
    """
    path = Path(folder, subfolder or "", SAFETENSORS_WEIGHTS_NAME)
    if not path.parent.is_dir():
        return
    if not path.is_file():
        if path.with_name(WEIGHTS_NAME).is_file():
            raise ValueError(
                f"{path.parent} holds pickled weights, {WEIGHTS_NAME}, and they are not read: unpickling a file of "
                f"others can run their code. Ask for {SAFETENSORS_WEIGHTS_NAME}."
            )
        if is_needed:
            raise ValueError(
                f"{path} is missing: {path.parent} holds an adapter's configuration without its weights, only "
                f"{sorted(file.name for file in path.parent.iterdir())}."
            )
        return
    check_weights(path)


def check_weights(path: Path) -> None:
    """Check that a weight file is whole.

    Raises:
        ValueError: If it cannot be read, or its tensors are not those that were saved.
    """
    try:
        intact = is_intact(path)
    except SafetensorError as error:
        raise ValueError(
            f"{path} cannot be read ({error}). It is {path.stat().st_size} bytes long and probably truncated or "
            "damaged: copy or download it again."
        ) from error
    if not intact:
        raise ValueError(
            f"{path} is damaged: its tensors are not those that were saved, by the digest in its metadata. Copy or "
            "download it again."
        )


def check_adapter_state(
    tuner: nn.Module, state_dict: dict[str, torch.Tensor], prefix: str, adapter_name: str | None = None
) -> None:
    """Refuse adapter weights that do not fit the adapters of a tuner, before any is loaded.

    PEFT loads adapters with `strict=False`, so that of an adapter for another backbone it would load what happens to
    fit and leave the rest untrained.

    Args:
        tuner: The tuner that is about to load.
        state_dict: What it is about to load.
        prefix: What stands before the tuner's own names in the keys of `state_dict`.
        adapter_name: Name of an adapter that `state_dict` has to hold exactly, its trained heads included. Without it
            `state_dict` may hold anything else besides whole adapters, as one of a whole model does.

    Raises:
        ValueError: If weights are missing, have no place, or have another shape or kind of numbers.
    """
    adapters = tuner.weight_names
    given = {key.removeprefix(prefix): tensor for key, tensor in state_dict.items()}
    if adapter_name is None:
        given = {key: tensor for key, tensor in given.items() if adapters.match(key)}
    names = {adapters.match(key)["adapter"] for key in given if adapters.match(key)} | {adapter_name}
    expected = {
        key: tensor
        for key, tensor in tuner.state_dict(keep_vars=True).items()
        if ((match := adapters.match(key)) and match["adapter"] in names)
        or (adapter_name is not None and f".modules_to_save.{adapter_name}." in key)
    }
    if not given and adapter_name is None:
        return
    check_tensors(expected, given)


def check_tensors(expected: dict[str, torch.Tensor], given: dict[str, torch.Tensor]) -> None:
    """Refuse tensors that are not those of a whole adapter.

    Args:
        expected: Tensors of the model's adapter by name; several names of one tensor hold the same object.
        given: Tensors of the saved adapter, by the same names.

    Raises:
        ValueError: If tensors are missing, have no place, or have another shape or kind of numbers.
    """
    in_both = [key for key in expected if key in given]
    # A detector may have one tensor under several names, of which one is saved.
    loaded = {id(expected[key]) for key in in_both}
    complaints = {
        "have another shape": [
            f"{key} {tuple(given[key].shape)}, here {tuple(expected[key].shape)}"
            for key in in_both
            if given[key].shape != expected[key].shape
        ],
        "hold another kind of numbers": [
            f"{key} {given[key].dtype}, here {expected[key].dtype}"
            for key in in_both
            if given[key].is_floating_point() != expected[key].is_floating_point()
        ],
        "are missing": sorted(key for key, tensor in expected.items() if id(tensor) not in loaded),
        "have no place in this model": sorted(given.keys() - expected.keys()),
    }
    if any(complaints.values()):
        found = "; ".join(
            f"{len(keys)} {complaint}, such as {keys[0].removeprefix('model.')}"
            for complaint, keys in complaints.items()
            if keys
        )
        raise ValueError(
            f"The adapter does not fit this model, and nothing was loaded. Of its {len(given)} tensors: {found}. "
            "Load it onto the backbone it was trained on, with the configuration it was saved with."
        )
