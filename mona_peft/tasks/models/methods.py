"""The methods of adapting a model, by the name that `--method` takes: a table.

Each takes a model and the script's `MethodArguments` and returns a `PeftModel`, so that saving, resuming and loading
are PEFT's; `full` alone returns the model itself. Whatever the method, what stands outside the backbone is trained too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

from peft import LNTuningConfig, LoraConfig, PeftModel, get_peft_model
from peft.utils.constants import DUMMY_TARGET_MODULES
from torch import nn
from transformers import PreTrainedModel

from mona_peft.integration.heads import without_lists
from mona_peft.integration.selection import (
    TASK_HEAD,
    backbone_of,
    idle_modules,
    in_backbone,
    known_blocks,
    modules_outside,
)
from mona_peft.methods.adapter import AdapterConfig
from mona_peft.methods.adaptformer import AdaptFormerConfig
from mona_peft.methods.bitfit import BitFitConfig
from mona_peft.methods.colin import CoLinConfig
from mona_peft.methods.lorand import LoRandConfig
from mona_peft.methods.mona import MonaConfig

PAPER_DIM = 64
"""The paper's `bottleneck_dim`, to which the other sizes of its rivals belong."""

QUERY_AND_VALUE = ("q_proj", "v_proj", "query", "value")
"""Names of the layers in a backbone's attention that LoRA adapts; which two of them there are depends on the model."""

NORMS = ("LayerNorm", "RMSNorm")
"""Endings of the names of norms' types that some models have of their own, beside PyTorch's."""


@dataclass(frozen=True)
class Method:
    """A method, called with a model and the script's `MethodArguments`.

    Attributes:
        title: What the method is called in tables and cards.
        adapt: Takes a model and the settings as keywords, and returns the adapted model.
        arguments: Names of the fields of `MethodArguments` that are settings of the method.
        overrides: Settings that are part of the method itself.
        peft_type: Name of the method in PEFT, if it is there by `mona_peft`, which has to be imported to load it.
    """

    title: str
    adapt: Callable[..., PeftModel | PreTrainedModel]
    arguments: tuple[str, ...] = ()
    overrides: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    peft_type: str | None = None

    def settings(self, args: Any) -> dict[str, Any]:
        """Returns the settings that the method takes from the arguments or has by itself."""
        return {**{name: getattr(args, name) for name in self.arguments}, **self.overrides}

    def __call__(self, model: PreTrainedModel, args: Any) -> PeftModel | PreTrainedModel:
        """Returns the adapted model."""
        return self.adapt(model, **self.settings(args))


def head_of(model: nn.Module) -> list[str]:
    """Returns the names of the modules that stand outside the backbone."""
    return modules_outside(model, backbone_of(model))


def _by_mona_peft(config_cls: type, model: PreTrainedModel, **settings: Any) -> PeftModel:
    return get_peft_model(model, config_cls(**settings, modules_to_save=TASK_HEAD if head_of(model) else []))


def _lorand(model: PreTrainedModel, bottleneck_dim: int, **settings: Any) -> PeftModel:
    """LoRand, its kernels as much smaller than the authors' 8 as the bottleneck is than 64."""
    return _by_mona_peft(LoRandConfig, model, kernel_dim=_scaled(8, bottleneck_dim), **settings)


def _colin(model: PreTrainedModel, bottleneck_dim: int, **settings: Any) -> PeftModel:
    """CoLin, as much smaller than the authors' 100 channels and rank 28 as the bottleneck is than 64."""
    sizes = {"bottleneck_dim": _scaled(100, bottleneck_dim), "rank": _scaled(28, bottleneck_dim)}
    return _by_mona_peft(CoLinConfig, model, **sizes, **settings)


def _scaled(size: int, bottleneck_dim: int) -> int:
    return max(1, round(size * bottleneck_dim / PAPER_DIM))


def _lora(model: PreTrainedModel, bottleneck_dim: int) -> PeftModel:
    """PEFT's LoRA on query and value; the scaling is 1 / rank and there is no dropout, as in the authors' code."""
    blocks = tuple(f"{name}." for name in known_blocks(model))
    targets = [
        name
        for name, module in model.named_modules()
        if name.startswith(blocks) and isinstance(module, nn.Linear) and name.rpartition(".")[2] in QUERY_AND_VALUE
    ]
    if not targets:
        raise ValueError(
            f"--method lora: the blocks of {type(model).__name__} have no linear layers called "
            f"{', '.join(QUERY_AND_VALUE)}. Choose another method."
        )
    return _by_peft(model, LoraConfig(r=bottleneck_dim, lora_alpha=1, lora_dropout=0.0, target_modules=targets))


def _norm_tuning(model: PreTrainedModel) -> PeftModel:
    """PEFT's LayerNorm tuning on every norm of the backbone that is used, its output norms included."""
    inside, idle = in_backbone(model), idle_modules(model)
    norms = [
        name
        for name, module in model.named_modules()
        if (isinstance(module, nn.LayerNorm) or type(module).__name__.endswith(NORMS))
        and inside(name)
        and name not in idle
    ]
    return _by_peft(model, LNTuningConfig(target_modules=norms))


def _only_modules(model: PreTrainedModel, modules: Callable[[nn.Module], list[str]]) -> PeftModel:
    """Trains whole modules of the model.

    It is an adapter without adapter weights, nothing but `modules_to_save`: a checkpoint then holds these alone, and
    resuming goes through PEFT.
    """
    return _by_peft(model, LoraConfig(target_modules=DUMMY_TARGET_MODULES, modules_to_save=modules(model)))


def _nothing(model: nn.Module) -> list[str]:
    return []


def _last_block(model: nn.Module) -> list[str]:
    return known_blocks(model)[-1:]


def _by_peft(model: PreTrainedModel, config: Any) -> PeftModel:
    """Adapts by a method that does not know of heads."""
    config.modules_to_save = [*(config.modules_to_save or []), *head_of(model)]
    with without_lists(model):
        return get_peft_model(model, config)


def _full(model: PreTrainedModel) -> PreTrainedModel:
    """Everything is trained, but for what nothing uses."""
    model.requires_grad_(True)
    for name in idle_modules(model):
        model.get_submodule(name).requires_grad_(False)
    return model


_BOTTLENECK = ("bottleneck_dim", "dropout", "sites", "init_weights")
_MONA = Method("Mona", partial(_by_mona_peft, MonaConfig), (*_BOTTLENECK, "kernel_sizes"), peft_type="MONA")


def _mona(title: str, **overrides: Any) -> Method:
    arguments = tuple(name for name in _MONA.arguments if name not in overrides)
    return Method(title, _MONA.adapt, arguments, MappingProxyType(overrides), _MONA.peft_type)


METHODS: dict[str, Method] = {
    "full": Method("Full fine-tuning", _full),
    "fixed": Method("Task head alone", partial(_only_modules, modules=_nothing)),
    "bitfit": Method("BitFit", partial(_by_mona_peft, BitFitConfig), peft_type="BITFIT"),
    "norm-tuning": Method("Norm tuning", _norm_tuning),
    "partial-1": Method("Partial-1", partial(_only_modules, modules=_last_block)),
    "adapter": Method("Adapter", partial(_by_mona_peft, AdapterConfig), _BOTTLENECK, peft_type="ADAPTER"),
    "lora": Method("LoRA", _lora, ("bottleneck_dim",)),
    "adaptformer": Method(
        "AdaptFormer",
        partial(_by_mona_peft, AdaptFormerConfig),
        tuple(name for name in _BOTTLENECK if name != "sites"),
        peft_type="ADAPTFORMER",
    ),
    "lorand": Method("LoRand", _lorand, ("bottleneck_dim", "sites", "init_weights"), peft_type="LORAND"),
    "mona": _MONA,
    "colin": Method("CoLin", _colin, ("bottleneck_dim", "sites", "init_weights"), peft_type="COLIN"),
    "colin-without-loss": Method(
        "CoLin without its orthogonality loss",
        _colin,
        ("bottleneck_dim", "sites", "init_weights"),
        MappingProxyType({"orthogonality_weight": 0.0}),
        peft_type="COLIN",
    ),
    "mona-v1": _mona("Mona, version 1: sum of filters, no norm", norm_position="none", filter_reduction="sum"),
    "mona-v2": _mona("Mona, version 2: mean of filters, no norm", norm_position="none", filter_reduction="mean"),
    "mona-v3": _mona("Mona, version 3: norm before the filters", norm_position="bottleneck", filter_reduction="mean"),
    "mona-v4": _mona("Mona, version 4: norm at the input", norm_position="input", filter_reduction="mean"),
    "mona-32": _mona("Mona, 32 channels", bottleneck_dim=32),
    "mona-64": _mona("Mona, 64 channels", bottleneck_dim=64),
    "mona-128": _mona("Mona, 128 channels", bottleneck_dim=128),
}
