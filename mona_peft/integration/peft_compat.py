"""What older supported PEFT versions lack; each part goes when the oldest supported version has it."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import peft
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from mona_peft.config import ResidualAdapterConfig

# Every module that holds the function by name.
_HOLDERS = (peft, peft.peft_model, peft.utils, peft.utils.save_and_load)


def keep_adapters_apart() -> None:
    """Let the file of an adapter hold its weights alone; before PEFT 0.20 it gets those of all the model's adapters.

    From 0.20 on a tuner says itself what is saved, and nothing is done here.
    """
    original = peft.utils.save_and_load.get_peft_model_state_dict
    if hasattr(BaseTuner, "_get_adapter_state_dict") or hasattr(original, "__wrapped__"):
        return
    for holder in _HOLDERS:
        holder.get_peft_model_state_dict = _without_others(original)


def _without_others(original: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    @functools.wraps(original)
    def get_peft_model_state_dict(
        model: nn.Module, state_dict: dict[str, Any] | None = None, adapter_name: str = "default", **kwargs: Any
    ) -> dict[str, Any]:
        config = model.peft_config[adapter_name]
        if isinstance(config, ResidualAdapterConfig):
            prefix = re.escape(PEFT_TYPE_TO_PREFIX_MAPPING[config.peft_type])
            pattern = re.compile(rf"\.{prefix}[^.]+\.(?P<adapter>[^.]+)\.[^.]+$")
            state_dict = {
                key: tensor
                for key, tensor in (model.state_dict() if state_dict is None else state_dict).items()
                if (match := pattern.search(key)) is None or match["adapter"] == adapter_name
            }
        return original(model, state_dict, adapter_name, **kwargs)

    return get_peft_model_state_dict
