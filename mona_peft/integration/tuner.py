"""What every tuner of this package shares."""

from __future__ import annotations

import re
from typing import Any, ClassVar

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from mona_peft.integration.heads import resolve_modules_to_save, without_lists


class MethodModel(BaseTuner):
    """A tuner that finds what it adapts in the model at hand, not by a table of model types."""

    target_module_mapping: ClassVar[dict[str, list[str]]] = {}

    @property
    def weight_names(self) -> re.Pattern[str]:
        """What the names of adapter weights match, in the model (with a group `adapter`) and in files (without)."""
        raise NotImplementedError

    @classmethod
    def adapter_tensors(cls, model: nn.Module, config: PeftConfig) -> dict[str, torch.Tensor]:
        """Return tensors of the shapes of an adapter's weights, by the names that these have in its file.

        Args:
            model: The model, adapted already or not; nothing of it is changed.
            config: Configuration of the adapter.

        Raises:
            ValueError: If the configuration does not fit the model.
        """
        raise NotImplementedError

    @classmethod
    def block_pattern(cls) -> re.Pattern[str] | None:
        """Return what matches the names of a block's weights in a file, with the groups `block` and `rest`.

        None for a method whose weights belong to no blocks.
        """
        return None

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Attach the adapter `adapter_name`; arguments are those of `BaseTuner.inject_adapter`.

        Raises:
            ValueError: If no module can have this name, or `modules_to_save` does not fit the model.
        """
        check_adapter_name(adapter_name)
        config = self.peft_config[adapter_name]
        config.modules_to_save = resolve_modules_to_save(model, config)
        with without_lists(model):
            super().inject_adapter(model, adapter_name, *args, **kwargs)

    def _prepare_adapter_config(self, peft_config: PeftConfig, model_config: dict) -> PeftConfig:
        # target_modules=None stays None, also in the saved file: names of modules differ between transformers versions.
        return peft_config

    def _get_module_names_tied_with_embedding(self) -> list[str]:
        # What is adapted is tied to no embedding, and several detectors raise when they are asked for theirs.
        return []


def check_adapter_name(adapter_name: str) -> None:
    """Check that modules and folders can be called as an adapter is.

    Raises:
        ValueError: If they can't.
    """
    is_text = isinstance(adapter_name, str)
    if not is_text or not re.fullmatch(r"[^./\\]+", adapter_name) or hasattr(nn.ModuleDict, adapter_name):
        better = re.sub(r"[./\\]+", "_", adapter_name).strip("_") if is_text else ""
        better = better if better and not hasattr(nn.ModuleDict, better) else "default"
        raise ValueError(
            f"adapter_name={adapter_name!r}: modules and folders are called by it, so it needs at least one character, "
            f"no '.', '/' or '\\', and is no method of nn.ModuleDict. Give another, such as {better!r}."
        )
