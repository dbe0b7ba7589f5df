"""EoMT (arXiv:2503.19108) of a plain ViT: its own last blocks find masks by queries that stand beside the patches."""

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from mona_peft.tasks.models.patches import check_filled

EOMT = {"eomt": ("dinov2", "dinov2_with_registers"), "eomt_dinov3": ("dinov3_vit",)}
"""Types of EoMT, and the types of plain ViTs whose blocks theirs are."""

_QUERY_BLOCKS = {12: 3, 24: 4, 40: 5}
"""By number of blocks, into how many of the last queries enter: as in the paper, for ViT-S and B, ViT-L, and ViT-g."""


def eomt_config(
    model_type: str, vit: PreTrainedConfig, side: int | None, given: dict[str, Any], labels: dict[str, dict]
) -> PreTrainedConfig:
    """Returns the config of a new EoMT whose blocks are those of a pre-trained ViT.

    Args:
        model_type: Of `EOMT`.
        vit: Config of the ViT.
        side: In pixels, of the square images that the model takes. None: those of the ViT.
        given: Settings of the config that come before the ViT's.
        labels: Names of the classes.

    Raises:
        ValueError: The ViT is not of the kind that this EoMT is made of, or patches don't fill an image.
    """
    if side is not None and side <= 0:
        raise ValueError(
            f"Images of {side} x {side} pixels: a positive number is wanted, a multiple of the patches' side."
        )
    if vit.model_type not in EOMT[model_type]:
        other = next((name for name, kinds in EOMT.items() if vit.model_type in kinds), None)
        raise ValueError(
            f"--backbone: a model of type {vit.model_type}, and an {model_type} is made of a "
            f"{' or '.join(EOMT[model_type])}." + (f" Give --model_type {other}." if other else "")
        )
    usual = AutoConfig.for_model(model_type).to_dict()
    shared = [name for name in usual if hasattr(vit, name) and name not in PreTrainedConfig().to_dict()]
    settings = {name: getattr(vit, name) for name in shared} | {
        "num_register_tokens": getattr(vit, "num_register_tokens", 0),
        "num_blocks": min(_QUERY_BLOCKS.get(vit.num_hidden_layers, usual["num_blocks"]), vit.num_hidden_layers),
        "image_size": vit.image_size if side is None else side,
    }
    if hasattr(vit, "rope_theta"):
        settings["rope_parameters"] = {"rope_type": "default", "rope_theta": vit.rope_theta}
    config = AutoConfig.for_model(model_type, **{**settings, **given}, **labels)
    check_filled([config.image_size], config.patch_size)
    return config
