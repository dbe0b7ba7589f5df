"""The methods of adapting a model, by the name that `--method` takes.

Each takes a model and the script's `MethodArguments` and returns a `PeftModel`, so that saving, resuming and loading
are PEFT's for every method.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.constants import DUMMY_TARGET_MODULES
from transformers import PreTrainedModel

from mona_peft import MonaConfig
from mona_peft.selection import backbone_of, modules_outside

if TYPE_CHECKING:
    from scripts.common.arguments import MethodArguments


def mona(model: PreTrainedModel, args: MethodArguments) -> PeftModel:
    """Mona in every block of the backbone; what stands outside the backbone is trained too."""
    config = MonaConfig(
        bottleneck_dim=args.bottleneck_dim,
        kernel_sizes=tuple(args.kernel_sizes),
        dropout=args.dropout,
        sites=tuple(args.sites),
        init_weights=args.init_weights,
        modules_to_save="task-head",
    )
    return get_peft_model(model, config)


def fixed(model: PreTrainedModel, args: MethodArguments) -> PeftModel:
    """The backbone stays as it is; only what stands outside it is trained.

    An adapter without adapter weights, nothing but `modules_to_save`: a checkpoint then holds the head alone, and
    resuming goes through PEFT. (`Trainer` restores only a part of a Swin model that is not a `PeftModel`.)
    """
    head = modules_outside(model, backbone_of(model))
    return get_peft_model(model, LoraConfig(target_modules=DUMMY_TARGET_MODULES, modules_to_save=head))


def full(model: PreTrainedModel, args: MethodArguments) -> PreTrainedModel:
    """Everything is trained."""
    return model


METHODS: dict[str, Callable[[PreTrainedModel, MethodArguments], PeftModel | PreTrainedModel]] = {
    "full": full,
    "fixed": fixed,
    "mona": mona,
}
