"""Convolutional nets: one residual a block, maps with the channels first."""

from __future__ import annotations

import transformers
from transformers import (
    ConvNextBackbone,
    ConvNextConfig,
    ConvNextModel,
    ConvNextV2Backbone,
    ConvNextV2Config,
    ConvNextV2Model,
    DINOv3ConvNextBackbone,
    DINOv3ConvNextConfig,
    DINOv3ConvNextModel,
)

from tests import naive_blocks as naive
from tests import tiny_configs as tiny
from tests.backbones.row import CONVOLUTIONS, STAGES, Backbone

REGNET_X_4GF = {"layer_type": "x", "hidden_sizes": [80, 240, 560, 1360], "depths": [2, 5, 14, 2], "groups_width": 40}
EIGHTEEN = {"layer_type": "basic", "depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512]}

CONVOLUTIONAL: dict[str, Backbone] = {
    "convnext": Backbone(
        "ConvNeXt",
        lambda: ConvNextModel(ConvNextConfig(**tiny.CONVNEXT, layer_scale_init_value=0.5)),
        naive.CONVNEXT,
        (4, 4, 8),
        ("ConvNeXt-T", lambda: ConvNextModel(ConvNextConfig())),
        checkpoints=(),
        features=lambda: ConvNextBackbone(ConvNextConfig(**tiny.CONVNEXT, out_indices=[1, 2])),
        **STAGES,
    ),
    "convnextv2": Backbone(
        "ConvNeXt V2",
        lambda: ConvNextV2Model(ConvNextV2Config(**tiny.CONVNEXT)),
        naive.CONVNEXT,
        (4, 4, 8),
        ("ConvNeXtV2-T", lambda: ConvNextV2Model(ConvNextV2Config())),
        checkpoints=(),
        features=lambda: ConvNextV2Backbone(ConvNextV2Config(**tiny.CONVNEXT, out_indices=[1, 2])),
        **STAGES,
    ),
    "dinov3-convnext": Backbone(
        "DINOv3 ConvNeXt",
        lambda: DINOv3ConvNextModel(
            DINOv3ConvNextConfig(
                hidden_sizes=[16, 32, 32, 32], depths=[1, 1, 2, 1], drop_path_rate=0.3, layer_scale_init_value=0.5
            )
        ),
        naive.DINOV3_CONVNEXT,
        (4, 8, 16, 16, 32),
        ("DINOv3 ConvNeXt-T", lambda: DINOv3ConvNextModel(DINOv3ConvNextConfig())),
        checkpoints=(),
        features=lambda: DINOv3ConvNextBackbone(
            DINOv3ConvNextConfig(hidden_sizes=[16, 32, 32, 32], depths=[1, 1, 2, 1], out_indices=[1, 4])
        ),
        **STAGES,
    ),
    "resnet": Backbone(
        "ResNet",
        lambda: transformers.ResNetModel(transformers.ResNetConfig(**tiny.RESNET)),
        naive.RESNET,
        (4, 4, 8),
        ("ResNet-50", lambda: transformers.ResNetModel(transformers.ResNetConfig())),
        features=lambda: transformers.ResNetBackbone(transformers.ResNetConfig(**tiny.RESNET, out_indices=[1, 2])),
        requires="ResNetModel",
        **CONVOLUTIONS,
    ),
    "resnet-basic": Backbone(
        "ResNet, basic blocks",
        lambda: transformers.ResNetModel(transformers.ResNetConfig(**tiny.RESNET_BASIC)),
        naive.RESNET,
        (4, 4, 8),
        (
            "ResNet-18",
            lambda: transformers.ResNetModel(transformers.ResNetConfig(**EIGHTEEN)),
        ),
        features=lambda: transformers.ResNetBackbone(
            transformers.ResNetConfig(**tiny.RESNET_BASIC, out_indices=[1, 2])
        ),
        requires="ResNetModel",
        **CONVOLUTIONS,
    ),
    "rt-detr-resnet": Backbone(
        "RT-DETR's ResNet",
        lambda: transformers.RTDetrResNetBackbone(transformers.RTDetrResNetConfig(**tiny.RESNET, out_indices=[1, 2])),
        naive.RESNET,
        (4, 4, 8),
        ("ResNet-50-vd", lambda: transformers.RTDetrResNetBackbone(transformers.RTDetrResNetConfig())),
        requires="RTDetrResNetBackbone",
        **CONVOLUTIONS,
    ),
    "rt-detr-resnet-basic": Backbone(
        "RT-DETR's ResNet, basic blocks",
        lambda: transformers.RTDetrResNetBackbone(
            transformers.RTDetrResNetConfig(**tiny.RESNET_BASIC, out_indices=[1, 2])
        ),
        naive.RESNET,
        (4, 4, 8),
        (
            "ResNet-18-vd",
            lambda: transformers.RTDetrResNetBackbone(transformers.RTDetrResNetConfig(**EIGHTEEN)),
        ),
        requires="RTDetrResNetBackbone",
        **CONVOLUTIONS,
    ),
    "regnet-x": Backbone(
        "RegNet X",
        lambda: transformers.RegNetModel(transformers.RegNetConfig(**tiny.REGNET_X)),
        naive.RESNET,
        (4, 4, 8),
        ("RegNetX-4.0GF", lambda: transformers.RegNetModel(transformers.RegNetConfig(**REGNET_X_4GF))),
        requires="RegNetModel",
        **CONVOLUTIONS,
    ),
    "regnet-y": Backbone(
        "RegNet Y",
        lambda: transformers.RegNetModel(transformers.RegNetConfig(**tiny.REGNET_Y)),
        naive.RESNET,
        (4, 4, 8),
        ("RegNetY-4.0GF", lambda: transformers.RegNetModel(transformers.RegNetConfig())),
        requires="RegNetModel",
        **CONVOLUTIONS,
    ),
    "hgnet-v2": Backbone(
        "HGNetV2",
        lambda: transformers.HGNetV2Backbone(transformers.HGNetV2Config(**tiny.HGNET_V2, out_indices=[1, 2])),
        naive.HGNET_V2,
        (4, 8, 8),
        ("HGNetV2-L", lambda: transformers.HGNetV2Backbone(transformers.HGNetV2Config())),
        requires="HGNetV2Backbone",
        **CONVOLUTIONS,
    ),
}
