"""Weights of a pre-trained plain ViT as those of a model whose blocks stand beside its head."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel

_NAMES = {r"^(encoder\.|model\.)?layer\.": "layers.", r"^norm\.": "layernorm."}
_ATTENTION = {  # in transformers up to 5.16 DINOv2's projections have other names
    rf"attention\.(attention\.)?({long}|{short}_proj)\.": f"attention.{short}_proj."
    for long, short in (("query", "q"), ("key", "k"), ("value", "v"))
}
_OUTPUT = r"attention\.(output\.dense|o_proj)\."
_KEYS = {
    "EomtForUniversalSegmentation": {**_NAMES, **_ATTENTION, _OUTPUT: "attention.out_proj."},
    "EomtDinov3ForUniversalSegmentation": _NAMES,
}
"""By class of model, names in a plain ViT that are others in the model, as patterns and replacements."""


def is_plain_vit(model: nn.Module) -> bool:
    """Returns whether a model is itself a plain ViT, with the parts of its head among those of the ViT (EoMT)."""
    return type(model).__name__ in _KEYS


def plain_vit_weights(
    model: PreTrainedModel, pretrained_model_name_or_path: str | Path, **kwargs: Any
) -> dict[str, torch.Tensor]:
    """Returns the weights of a pre-trained DINOv2 or DINOv3 under the names of a model that is itself such a ViT.

    DINOv2's position embeddings are interpolated to the model's grid as DINOv2 does, that of the class token is added
    to the token: the model's own class token has none. Weights that the file lacks are left out; whether those that the
    model needs are there, and fit, is for the caller to see.

    Args:
        model: `is_plain_vit` is true of it.
        pretrained_model_name_or_path: Folder, or name on the hub.
        kwargs: As `from_pretrained` takes them.

    Raises:
        OSError: There is no such folder and the hub returns no such model.
    """
    vit, loading = AutoModel.from_pretrained(
        pretrained_model_name_or_path, dtype=torch.float32, output_loading_info=True, **kwargs
    )
    drawn = loading["missing_keys"]  # at random, as the file has none
    weights = {
        _renamed(name, _KEYS[type(model).__name__]): weight
        for name, weight in vit.state_dict().items()
        if name not in drawn
    }
    weights.setdefault("embeddings.register_tokens", torch.empty(1, 0, model.config.hidden_size))
    positions = weights.pop("embeddings.position_embeddings", None)
    if positions is not None and "embeddings.cls_token" in weights:
        side = model.config.image_size
        places = torch.empty(1, 1 + (side // model.config.patch_size) ** 2, positions.shape[-1])
        with torch.no_grad():
            positions = vit.embeddings.interpolate_pos_encoding(places, side, side)
        weights["embeddings.cls_token"] = weights["embeddings.cls_token"] + positions[:, :1]
        weights["embeddings.position_embeddings.weight"] = positions[0, 1:]
    return weights


def _renamed(name: str, patterns: dict[str, str]) -> str:
    for pattern, replacement in patterns.items():
        name = re.sub(pattern, replacement, name)
    return name
