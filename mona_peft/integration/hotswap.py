"""Other weights for an adapter that is in use, in place: no module is built, nothing is compiled again."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel

from mona_peft.config import ResidualAdapterConfig
from mona_peft.integration.residual_tuner import ResidualAdapterModel

FREE_FIELDS = {
    *PeftConfig.__dataclass_fields__,
    "dropout",
    "init_weights",
    # What these choose has to be the same, and that is checked on the weights themselves.
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "modules_to_save",
}
"""Fields of a configuration that may differ between the adapters that are swapped."""


def hotswap_adapter(model: PeftModel, model_name_or_path: str | Path, adapter_name: str, **kwargs: Any) -> None:
    """Put the weights of a saved adapter into an adapter of a model, in place.

    It is called like `peft.utils.hotswap.hotswap_adapter`, which serves LoRA only. The parameters stay the same
    tensors, so a compiled model needs no recompilation. An adapter that does not fit changes nothing.

    Args:
        model: Model with the adapter; also one that `torch.compile` returned.
        model_name_or_path: Folder, or name on the hub, of the new adapter.
        adapter_name: Name of the adapter that gets the weights, and keeps its name.
        kwargs: `torch_device`, and where to look on the hub: `subfolder`, `revision`, `token`, `cache_dir`.

    Raises:
        ValueError: If there is no such adapter in the model, or the saved one has another form or does not fit.

    Example:
        >>> hotswap_adapter(model, "flowers-mona", adapter_name="default")
    """
    model = getattr(model, "_orig_mod", model)
    if not isinstance(getattr(model, "base_model", None), ResidualAdapterModel):
        raise ValueError(f"hotswap_adapter swaps the adapters of a PeftModel, and this is a {type(model).__name__}.")
    if adapter_name not in model.peft_config:
        raise ValueError(f"There is no adapter {adapter_name!r} to swap. The model has {list(model.peft_config)}.")
    old = model.peft_config[adapter_name]
    hub_arguments = {key: value for key, value in kwargs.items() if key != "torch_device"}
    new = PeftConfig.from_pretrained(str(model_name_or_path), **hub_arguments)
    _check_same_form(old, new)
    # With `is_trainable` PEFT leaves the mode and what requires gradients as they are.
    model.load_adapter(model_name_or_path, adapter_name, is_trainable=True, **kwargs)


def _check_same_form(old: ResidualAdapterConfig, new: PeftConfig) -> None:
    if type(new) is not type(old):
        raise ValueError(
            f"Only an adapter of the same method can be swapped in: {new.peft_type} is not {old.peft_type}."
        )
    differing = {
        name: (getattr(new, name), getattr(old, name))
        for name in (field.name for field in fields(old))
        if name not in FREE_FIELDS and getattr(new, name) != getattr(old, name)
    }
    if differing:
        listed = "; ".join(f"{name} is {theirs!r}, here {ours!r}" for name, (theirs, ours) in differing.items())
        raise ValueError(f"The saved adapter has another form and cannot be swapped in: {listed}. Use load_adapter().")
