"""What every tuner of this package shares."""

from __future__ import annotations

from typing import Any, ClassVar

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from mona_peft.heads import resolve_modules_to_save


class MethodModel(BaseTuner):
    """A tuner that finds what it adapts in the model at hand, not by a table of model types."""

    target_module_mapping: ClassVar[dict[str, list[str]]] = {}

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Attach the adapter `adapter_name`; arguments are those of `BaseTuner.inject_adapter`.

        Raises:
            ValueError: If `modules_to_save` does not fit the model.
        """
        config = self.peft_config[adapter_name]
        config.modules_to_save = resolve_modules_to_save(model, config)
        super().inject_adapter(model, adapter_name, *args, **kwargs)

    def _prepare_adapter_config(self, peft_config: PeftConfig, model_config: dict) -> PeftConfig:
        # target_modules=None stays None, also in the saved file: names of modules differ between transformers versions.
        return peft_config

    def _get_module_names_tied_with_embedding(self) -> list[str]:
        # What is adapted is tied to no embedding, and several detectors raise when they are asked for theirs.
        return []
