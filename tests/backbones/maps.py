"""Transformers whose blocks take whole maps: SAM's encoders and ViTDet."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import transformers
from torch import nn
from transformers import (
    SamVisionConfig,
    SamVisionModel,
    VitDetBackbone,
    VitDetConfig,
    VitDetModel,
)

from tests import naive_blocks as naive
from tests import tiny_configs as tiny
from tests.backbones.row import FIXED, STAGES, Backbone


def sam3(config: Any) -> nn.Module:
    # By its module: transformers hands it out beside torchvision alone, which other parts of SAM 3 need.
    return import_module("transformers.models.sam3.modeling_sam3").Sam3ViTModel(config)


MAPS: dict[str, Backbone] = {
    "sam": Backbone(
        "SAM vision",
        lambda: SamVisionModel(SamVisionConfig(**tiny.SAM)),
        naive.SAM,
        (8,) * 3,
        ("SAM ViT-B/16", lambda: SamVisionModel(SamVisionConfig())),
        **FIXED | {"image": (64, 64)},
    ),
    "vitdet": Backbone(
        "ViTDet",
        lambda: VitDetModel(VitDetConfig(**tiny.VITDET)),
        naive.VITDET,
        (8,) * 3,
        (
            "ViTDet ViT-B/16",
            lambda: VitDetModel(VitDetConfig(image_size=1024, window_size=14, residual_block_indices=())),
        ),
        features=lambda: VitDetBackbone(VitDetConfig(**tiny.VITDET, out_indices=[1, 3])),
        image=(32, 64),
        further_images=((64, 32), (64, 64)),
    ),
    "sam-hq": Backbone(
        "SAM-HQ vision",
        lambda: transformers.SamHQVisionModel(transformers.SamHQVisionConfig(**tiny.SAM)),
        naive.SAM,
        (8,) * 3,
        ("SAM-HQ ViT-B/16", lambda: transformers.SamHQVisionModel(transformers.SamHQVisionConfig())),
        requires="SamHQVisionModel",
        **FIXED | {"image": (64, 64)},
    ),
    "sam2": Backbone(
        "SAM 2's Hiera",
        lambda: transformers.Sam2HieraDetModel(transformers.Sam2HieraDetConfig(**tiny.SAM2)),
        naive.SAM,
        (4, 8, 8, 16, 32),
        ("SAM 2.1 Hiera-T", lambda: transformers.Sam2HieraDetModel(transformers.Sam2HieraDetConfig())),
        checkpoints=(),
        requires="Sam2HieraDetModel",
        **STAGES,
    ),
    "sam3": Backbone(
        "SAM 3's ViT",
        lambda: sam3(transformers.Sam3ViTConfig(**tiny.SAM3)),
        naive.SAM3,
        (8,) * 3,
        ("SAM 3 ViT-L/14", lambda: sam3(transformers.Sam3ViTConfig())),
        image=(32, 48),
        further_images=(),
        checkpoints=(),
        requires="Sam3ViTConfig",
    ),
}
