"""Every point at which PEFT or transformers is changed, in one list.

PEFT gives a tuner no say in how its adapter is saved, loaded or pushed. So a few functions are wrapped, once, when the
first method is registered. Each wrapper calls the original at once, with the arguments as they came, unless an adapter
of this package's methods is at stake. Where a name is missing (both libraries may rename what is private), nothing is
wrapped, and `if_missing` says what users lose.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import nn
from transformers.integrations.peft import PeftAdapterMixin
from transformers.utils.hub import PushToHubMixin

from mona_peft.config import MethodConfig
from mona_peft.host.class_swap import swap_class
from mona_peft.integration.card import write_card
from mona_peft.integration.fit import fit
from mona_peft.integration.peft_model import MethodPeftModel
from mona_peft.integration.pipelines import accept_adapters_in_pipelines
from mona_peft.integration.saved_adapter import HUB_ARGUMENTS, SavedAdapter, checked_folder, read_adapter
from mona_peft.integration.tuner import MethodModel, check_adapter_name

MARK = "_mona_peft_wrapper"
"""Attribute of our wrappers, and of others' around them: `__wrapped__` alone says nothing about whose a wrapper is."""


@dataclass(frozen=True)
class Patch:
    """A function of another library that is wrapped.

    Attributes:
        owner: The class that has it.
        name: Its name there.
        wrap: Takes the original and returns the wrapper.
        why: What it does for our adapters.
        until: What upstream would have to do for it to go.
        if_missing: What users lose where the owner has no such function.
    """

    owner: type
    name: str
    wrap: Callable[[Callable[..., Any]], Callable[..., Any]]
    why: str
    until: str
    if_missing: str

    def apply(self) -> None:
        """Wrap the function, unless this has been done or there is none."""
        original = inspect.getattr_static(self.owner, self.name, None)
        is_classmethod = isinstance(original, classmethod)
        function = original.__func__ if is_classmethod else original
        if not callable(function) or hasattr(function, MARK):
            return
        wrapper = functools.wraps(function)(self.wrap(function))
        setattr(wrapper, MARK, True)
        setattr(self.owner, self.name, classmethod(wrapper) if is_classmethod else wrapper)


def _swap_class_after_init(init: Callable[..., None]) -> Callable[..., None]:
    def __init__(self: PeftModel, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        if isinstance(self.base_model, MethodModel):
            swap_class(self, MethodPeftModel)
            accept_adapters_in_pipelines()

    return __init__


def _check_before_loading(from_pretrained: Callable[..., PeftModel]) -> Callable[..., PeftModel]:
    def from_pretrained_checked(
        cls: type[PeftModel],
        model: nn.Module,
        model_id: str | Path,
        adapter_name: str = "default",
        is_trainable: bool = False,
        config: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> PeftModel:
        saved = read_adapter(model_id, kwargs)
        if saved is None:
            return from_pretrained(cls, model, model_id, adapter_name, is_trainable, config, *args, **kwargs)
        check_adapter_name(adapter_name)
        config = config or saved.config
        is_whole = isinstance(config, MethodConfig) and not kwargs.get("ignore_mismatched_sizes")
        elsewhere = {name: value for name, value in kwargs.items() if name not in HUB_ARGUMENTS}
        with checked_folder(model, config, saved, is_whole) as folder:
            return from_pretrained(cls, model, folder, adapter_name, is_trainable, config, *args, **elsewhere)

    return from_pretrained_checked


def _check_before_loading_natively(load_adapter: Callable[..., Any]) -> Callable[..., Any]:
    def load_adapter_checked(
        self: nn.Module,
        peft_model_id: str | None = None,
        adapter_name: str | None = None,
        peft_config: Any = None,
        adapter_state_dict: dict[str, Any] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        saved = None
        if isinstance(peft_config, MethodConfig) and adapter_state_dict is not None:
            saved = SavedAdapter(peft_config, adapter_state_dict)
        elif adapter_state_dict is None and peft_model_id is not None:
            saved = read_adapter(peft_model_id, _where(kwargs))
        if saved is None:
            return load_adapter(self, peft_model_id, adapter_name, peft_config, adapter_state_dict, *args, **kwargs)
        check_adapter_name("default" if adapter_name is None else adapter_name)
        config = peft_config or saved.config
        return load_adapter(
            self, peft_model_id, adapter_name, config, fit(self, config, saved.tensors), *args, **kwargs
        )

    return load_adapter_checked


def _where(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the hub arguments among those of transformers' `load_adapter`, which come by three ways."""
    load_config = arguments.get("load_config")
    return {
        **(getattr(load_config, "download_kwargs", None) or {}),
        **(arguments.get("download_kwargs") or {}),
        **(arguments.get("adapter_kwargs") or {}),
        **{name: arguments[name] for name in HUB_ARGUMENTS if name in arguments},
    }


def _write_card_before_upload(upload: Callable[..., Any]) -> Callable[..., Any]:
    def _upload_modified_files(self: Any, working_dir: str, repo_id: str, *args: Any, **kwargs: Any) -> Any:
        # transformers has put its own card over the adapter's at this point.
        write_card(Path(working_dir), getattr(self, "config", None), repo_id)
        return upload(self, working_dir, repo_id, *args, **kwargs)

    return _upload_modified_files


PATCHES = (
    Patch(
        PeftModel,
        "__init__",
        _swap_class_after_init,
        why="A `PeftModel` around one of our tuners saves, loads and presents its adapter as `MethodPeftModel` does.",
        until="PEFT lets a tuner say how its adapter is saved and loaded.",
        if_missing="Adapters are saved without digest, card and protection from kills.",
    ),
    Patch(
        PeftModel,
        "from_pretrained",
        _check_before_loading,
        why="An adapter that does not fit the model is refused before anything is attached.",
        until="PEFT checks an adapter against the model before it attaches one.",
        if_missing="Checks come by `PeftModel.load_adapter`, after attaching.",
    ),
    Patch(
        PeftAdapterMixin,
        "load_adapter",
        _check_before_loading_natively,
        why="transformers loads what fits of an adapter and logs the rest; one of ours is loaded whole or refused.",
        until="transformers raises for adapters that do not fit.",
        if_missing="Adapters that do not fit load in part, with a report in the log.",
    ),
    Patch(
        PushToHubMixin,
        "_upload_modified_files",
        _write_card_before_upload,
        why="`push_to_hub` puts a blank card over the adapter's; it is written again before the upload.",
        until="transformers keeps the card of an adapter.",
        if_missing="A pushed adapter has transformers' blank card.",
    ),
)


def apply_patches() -> None:
    """Apply all of `PATCHES`, each once."""
    for patch in PATCHES:
        patch.apply()
