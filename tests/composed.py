"""Models that are built on a vision backbone, tiny and with random weights, and what of them is to be adapted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from transformers import (
    BertConfig,
    CLIPConfig,
    CLIPForImageClassification,
    CLIPModel,
    ConvNextConfig,
    DeformableDetrConfig,
    DeformableDetrForObjectDetection,
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    DetrConfig,
    DetrForObjectDetection,
    DFineConfig,
    DFineForObjectDetection,
    Dinov2Config,
    DPTConfig,
    DPTForDepthEstimation,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    OneFormerConfig,
    OneFormerForUniversalSegmentation,
    PreTrainedConfig,
    RTDetrV2Config,
    RTDetrV2ForObjectDetection,
    SamConfig,
    SamModel,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SiglipConfig,
    SiglipModel,
    SwinConfig,
    Swinv2Config,
    UperNetConfig,
    UperNetForSemanticSegmentation,
    ViTConfig,
    VitDetConfig,
    ViTForImageClassification,
    VitMatteConfig,
    VitMatteForImageMatting,
)

from tests import tiny_configs
from tests.models import FOUR_STAGES, mask2former, maskformer, upernet

LAST_THREE = ["stage2", "stage3", "stage4"]
THREE_FEATURES = SwinConfig(**FOUR_STAGES | {"out_features": LAST_THREE})
THREE_V2_FEATURES = Swinv2Config(**FOUR_STAGES | {"out_features": LAST_THREE})
CONVNEXT_FEATURES = ConvNextConfig(hidden_sizes=[8] * 4, depths=[1] * 4, out_features=LAST_THREE)
WIDTHS = {"d_model": 32, "decoder_attention_heads": 2, "num_queries": 5}
DETR = {
    **WIDTHS,
    "encoder_layers": 1,
    "decoder_layers": 2,  # of one alone transformers cannot tie the heads
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "encoder_attention_heads": 2,
}
RT_DETR = {
    **DETR,
    "backbone_config": THREE_FEATURES,
    "encoder_in_channels": [32, 64, 128],
    "encoder_hidden_dim": 32,
    "decoder_in_channels": [32] * 3,
}
TEXT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
CLIP_TEXT = {**TEXT, "vocab_size": 40}
VISION = {**tiny_configs.CLIP, "projection_dim": 8}
TEXT_IDS = torch.tensor([[3, 4, 2], [5, 6, 2]])
DPT_NECK = {
    "reassemble_factors": [4, 2, 1, 0.5],
    "neck_hidden_sizes": [8, 8, 8, 8],
    "fusion_hidden_size": 8,
}
DINOV2_FEATURES = {
    **tiny_configs.DINO,
    "num_hidden_layers": 4,
    "out_indices": [1, 2, 3, 4],
    "reshape_hidden_states": False,
}
MATTING_BACKBONE = {**tiny_configs.VITDET, "num_channels": 4, "patch_size": 16, "out_features": ["stage3"]}


def deformable_detr(backbone: PreTrainedConfig = THREE_FEATURES) -> nn.Module:
    return DeformableDetrForObjectDetection(
        DeformableDetrConfig(**DETR, backbone_config=backbone, num_feature_levels=4)
    )


def rt_detr(backbone: PreTrainedConfig, widths: list[int]) -> nn.Module:
    settings = {**RT_DETR, "backbone_config": backbone, "encoder_in_channels": widths}
    return RTDetrV2ForObjectDetection(RTDetrV2Config(**settings, hidden_expansion=0.5))


def grounding_dino() -> nn.Module:
    text = BertConfig(**TEXT, vocab_size=1100)
    return GroundingDinoForObjectDetection(
        GroundingDinoConfig(**DETR, backbone_config=THREE_FEATURES, text_config=text)
    )


def oneformer() -> nn.Module:
    return OneFormerForUniversalSegmentation(
        OneFormerConfig(
            backbone_config=SwinConfig(**FOUR_STAGES),
            conv_dim=32,
            mask_dim=32,
            hidden_dim=32,
            encoder_feedforward_dim=16,
            dim_feedforward=16,
            encoder_layers=1,
            decoder_layers=2,
            query_dec_layers=1,
            num_attention_heads=2,
            num_queries=5,
            text_encoder_width=16,
        )
    )


def convnext_upernet() -> nn.Module:
    backbone = ConvNextConfig(
        hidden_sizes=[8] * 4, depths=[1] * 4, out_features=["stage1", "stage2", "stage3", "stage4"]
    )
    return UperNetForSemanticSegmentation(
        UperNetConfig(backbone_config=backbone, hidden_size=16, pool_scales=[1, 2], use_auxiliary_head=False)
    )


def llava() -> nn.Module:
    return LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config={**tiny_configs.CLIP, "model_type": "clip_vision_model"},
            text_config=LlamaConfig(**TEXT, vocab_size=40, num_key_value_heads=2),
            image_token_index=30,
            image_seq_length=16,
        )
    )


@dataclass(frozen=True)
class Composed:
    """One row.

    Attributes:
        make: Builds the model.
        backbone: Name of the module that holds all adapted blocks.
        blocks: Number of its blocks.
        image: (H, W) of its images.
        inputs: Its further inputs.
        heads: Names of modules outside the backbone that `modules_to_save="task-head"` must hold.
    """

    make: Callable[[], nn.Module]
    backbone: str
    blocks: int
    image: tuple[int, int] = (64, 96)
    inputs: Callable[[], dict[str, torch.Tensor]] = dict
    heads: tuple[str, ...] = ()


COMPOSED: dict[str, Composed] = {
    "vit-classifier": Composed(
        lambda: ViTForImageClassification(ViTConfig(**tiny_configs.VIT)), "vit", 3, (32, 32), heads=("classifier",)
    ),
    "segformer-segmentation": Composed(
        lambda: SegformerForSemanticSegmentation(SegformerConfig(**tiny_configs.SEGFORMER, decoder_hidden_size=16)),
        "segformer",
        3,
        heads=("decode_head",),
    ),
    "clip": Composed(
        lambda: CLIPModel(
            CLIPConfig(
                vision_config=VISION, text_config={**TEXT, "vocab_size": 40, "projection_dim": 8}, projection_dim=8
            )
        ),
        "vision_model",
        3,
        (32, 32),
        lambda: {"input_ids": TEXT_IDS},
        ("text_model", "visual_projection"),
    ),
    "clip-classifier": Composed(
        lambda: CLIPForImageClassification(CLIPConfig(vision_config=VISION, text_config=CLIP_TEXT)),
        "vision_model",
        3,
        (32, 32),
        heads=("classifier",),
    ),
    "siglip": Composed(
        lambda: SiglipModel(
            SiglipConfig(vision_config=tiny_configs.CLIP, text_config={**CLIP_TEXT, "projection_size": 16})
        ),
        "vision_model",
        3,
        (32, 32),
        lambda: {"input_ids": TEXT_IDS},
        ("text_model",),
    ),
    "upernet": Composed(upernet, "backbone", 5, heads=("decode_head",)),
    "upernet-convnext": Composed(convnext_upernet, "backbone", 4, heads=("decode_head",)),
    "maskformer": Composed(maskformer, "model.pixel_level_module.encoder", 5, heads=("class_predictor",)),
    "mask2former": Composed(mask2former, "model.pixel_level_module.encoder", 5, heads=("class_predictor",)),
    "oneformer": Composed(
        oneformer,
        "model.pixel_level_module.encoder",
        5,
        inputs=lambda: {"task_inputs": torch.zeros(2, 77)},
        heads=("model.transformer_module",),
    ),
    "detr": Composed(
        lambda: DetrForObjectDetection(DetrConfig(**DETR, backbone_config=THREE_FEATURES)),
        "model.backbone",
        5,
        heads=("class_labels_classifier",),
    ),
    "deformable-detr": Composed(deformable_detr, "model.backbone", 5, heads=("class_embed.0",)),
    "rt-detr-v2": Composed(
        lambda: rt_detr(THREE_FEATURES, [32, 64, 128]), "model.backbone", 5, (64, 64), heads=("model.decoder",)
    ),
    # Here the detector's encoder and that of its backbone end in one name.
    "deformable-detr-swinv2": Composed(
        lambda: deformable_detr(THREE_V2_FEATURES), "model.backbone", 5, heads=("class_embed.0",)
    ),
    "rt-detr-v2-swinv2": Composed(
        lambda: rt_detr(THREE_V2_FEATURES, [32, 64, 128]), "model.backbone", 5, (64, 64), heads=("model.decoder",)
    ),
    "rt-detr-v2-convnext": Composed(
        lambda: rt_detr(CONVNEXT_FEATURES, [8] * 3), "model.backbone", 4, (64, 64), heads=("model.decoder",)
    ),
    "d-fine": Composed(
        lambda: DFineForObjectDetection(DFineConfig(**RT_DETR, hidden_expansion=0.5)),
        "model.backbone",
        5,
        (64, 64),
        heads=("model.decoder",),
    ),
    "grounding-dino": Composed(
        grounding_dino,
        "model.backbone",
        5,
        inputs=lambda: {"input_ids": torch.tensor([[101, 7, 1012, 102]] * 2)},
        heads=("model.text_backbone",),
    ),
    "depth-anything": Composed(
        lambda: DepthAnythingForDepthEstimation(
            DepthAnythingConfig(
                backbone_config=Dinov2Config(**DINOV2_FEATURES),
                patch_size=7,
                reassemble_hidden_size=16,
                head_hidden_size=8,
                **DPT_NECK,
            )
        ),
        "backbone",
        4,
        (21, 35),
        heads=("neck", "head"),
    ),
    "dpt": Composed(
        lambda: DPTForDepthEstimation(
            DPTConfig(**{**tiny_configs.VIT, "num_hidden_layers": 4}, **DPT_NECK, backbone_out_indices=[0, 1, 2, 3])
        ),
        "dpt",
        4,
        (32, 32),
        heads=("neck", "head.head"),
    ),
    "dpt-dinov2": Composed(
        lambda: DPTForDepthEstimation(
            DPTConfig(backbone_config=Dinov2Config(**DINOV2_FEATURES), hidden_size=16, patch_size=7, **DPT_NECK)
        ),
        "backbone",
        4,
        (28, 28),
        heads=("neck", "head.head"),
    ),
    "vitmatte": Composed(
        lambda: VitMatteForImageMatting(
            VitMatteConfig(
                backbone_config=VitDetConfig(
                    **tiny_configs.VITDET | {"num_channels": 4, "patch_size": 16}, out_features=["stage3"]
                ),
                hidden_size=16,
                fusion_hidden_sizes=[16, 8, 8, 8],
                initializer_range=0.5,
            )
        ),
        "backbone",
        3,
        (64, 64),
        heads=("decoder",),
    ),
    "sam": Composed(
        lambda: SamModel(
            SamConfig(
                vision_config={**tiny_configs.SAM, "num_pos_feats": 4},
                prompt_encoder_config={"hidden_size": 8, "image_size": 64, "patch_size": 8, "mask_input_channels": 4},
                mask_decoder_config={
                    "hidden_size": 8,
                    "mlp_dim": 8,
                    "num_attention_heads": 2,
                    "iou_head_hidden_dim": 8,
                },
            )
        ),
        "vision_encoder",
        3,
        (64, 64),
        lambda: {"input_points": torch.tensor([[[[10.0, 20.0]]]] * 2)},
        ("mask_decoder",),
    ),
    "llava": Composed(
        llava,
        "model.vision_tower",
        3,
        (32, 32),
        lambda: {"input_ids": torch.tensor([[1, *[30] * 16, 5, 6]] * 2)},
        ("model.multi_modal_projector",),
    ),
}


def build(name: str) -> nn.Module:
    """Build a composed model in evaluation mode; the same weights every time."""
    torch.manual_seed(0)
    return COMPOSED[name].make().eval()
