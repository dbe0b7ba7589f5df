"""A pre-trained classifier's backbone as that of a model for dense prediction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.backbone_utils import BackboneMixin
from transformers.utils import logging as transformers_logging

from mona_peft.integration.selection import backbone_of, in_backbone
from mona_peft.interop.plain_vits import is_plain_vit, plain_vit_weights

_OUTPUT_NORMS = "hidden_states_norms."
"""Norms of the feature maps: classifiers have none, and they begin as the identity's scale and shift."""

_KEY_MAPPINGS = {"MaskFormerSwinBackbone": {r"^swin\.": "model."}}
"""Names in a classifier's checkpoint that are others in the backbone, as patterns and replacements, by class."""

_SIZES = ("embed_dim", "depths", "num_heads", "window_size", "hidden_size", "num_hidden_layers", "patch_size")
"""Settings that a refusal tells of, where the backbone has them."""


def load_backbone(model: PreTrainedModel, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> None:
    """Give the backbone of a model the weights of a pre-trained one, in place.

    The backbone of UPerNet, Mask2Former, MaskFormer, the DETR family and the like is a class of its own around the
    blocks. transformers reads its weights from a name on the hub alone, and only when the model is built. EoMT has no
    backbone apart from itself: its own blocks and embeddings get the weights of a DINOv2 or DINOv3.

    Args:
        model: With a backbone of the architecture of the pre-trained one.
        pretrained_model_name_or_path: Folder, or name on the hub, of a classifier or a backbone such as
            `microsoft/swin-large-patch4-window7-224-in22k`.
        kwargs: As `from_pretrained` takes them, such as `revision`.

    Raises:
        ValueError: If the model has no such backbone, or the weights are not those of its architecture. Nothing is
            changed then.
        OSError: If there is no such folder and the hub returns no such model.
    """
    backbone = model.get_submodule(backbone_of(model))
    if is_plain_vit(backbone):
        with without_report():  # which is about weights that a ViT has besides; those that it lacks are told of here
            weights = plain_vit_weights(backbone, pretrained_model_name_or_path, **kwargs)
        is_in = in_backbone(backbone)
        own = {name: parameter.shape for name, parameter in backbone.named_parameters() if is_in(name)}
        if unfit := [name for name, shape in own.items() if name not in weights or weights[name].shape != shape]:
            raise ValueError(_refusal(model, pretrained_model_name_or_path, f"nothing of the shape of {unfit[0]}"))
        backbone.load_state_dict({name: weights[name] for name in own}, strict=False)
        return
    if not isinstance(backbone, BackboneMixin):
        raise ValueError(
            f"{type(model).__name__} has no backbone apart from itself (its blocks stand in a "
            f"{type(backbone).__name__}); load such a model whole, with `from_pretrained`."
        )
    # Made anew: MaskFormer's backbone keeps a config that calls itself an ordinary Swin's.
    settings = {name: value for name, value in backbone.config.to_dict().items() if name != "model_type"}
    try:
        with without_report():  # which is about the output norms; the others are checked here
            pretrained, loading = type(backbone).from_pretrained(
                pretrained_model_name_or_path,
                config=backbone.config_class.from_dict(settings),
                key_mapping=_KEY_MAPPINGS.get(type(backbone).__name__),
                output_loading_info=True,
                dtype=torch.float32,
                **kwargs,
            )
    except RuntimeError as error:
        raise ValueError(_refusal(model, pretrained_model_name_or_path, "tensors of other shapes")) from error
    buffers = {name for name, _ in backbone.named_buffers()}
    missing = sorted(name for name in set(loading["missing_keys"]) - buffers if not name.startswith(_OUTPUT_NORMS))
    if missing:
        raise ValueError(_refusal(model, pretrained_model_name_or_path, f"nothing for {missing[0]} and the like"))
    backbone.load_state_dict(pretrained.state_dict())


@contextmanager
def without_report() -> Iterator[None]:
    """Loads without transformers' report on missing weights, where it alarms without cause and they are checked."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def _refusal(model: PreTrainedModel, name: str | Path, what: str) -> str:
    backbone = model.get_submodule(backbone_of(model))
    sizes = {key: getattr(backbone.config, key, None) for key in _SIZES}
    return (
        f"{name} has {what}, so it can't be the backbone of this {type(model).__name__}, a {type(backbone).__name__} "
        f"with {', '.join(f'{key}={value}' for key, value in sizes.items() if value is not None)}. Build the model "
        "around the config of that backbone, or give a backbone of these sizes."
    )
