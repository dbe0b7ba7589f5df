"""Making a method known to PEFT: `register_method`, and the only lines that touch `PeftType`."""

from __future__ import annotations

import sys

from peft import PeftType
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import register_peft_method

from mona_peft.config import MethodConfig, ResidualAdapterConfig
from mona_peft.host.block import AdaptedBlock
from mona_peft.integration.layer import ResidualAdapterLayer
from mona_peft.integration.patches import apply_patches
from mona_peft.integration.residual_tuner import ResidualAdapterModel
from mona_peft.integration.tuner import MethodModel


def register_method(config_cls: type[MethodConfig], model_cls: type[MethodModel] | None = None) -> type[MethodModel]:
    """Make PEFT know a method; does nothing where PEFT knows it already.

    A residual adapter needs two classes: a `ResidualAdapter` that computes, and a `ResidualAdapterConfig` whose
    `make_adapter` builds it. Layer, block and tuner are derived from the configuration and called after it. They get
    names in its module (`ShiftLayer`, `ShiftBlock`, `ShiftModel` for a `ShiftConfig`), where pickle looks for them.

    Args:
        config_cls: Configuration of the method. Its `method` is the name in PEFT; the `PeftType` is its upper case.
        model_cls: Tuner of a method that is no residual adapter.

    Returns:
        The tuner class of the method.

    Raises:
        ValueError: If the configuration names no method, or is that of no residual adapter and has no tuner.

    Example:
        >>> class Shift(ResidualAdapter):
        ...     def __init__(self, dim):
        ...         super().__init__()
        ...         self.shift = nn.Parameter(torch.zeros(dim))
        ...     def reset_parameters(self, init_weights):
        ...         nn.init.zeros_(self.shift)
        ...     def forward(self, hidden_states, grid):
        ...         return self.shift.expand_as(hidden_states)
        >>> @dataclass
        ... class ShiftConfig(ResidualAdapterConfig):
        ...     method = "shift"
        ...     title = "Shift"
        ...     def make_adapter(self, dim):
        ...         return Shift(dim)
        >>> ShiftModel = register_method(ShiftConfig)
        >>> model = get_peft_model(model, ShiftConfig())
    """
    if not config_cls.method.isidentifier() or not config_cls.method.islower():
        raise ValueError(f"{config_cls.__name__}.method={config_cls.method!r}: give a name in lower case.")
    known = PEFT_TYPE_TO_TUNER_MAPPING.get(_add_peft_type(config_cls.method.upper()))
    if known is not None:
        return known
    model_cls = model_cls or _derive_tuner(config_cls)
    register_peft_method(name=config_cls.method, config_cls=config_cls, model_cls=model_cls, prefix=model_cls.prefix)
    apply_patches()
    return model_cls


def _derive_tuner(config_cls: type[MethodConfig]) -> type[ResidualAdapterModel]:
    if not issubclass(config_cls, ResidualAdapterConfig):
        raise ValueError(f"{config_cls.__name__} is no ResidualAdapterConfig: give its tuner as `model_cls`.")
    child, module = config_cls.child(), sys.modules[config_cls.__module__]

    def derive(base: type, part: str, doc: str, **attributes: object) -> type:
        name = f"{config_cls.__name__.removesuffix('Config')}{part}"
        derived = type(name, (base,), {"__module__": module.__name__, "__doc__": doc, **attributes})
        setattr(module, name, derived)
        return derived

    layer = derive(
        ResidualAdapterLayer,
        "Layer",
        f"The {config_cls.title}s of one block, by site and adapter name.",
        adapter_layer_names=(f"{child}_attn", f"{child}_mlp"),
        config_cls=config_cls,
    )
    # The child is not called by the prefix: PEFT takes keys that contain the prefix for adapter internals.
    block = derive(AdaptedBlock, "Block", f"A block whose child `{child}` holds its adapters.", child_name=child)
    return derive(
        ResidualAdapterModel,
        "Model",
        f"Puts {config_cls.title}s into the blocks of a model; see `{config_cls.__name__}`.",
        prefix=f"{child}_",
        tuner_layer_cls=layer,
        block_mixin=block,
    )


def _add_peft_type(name: str) -> PeftType:
    """Return the member `name` of `PeftType`, adding it when PEFT has none.

    `register_peft_method` refuses names that the enum lacks, and `PeftType(value)`, `PeftType.NAME`, iteration and
    pickling all have to find the new member, so it is entered wherever `enum` looks members up.

    Args:
        name: Name and value of the member, upper case.
    """
    if name in PeftType.__members__:
        return PeftType[name]
    member = str.__new__(PeftType, name)
    member._name_ = name
    member._value_ = name
    member.__objclass__ = PeftType
    member._sort_order_ = len(PeftType.__members__)
    # The attribute comes first: enum's metaclass refuses to set a name that is in the member map already.
    setattr(PeftType, name, member)
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
    # Python >= 3.12 keeps the hashable values apart for `value in PeftType`.
    if hasattr(PeftType, "_hashable_values_"):
        PeftType._hashable_values_.append(name)
    return member
