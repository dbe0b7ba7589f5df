"""Registration of adapter methods with PEFT: the only file that touches `PeftType` and PEFT's mappings.

`peft_model.py` alone changes how `PeftModel` behaves around them, `native_loading.py` how transformers loads them.
"""

from __future__ import annotations

from peft import PeftConfig, PeftType
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import register_peft_method

from mona_peft.integration.native_loading import adapt_native_loading
from mona_peft.integration.peft_compat import keep_adapters_apart
from mona_peft.integration.peft_model import adapt_peft_model


def add_peft_type(name: str) -> PeftType:
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


def register_method(config_cls: type[PeftConfig], model_cls: type[BaseTuner]) -> None:
    """Make PEFT know a method; does nothing when PEFT knows it already.

    Args:
        config_cls: Configuration class of the method. Its `method` is the name; the `PeftType` is its upper case.
        model_cls: Tuner class of the method. Its `prefix` is that of the parameters.
    """
    if add_peft_type(config_cls.method.upper()) in PEFT_TYPE_TO_TUNER_MAPPING:
        return
    register_peft_method(name=config_cls.method, config_cls=config_cls, model_cls=model_cls, prefix=model_cls.prefix)
    adapt_peft_model()
    adapt_native_loading()
    keep_adapters_apart()
