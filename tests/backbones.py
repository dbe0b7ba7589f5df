"""Every backbone that can be adapted, one row each: a tiny model, what is true of its tokens, its block by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import (
    BeitBackbone,
    BeitConfig,
    BeitModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    ConvNextBackbone,
    ConvNextConfig,
    ConvNextModel,
    ConvNextV2Backbone,
    ConvNextV2Config,
    ConvNextV2Model,
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
    DINOv3ConvNextBackbone,
    DINOv3ConvNextConfig,
    DINOv3ConvNextModel,
    DINOv3ViTBackbone,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    DonutSwinConfig,
    DonutSwinModel,
    DPTConfig,
    DPTModel,
    EomtConfig,
    EomtDinov3Config,
    EomtDinov3ForUniversalSegmentation,
    EomtForUniversalSegmentation,
    FocalNetBackbone,
    FocalNetConfig,
    FocalNetModel,
    HieraBackbone,
    HieraConfig,
    HieraModel,
    IJepaConfig,
    IJepaModel,
    MaskFormerSwinConfig,
    PvtConfig,
    PvtModel,
    PvtV2Backbone,
    PvtV2Config,
    PvtV2Model,
    SamVisionConfig,
    SamVisionModel,
    SegformerConfig,
    SegformerModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    SwinBackbone,
    SwinConfig,
    SwinModel,
    Swinv2Backbone,
    Swinv2Config,
    Swinv2Model,
    ViTConfig,
    VitDetBackbone,
    VitDetConfig,
    VitDetModel,
    ViTModel,
)
from transformers.models.maskformer.modeling_maskformer_swin import MaskFormerSwinBackbone, MaskFormerSwinModel

from tests import naive_blocks as naive
from tests import tiny_configs as tiny
from tests.models import FEATURES


@dataclass(frozen=True)
class Backbone:
    """One row.

    Attributes:
        family: Name of the family, as in the documentation.
        make: Builds a tiny model with random weights, with dropout and stochastic depth where the family has them.
        naive: The adapted block by hand.
        strides: Pixels a token, for each block.
        prefix: Number of prefix tokens, for all blocks or for each.
        image: (H, W) of a non-square image, or of a square one where the model takes no other.
        further_images: Other sizes it takes.
        arguments: Further arguments of the model's forward.
        standard: A size in common use: its name, and what builds it.
        checkpoints: Kinds of gradient checkpointing that work in the stock model. PVT, ConvNeXt and EoMT have none,
            and of PVT v2's nested outputs the reentrant kind loses the gradients.
        features: Builds a tiny backbone that returns feature maps, if the family has one.
        compiles: Whether the stock model compiles as one graph; EoMT branches on the values of a tensor.
    """

    family: str
    make: Callable[[], nn.Module]
    naive: naive.NaiveBlock
    strides: tuple[int, ...]
    standard: tuple[str, Callable[[], nn.Module]]
    prefix: int | tuple[int, ...] = 0
    image: tuple[int, int] = (24, 40)
    further_images: tuple[tuple[int, int], ...] = ((40, 24), (16, 16))
    arguments: dict[str, Any] = field(default_factory=dict)
    checkpoints: tuple[str, ...] = ("non-reentrant", "reentrant")
    features: Callable[[], nn.Module] | None = None
    compiles: bool = True

    def grids(self, image: tuple[int, int]) -> list[tuple[int, int]]:
        """(H, W) of each block's tokens for an image size."""
        return [(image[0] // stride, image[1] // stride) for stride in self.strides]

    def prefixes(self) -> list[int]:
        """Number of prefix tokens of each block."""
        return [self.prefix] * len(self.strides) if isinstance(self.prefix, int) else list(self.prefix)


def eomt_large(model_class: type[nn.Module], config_class: type[Any]) -> nn.Module:
    model = model_class(config_class())
    # Read in each forward, which a tensor on the meta device does not allow.
    model.attn_mask_probs = torch.zeros(model.config.num_blocks, device="cpu")
    return model


STAGES = {"image": (64, 96), "further_images": ((96, 64), (64, 64))}
FIXED = {"image": (28, 28), "further_images": ()}

BACKBONES: dict[str, Backbone] = {
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
    "clip": Backbone(
        "CLIP vision",
        lambda: CLIPVisionModel(CLIPVisionConfig(**tiny.CLIP)),
        naive.CLIP,
        (8,) * 3,
        ("CLIP ViT-B/16", lambda: CLIPVisionModel(CLIPVisionConfig(patch_size=16))),
        prefix=1,
        arguments=tiny.INTERPOLATE,
    ),
    "siglip": Backbone(
        "SigLIP, SigLIP 2 vision",
        lambda: SiglipVisionModel(SiglipVisionConfig(**tiny.CLIP)),
        naive.CLIP,
        (8,) * 3,
        ("SigLIP ViT-B/16", lambda: SiglipVisionModel(SiglipVisionConfig(vision_use_head=False))),
        arguments=tiny.INTERPOLATE,
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
}
"""The table, by name of the family in transformers."""


def build(name: str) -> nn.Module:
    """Build a tiny backbone in evaluation mode; the same weights every time."""
    torch.manual_seed(0)
    return BACKBONES[name].make().eval()


def image(size: tuple[int, int], batch_size: int = 2, seed: int = 1) -> torch.Tensor:
    """Random images of shape (B, 3, H, W)."""
    return torch.randn(batch_size, 3, *size, generator=torch.Generator().manual_seed(seed))
