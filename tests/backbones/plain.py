"""Transformers of one grid and one width throughout: ViT and its relatives."""

from __future__ import annotations

from typing import Any

import transformers
from torch import nn
from transformers import (
    BeitBackbone,
    BeitConfig,
    BeitModel,
    Data2VecVisionConfig,
    Data2VecVisionModel,
    DeiTConfig,
    DeiTModel,
    Dinov2Backbone,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersBackbone,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTBackbone,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    DPTConfig,
    DPTModel,
    EomtConfig,
    EomtDinov3Config,
    EomtDinov3ForUniversalSegmentation,
    EomtForUniversalSegmentation,
    IJepaConfig,
    IJepaModel,
    ViTConfig,
    ViTModel,
)

from tests import naive_blocks as naive
from tests import tiny_configs as tiny
from tests.backbones.row import FIXED, Backbone


def eomt_large(model_class: type[nn.Module], config_class: type[Any]) -> nn.Module:
    model = model_class(config_class())
    # Read in each forward, which tensors without data do not allow.
    del model.attn_mask_probs
    model.attn_mask_probs = [0.0] * model.config.num_blocks
    return model


def rf_detr_small() -> Any:
    return transformers.RfDetrDinov2Config(
        hidden_size=384, num_attention_heads=6, image_size=560, out_indices=[2, 5, 8, 11]
    )


PLAIN: dict[str, Backbone] = {
    "vit": Backbone(
        "ViT",
        lambda: ViTModel(ViTConfig(**tiny.VIT)),
        naive.VIT,
        (8,) * 3,
        ("ViT-B/16", lambda: ViTModel(ViTConfig(), add_pooling_layer=False)),
        prefix=1,
        arguments=tiny.INTERPOLATE,
    ),
    "deit": Backbone(
        "DeiT",
        lambda: DeiTModel(DeiTConfig(**tiny.VIT)),
        naive.VIT,
        (8,) * 3,
        ("DeiT-B/16", lambda: DeiTModel(DeiTConfig(), add_pooling_layer=False)),
        prefix=2,
        arguments=tiny.INTERPOLATE,
    ),
    "beit": Backbone(
        "BEiT",
        lambda: BeitModel(BeitConfig(**tiny.BEIT, use_absolute_position_embeddings=True)),
        naive.BEIT,
        (8,) * 3,
        ("BEiT-B/16", lambda: BeitModel(BeitConfig(use_relative_position_bias=True), add_pooling_layer=False)),
        prefix=1,
        arguments=tiny.INTERPOLATE,
        features=lambda: BeitBackbone(BeitConfig(**tiny.BEIT, out_indices=[2, 3])),
    ),
    "data2vec-vision": Backbone(
        "Data2Vec Vision",
        lambda: Data2VecVisionModel(Data2VecVisionConfig(**tiny.BEIT)),
        naive.DATA2VEC,
        (8,) * 3,
        ("Data2Vec-B/16", lambda: Data2VecVisionModel(Data2VecVisionConfig(use_relative_position_bias=True))),
        prefix=1,
        arguments=tiny.INTERPOLATE,
    ),
    "ijepa": Backbone(
        "I-JEPA",
        lambda: IJepaModel(IJepaConfig(**tiny.VIT)),
        naive.VIT,
        (8,) * 3,
        (
            "I-JEPA ViT-H/14",
            lambda: IJepaModel(
                IJepaConfig(
                    hidden_size=1280,
                    num_hidden_layers=32,
                    num_attention_heads=16,
                    intermediate_size=5120,
                    patch_size=14,
                ),
                add_pooling_layer=False,
            ),
        ),
        arguments=tiny.INTERPOLATE,
    ),
    "dpt": Backbone(
        "DPT's own ViT",
        lambda: DPTModel(DPTConfig(**tiny.VIT)),
        naive.DPT,
        (8,) * 3,
        ("DPT ViT-B/16", lambda: DPTModel(DPTConfig(), add_pooling_layer=False)),
        prefix=1,
        further_images=((40, 24), (32, 32)),
    ),
    "dinov2": Backbone(
        "DINOv2",
        lambda: Dinov2Model(Dinov2Config(**tiny.DINO)),
        naive.DINO,
        (7,) * 3,
        ("DINOv2 ViT-B/14", lambda: Dinov2Model(Dinov2Config())),
        prefix=1,
        image=(21, 35),
        further_images=((35, 21), (14, 14)),
        features=lambda: Dinov2Backbone(Dinov2Config(**tiny.DINO, out_indices=[1, 3])),
    ),
    "dinov2-with-registers": Backbone(
        "DINOv2 with registers",
        lambda: Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**tiny.DINO, num_register_tokens=3)),
        naive.DINO,
        (7,) * 3,
        ("DINOv2 ViT-B/14", lambda: Dinov2WithRegistersModel(Dinov2WithRegistersConfig())),
        prefix=4,
        image=(21, 35),
        further_images=((35, 21), (14, 14)),
        features=lambda: Dinov2WithRegistersBackbone(Dinov2WithRegistersConfig(**tiny.DINO, out_indices=[1, 3])),
    ),
    "dinov3-vit": Backbone(
        "DINOv3 ViT",
        lambda: DINOv3ViTModel(DINOv3ViTConfig(**tiny.DINOV3)),
        naive.DINO,
        (8,) * 3,
        (
            "DINOv3 ViT-B/16",
            lambda: DINOv3ViTModel(
                DINOv3ViTConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12, num_register_tokens=4)
            ),
        ),
        prefix=4,
        features=lambda: DINOv3ViTBackbone(DINOv3ViTConfig(**tiny.DINOV3, out_indices=[1, 3])),
    ),
    "eomt": Backbone(
        "EoMT",
        lambda: EomtForUniversalSegmentation(EomtConfig(**tiny.EOMT)),
        naive.DINO,
        (7,) * 3,
        ("EoMT-L/16", lambda: eomt_large(EomtForUniversalSegmentation, EomtConfig)),
        prefix=(3, 3, 8),
        checkpoints=(),
        compiles=False,
        **FIXED,
    ),
    "eomt-dinov3": Backbone(
        "EoMT on DINOv3",
        lambda: EomtDinov3ForUniversalSegmentation(EomtDinov3Config(**tiny.EOMT_DINOV3)),
        naive.DINO,
        (8,) * 3,
        ("EoMT-L/16", lambda: eomt_large(EomtDinov3ForUniversalSegmentation, EomtDinov3Config)),
        prefix=(3, 3, 8),
        checkpoints=(),
        compiles=False,
        **FIXED | {"image": (32, 32)},
    ),
    "vit-msn": Backbone(
        "ViT-MSN",
        lambda: transformers.ViTMSNModel(transformers.ViTMSNConfig(**tiny.VIT)),
        naive.VIT,
        (8,) * 3,
        ("ViT-MSN B/16", lambda: transformers.ViTMSNModel(transformers.ViTMSNConfig())),
        prefix=1,
        arguments=tiny.INTERPOLATE,
        requires="ViTMSNModel",
    ),
    "vitpose": Backbone(
        "ViTPose's backbone",
        lambda: transformers.VitPoseBackbone(transformers.VitPoseBackboneConfig(**tiny.VITPOSE)),
        naive.VITPOSE,
        (8,) * 3,
        ("ViTPose-B", lambda: transformers.VitPoseBackbone(transformers.VitPoseBackboneConfig())),
        image=(32, 48),
        further_images=(),
        requires="VitPoseBackbone",
    ),
    "pixio": Backbone(
        "Pixio",
        lambda: transformers.PixioModel(transformers.PixioConfig(**tiny.PIXIO)),
        naive.PIXIO,
        (8,) * 3,
        ("Pixio-H/16", lambda: transformers.PixioModel(transformers.PixioConfig())),
        prefix=3,
        features=lambda: transformers.PixioBackbone(transformers.PixioConfig(**tiny.PIXIO, out_indices=[1, 3])),
        requires="PixioModel",
    ),
    "rf-detr": Backbone(
        "RF-DETR's DINOv2",
        lambda: transformers.RfDetrDinov2Backbone(transformers.RfDetrDinov2Config(**tiny.RF_DETR)),
        naive.RF_DETR,
        (8,) * 3,
        ("RF-DETR ViT-S/14", lambda: transformers.RfDetrDinov2Backbone(rf_detr_small())),
        prefix=4,  # one class token in each of its windows
        image=(32, 32),  # of others the stock model mixes up the places
        further_images=((64, 64), (16, 16)),
        requires="RfDetrDinov2Backbone",
    ),
    "lw-detr": Backbone(
        "LW-DETR's ViT",
        lambda: transformers.LwDetrViTBackbone(transformers.LwDetrViTConfig(**tiny.LW_DETR)),
        naive.LW_DETR,
        (8,) * 3,
        ("LW-DETR ViT-B/16", lambda: transformers.LwDetrViTBackbone(transformers.LwDetrViTConfig())),
        image=(32, 48),
        further_images=((48, 32), (32, 32)),
        requires="LwDetrViTBackbone",
    ),
}
