"""Transformers whose grid gets coarser from stage to stage."""

from __future__ import annotations

from transformers import (
    DonutSwinConfig,
    DonutSwinModel,
    FocalNetBackbone,
    FocalNetConfig,
    FocalNetModel,
    HieraBackbone,
    HieraConfig,
    HieraModel,
    MaskFormerSwinConfig,
    PvtConfig,
    PvtModel,
    PvtV2Backbone,
    PvtV2Config,
    PvtV2Model,
    SegformerConfig,
    SegformerModel,
    SwinBackbone,
    SwinConfig,
    SwinModel,
    Swinv2Backbone,
    Swinv2Config,
    Swinv2Model,
)
from transformers.models.maskformer.modeling_maskformer_swin import MaskFormerSwinBackbone, MaskFormerSwinModel

from tests import naive_blocks as naive
from tests import tiny_configs as tiny
from tests.backbones.row import STAGES, Backbone
from tests.models import FEATURES

PYRAMIDS: dict[str, Backbone] = {
    "swin": Backbone(
        "Swin",
        lambda: SwinModel(SwinConfig(**tiny.SWIN)),
        naive.SWIN,
        (4, 4, 8, 8),
        ("Swin-T", lambda: SwinModel(SwinConfig())),
        features=lambda: SwinBackbone(SwinConfig(**tiny.SWIN, **FEATURES)),
        **STAGES,
    ),
    "swinv2": Backbone(
        "Swin V2",
        lambda: Swinv2Model(Swinv2Config(**tiny.SWIN)),
        naive.SWINV2,
        (4, 4, 8, 8),
        ("SwinV2-T", lambda: Swinv2Model(Swinv2Config(window_size=8, image_size=256))),
        features=lambda: Swinv2Backbone(Swinv2Config(**tiny.SWIN, **FEATURES)),
        **STAGES,
    ),
    "maskformer-swin": Backbone(
        "MaskFormer's Swin",
        lambda: MaskFormerSwinModel(MaskFormerSwinConfig(**tiny.SWIN)),
        naive.SWIN,
        (4, 4, 8, 8),
        ("Swin-T", lambda: MaskFormerSwinModel(MaskFormerSwinConfig())),
        features=lambda: MaskFormerSwinBackbone(MaskFormerSwinConfig(**tiny.SWIN, **FEATURES)),
        **STAGES,
    ),
    "donut-swin": Backbone(
        "Donut's Swin",
        lambda: DonutSwinModel(DonutSwinConfig(**tiny.SWIN)),
        naive.SWIN,
        (4, 4, 8, 8),
        ("Swin-T", lambda: DonutSwinModel(DonutSwinConfig())),
        **STAGES,
    ),
    "segformer": Backbone(
        "SegFormer",
        lambda: SegformerModel(SegformerConfig(**tiny.SEGFORMER)),
        naive.SEGFORMER,
        (4, 4, 8),
        ("MiT-B0", lambda: SegformerModel(SegformerConfig())),
        **STAGES,
    ),
    "pvt": Backbone(
        "PVT",
        lambda: PvtModel(PvtConfig(**tiny.PVT)),
        naive.PVT,
        (4, 4, 8),
        ("PVT-Tiny", lambda: PvtModel(PvtConfig())),
        prefix=(0, 0, 1),
        # Its position embeddings fit maps of one area alone.
        image=(32, 128),
        further_images=((128, 32), (64, 64)),
        checkpoints=(),
    ),
    "pvt-v2": Backbone(
        "PVT v2",
        lambda: PvtV2Model(PvtV2Config(**tiny.SEGFORMER)),
        naive.PVT_V2,
        (4, 4, 8),
        ("PVTv2-B0", lambda: PvtV2Model(PvtV2Config())),
        checkpoints=("non-reentrant",),
        features=lambda: PvtV2Backbone(PvtV2Config(**tiny.SEGFORMER, out_indices=[0, 1])),
        **STAGES,
    ),
    "focalnet": Backbone(
        "FocalNet",
        lambda: FocalNetModel(FocalNetConfig(**tiny.FOCALNET)),
        naive.FOCALNET,
        (4, 4, 8),
        ("FocalNet-T", lambda: FocalNetModel(FocalNetConfig(hidden_sizes=[96, 192, 384, 768]))),
        features=lambda: FocalNetBackbone(FocalNetConfig(**tiny.FOCALNET, out_indices=[1, 2])),
        **STAGES,
    ),
    "focalnet-post-norm": Backbone(
        "FocalNet, post-norm",
        lambda: FocalNetModel(FocalNetConfig(**tiny.FOCALNET, use_post_layernorm=True)),
        naive.FOCALNET,
        (4, 4, 8),
        (
            "FocalNet-L",
            lambda: FocalNetModel(
                FocalNetConfig(
                    **{"embed_dim": 192, "hidden_sizes": [192, 384, 768, 1536], "depths": [2, 2, 18, 2]},
                    **{"focal_levels": [4, 4, 4, 4], "use_conv_embed": True},
                    **{"use_layerscale": True, "use_post_layernorm": True},
                )
            ),
        ),
        **STAGES,
    ),
    "hiera": Backbone(
        "Hiera",
        lambda: HieraModel(HieraConfig(**tiny.HIERA)),
        naive.HIERA,
        (4, 8, 8, 16, 32),
        ("Hiera-T", lambda: HieraModel(HieraConfig(depths=[1, 2, 7, 2]), add_pooling_layer=False)),
        arguments=tiny.INTERPOLATE,
        features=lambda: HieraBackbone(HieraConfig(**tiny.HIERA | {"image_size": [64, 96]}, out_indices=[1, 4])),
        **STAGES,
    ),
}
