"""Tiny models with random weights, one row each: what the tests of the tuner run on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from transformers import (
    DonutSwinConfig,
    DonutSwinModel,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    MaskFormerConfig,
    MaskFormerForInstanceSegmentation,
    MaskFormerSwinConfig,
    SwinBackbone,
    SwinConfig,
    SwinForImageClassification,
    SwinModel,
    Swinv2Backbone,
    Swinv2Config,
    Swinv2ForImageClassification,
    Swinv2Model,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)
from transformers.models.maskformer.modeling_maskformer_swin import MaskFormerSwinBackbone

TWO_STAGES = {
    "image_size": 64,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
    "num_labels": 5,
}
FEATURES = {"out_features": ["stage1", "stage2"]}
FOUR_STAGES = {
    "image_size": 64,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [1, 1, 2, 1],
    "num_heads": [2, 2, 4, 4],
    "window_size": 4,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}


def upernet(backbone: SwinConfig | Swinv2Config | None = None) -> nn.Module:
    return UperNetForSemanticSegmentation(
        UperNetConfig(
            backbone_config=backbone or SwinConfig(**FOUR_STAGES),
            hidden_size=16,
            pool_scales=[1, 2],
            auxiliary_in_channels=64,
            auxiliary_channels=16,
            num_labels=3,
        )
    )


def mask2former() -> nn.Module:
    return Mask2FormerForUniversalSegmentation(
        Mask2FormerConfig(
            backbone_config=SwinConfig(**FOUR_STAGES),
            feature_size=32,
            mask_feature_size=32,
            hidden_dim=32,
            encoder_feedforward_dim=16,
            dim_feedforward=16,
            encoder_layers=1,
            decoder_layers=2,
            num_attention_heads=2,
            num_queries=5,
            num_labels=3,
        )
    )


def maskformer() -> nn.Module:
    return MaskFormerForInstanceSegmentation(
        MaskFormerConfig(backbone_config=SwinConfig(**FOUR_STAGES), fpn_feature_size=32, mask_feature_size=32)
    )


BACKBONES: dict[str, Callable[[], nn.Module]] = {
    "swin": lambda: SwinModel(SwinConfig(**TWO_STAGES)),
    "swin-backbone": lambda: SwinBackbone(SwinConfig(**TWO_STAGES, **FEATURES)),
    "swinv2": lambda: Swinv2Model(Swinv2Config(**TWO_STAGES)),
    "swinv2-backbone": lambda: Swinv2Backbone(Swinv2Config(**TWO_STAGES, **FEATURES)),
    "maskformer-swin": lambda: MaskFormerSwinBackbone(MaskFormerSwinConfig(**TWO_STAGES, **FEATURES)),
    "donut-swin": lambda: DonutSwinModel(DonutSwinConfig(**TWO_STAGES)),
}
"""Models that are backbones and nothing else."""

HEADED: dict[str, Callable[[], nn.Module]] = {
    "swin-classifier": lambda: SwinForImageClassification(SwinConfig(**TWO_STAGES)),
    "swinv2-classifier": lambda: Swinv2ForImageClassification(Swinv2Config(**TWO_STAGES)),
    "upernet": upernet,
    "mask2former": mask2former,
    "maskformer": maskformer,
}
"""Models with a task head."""

MODELS = BACKBONES | HEADED

HEADS = {
    "swin-classifier": ["classifier"],
    "swinv2-classifier": ["classifier"],
    "upernet": ["decode_head", "auxiliary_head"],
    "mask2former": ["model.pixel_level_module.decoder", "model.transformer_module", "class_predictor"],
    "maskformer": [
        "model.pixel_level_module.decoder",
        "model.transformer_module",
        "class_predictor",
        "mask_embedder",
    ],
}
"""What stands outside the backbone of the models in `HEADED`."""


def build(name: str) -> nn.Module:
    """Build a model of the table in evaluation mode; the same weights every time."""
    torch.manual_seed(0)
    return MODELS[name]().eval()


def images(batch_size: int = 2, height: int = 64, width: int = 64) -> torch.Tensor:
    """Random images, the same every time."""
    return torch.randn(batch_size, 3, height, width, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def outputs(model: nn.Module, pixel_values: torch.Tensor, **kwargs) -> list[torch.Tensor]:
    """All tensors that a model returns, without gradients.

    With gradients, attention runs other kernels where the relative position bias is trained than where it is frozen.
    """
    values = model(pixel_values, **kwargs).to_tuple()
    nested = (value if isinstance(value, (tuple, list)) else (value,) for value in values)
    return [tensor for group in nested for tensor in group if isinstance(tensor, torch.Tensor)]


def largest_difference(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    """The largest absolute difference between two lists of tensors."""
    return max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True))
