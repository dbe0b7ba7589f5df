"""What dense models need around their backbone before it can be adapted, saved and trained with less memory."""

from functools import partial

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, TrainingArguments

from mona_peft.integration.checkpointing import enable_checkpointing
from mona_peft.integration.selection import (
    backbone_of,
    backbone_prefix,
    input_embeddings,
    modules_outside,
    parameters_outside,
)


def checkpoint_backbone(model: PeftModel | PreTrainedModel, args: TrainingArguments) -> None:
    """Makes `--gradient_checkpointing` mean the backbone, in which nearly all memory is.

    `Trainer` asks the whole model, and UPerNet, Mask2Former, RT-DETR and others refuse.

    Args:
        model: Adapted already: PEFT would ask a checkpointed one for embeddings whose outputs detectors lack.
        args: Checkpointing is off in them afterwards.

    Raises:
        ValueError: It is to be PyTorch's older kind, which asks for a gradient of the input of the backbone.
    """
    # The newer name of the same, and the older one; transformers 6 has the newer alone.
    name = next(name for name in ("activation_checkpointing", "gradient_checkpointing") if hasattr(args, name))
    if getattr(args, name):
        kind = {"use_reentrant": False, **(getattr(args, f"{name}_kwargs") or {})}
        if kind["use_reentrant"]:
            raise ValueError(
                f"--{name}_kwargs: with use_reentrant what is trained in a frozen backbone would get no "
                "gradient. Leave it out."
            )
        model = model.get_base_model() if isinstance(model, PeftModel) else model
        enable_checkpointing(model.get_submodule(backbone_of(model)), kind)
        args.gradient_checkpointing = args.activation_checkpointing = False  # the old name and the new one


def settle_bare_parameters(model: PreTrainedModel) -> None:
    """Gives parameters that PEFT can't save, as they lie in no module of the head's, values that a reload finds again.

    Nor are they trained, but by `--method full`. Deformable DETR has one such, the embedding of its levels.
    """
    backbone = backbone_of(model)
    for name in parameters_outside(model, backbone, modules_outside(model, backbone)):
        nn.init.normal_(model.get_parameter(name), generator=torch.Generator().manual_seed(0))


def tell_embeddings(model: PreTrainedModel) -> None:
    """Lets a model that does not tell of its input embeddings answer with a layer of its backbone's.

    PEFT's own methods ask, to see what is tied to them, and several detectors raise.
    """
    if input_embeddings(model) is not None:
        return
    layers = (
        name for name, module in model.named_modules() if next(module.parameters(recurse=False), None) is not None
    )
    first = next(name for name in layers if name.startswith(backbone_prefix(model)))
    model.get_input_embeddings = partial(model.get_submodule, first)
