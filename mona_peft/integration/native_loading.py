"""transformers' own `load_adapter`: one of our adapters that does not fit is refused, and nothing is changed.

transformers loads what fits of an adapter and reports the rest in its log. It asks no one between the moment when the
adapter is attached and the one when its file is read, so `load_adapter` is wrapped once, and the model's loader for the
time of a call. Adapters of other methods are loaded as before. `AutoModel...from_pretrained(adapter)` comes by here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn
from transformers.integrations.peft import PeftAdapterMixin

from mona_peft.files.checks import check_tensors
from mona_peft.integration.attachment import attached_tuners
from mona_peft.integration.tuner import MethodModel

LOADER = "_load_pretrained_model"
SAVED_PREFIX = "base_model.model."


def adapt_native_loading() -> None:
    """Make transformers' `load_adapter` load one of our adapters whole or not at all."""
    if not hasattr(PeftAdapterMixin.load_adapter, "__wrapped__"):
        PeftAdapterMixin.load_adapter = _all_or_nothing(PeftAdapterMixin.load_adapter)


def _all_or_nothing(load_adapter: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(load_adapter)
    def load_or_give_back(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        known = list(self.peft_config) if self._hf_peft_config_loaded else []
        active = self.active_adapters() if known else []
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        with attached_tuners() as tuners:
            vars(self)[LOADER] = _checking(getattr(self, LOADER), tuners, known)
            try:
                return load_adapter(self, *args, **kwargs)
            except BaseException:
                if known:
                    _delete_new(self, known, active, trained)
                elif tuners:
                    tuners[0].give_back()
                    self._hf_peft_config_loaded = False
                raise
            finally:
                del vars(self)[LOADER]

    return load_or_give_back


def _checking(load: Callable[..., Any], tuners: list[MethodModel], known: list[str]) -> Callable[..., Any]:
    @functools.wraps(load)
    def check_and_load(
        model: nn.Module,
        state_dict: dict[str, torch.Tensor] | None,
        checkpoint_files: list[str] | None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        if tuners:
            (adapter_name,) = model.peft_config.keys() - known
            if state_dict is None:
                (file,) = checkpoint_files
                # transformers asks PeftConfig instead of the adapter's own class, which checks the fields and the file.
                type(model.peft_config[adapter_name]).from_pretrained(str(Path(file).parent))
                state_dict = load_file(file)
            state_dict = _checked(tuners[0], adapter_name, state_dict)
        return load(model, state_dict, checkpoint_files, *args, **kwargs)

    return check_and_load


def _checked(tuner: MethodModel, adapter_name: str, state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return weights of an adapter under the names that the model's blocks have.

    Raises:
        ValueError: If they are not those of the adapter that has just been attached.
    """
    given = {key.removeprefix(SAVED_PREFIX): tensor for key, tensor in state_dict.items()}
    tuner.rename_weights(given, "", adapter_name, is_named=False)
    expected = get_peft_model_state_dict(
        tuner.model, tuner.model.state_dict(keep_vars=True), adapter_name, save_embedding_layers=False
    )
    check_tensors(expected, given)
    return {f"{SAVED_PREFIX}{key}": tensor for key, tensor in given.items()}


def _delete_new(model: nn.Module, known: list[str], active: list[str], trained: set[str]) -> None:
    for adapter_name in model.peft_config.keys() - known:
        model.delete_adapter(adapter_name)
    model.set_adapter(active)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
