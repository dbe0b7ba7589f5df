"""What every tuner of this package shares."""

from __future__ import annotations

import re
from typing import Any, ClassVar

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from mona_peft.integration.attachment import note_attached
from mona_peft.integration.heads import resolve_modules_to_save


class MethodModel(BaseTuner):
    """A tuner that finds what it adapts in the model at hand, not by a table of model types."""

    target_module_mapping: ClassVar[dict[str, list[str]]] = {}

    def __init__(self, model: nn.Module, *args: Any, **kwargs: Any) -> None:
        self._trained_before = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        super().__init__(model, *args, **kwargs)
        note_attached(self)

    @property
    def weight_names(self) -> re.Pattern[str]:
        """What the names of adapter weights match, in the model (with a group `adapter`) and in files (without)."""
        raise NotImplementedError

    def rename_weights(
        self, state_dict: dict[str, torch.Tensor], prefix: str, adapter_name: str, is_named: bool = True
    ) -> None:
        """Give weights of an adapter, in place, the names that they have in this model, where they may be others.

        Arguments are those of `rename_blocks`. Without a method of its own a tuner renames nothing.
        """

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Attach the adapter `adapter_name`; arguments are those of `BaseTuner.inject_adapter`.

        Raises:
            ValueError: If `modules_to_save` does not fit the model.
        """
        config = self.peft_config[adapter_name]
        config.modules_to_save = resolve_modules_to_save(model, config)
        super().inject_adapter(model, adapter_name, *args, **kwargs)

    def give_back(self) -> None:
        """Take the adapters off as `unload` does, and let train what could be trained before they were attached."""
        model = self.unload()
        for name in self._trained_before:
            model.get_parameter(name).requires_grad_(True)

    def _prepare_adapter_config(self, peft_config: PeftConfig, model_config: dict) -> PeftConfig:
        # target_modules=None stays None, also in the saved file: names of modules differ between transformers versions.
        return peft_config

    def _get_module_names_tied_with_embedding(self) -> list[str]:
        # What is adapted is tied to no embedding, and several detectors raise when they are asked for theirs.
        return []
