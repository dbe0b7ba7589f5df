"""Detectors that PEFT's other methods stop at: they tie heads, keep them in lists, or do not tell their embeddings."""

from __future__ import annotations

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import (
    DeformableDetrConfig,
    DeformableDetrForObjectDetection,
    DetrConfig,
    DetrForObjectDetection,
    DFineConfig,
    DFineForObjectDetection,
    DINOv3ViTConfig,
    HGNetV2Config,
    RTDetrResNetConfig,
    RTDetrV2Config,
    RTDetrV2ForObjectDetection,
    SwinConfig,
)

from mona_peft import MonaConfig
from mona_peft.tasks.models.arguments import MethodArguments
from mona_peft.tasks.models.methods import METHODS
from tests.models import FOUR_STAGES, images
from tests.test_tuner import detector as rt_detr
from tests.tiny_configs import DINOV3, LW_DETR, RF_DETR

SMALL = {"d_model": 32, "num_queries": 5, "num_labels": 3}
ENCODER = {"encoder_in_channels": [32, 64, 128], "encoder_hidden_dim": 32, "encoder_ffn_dim": 32, "encoder_layers": 1}
DECODER = {
    "encoder_attention_heads": 2,
    "decoder_in_channels": [32] * 3,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 32,
}


def swin(*stages: str) -> SwinConfig:
    return SwinConfig(**FOUR_STAGES | {"out_features": list(stages)})


THREE = ("stage2", "stage3", "stage4")

DETECTORS = {
    "rt-detr": rt_detr,
    "rt-detr-v2": lambda: RTDetrV2ForObjectDetection(
        RTDetrV2Config(backbone_config=swin(*THREE), **SMALL, **ENCODER, **DECODER)
    ),
    "d-fine": lambda: DFineForObjectDetection(DFineConfig(backbone_config=swin(*THREE), **SMALL, **ENCODER, **DECODER)),
    "deformable-detr": lambda: DeformableDetrForObjectDetection(
        DeformableDetrConfig(
            backbone_config=swin(*THREE),
            use_timm_backbone=False,
            num_feature_levels=4,
            encoder_layers=1,
            decoder_layers=2,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            **SMALL,
        )
    ),
    "detr": lambda: DetrForObjectDetection(
        DetrConfig(
            backbone_config=swin("stage4"),
            use_timm_backbone=False,
            encoder_layers=1,
            decoder_layers=1,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            **SMALL,
        )
    ),
}
FOUR = {"hidden_sizes": [16, 32, 32, 32], "depths": [1] * 4, "embedding_size": 8, "out_indices": [2, 3, 4]}
HGNET_V2 = {
    **{"stem_channels": [3, 8, 8], "stage_in_channels": [8, 16, 32, 32], "stage_mid_channels": [8] * 4},
    **{"stage_out_channels": [16, 32, 32, 32], "stage_num_blocks": [1] * 4, "stage_numb_of_layers": [2] * 4},
}
OWN = {**SMALL, **ENCODER, **DECODER, "encoder_in_channels": [32] * 3}
"""With the kinds of backbones of the checkpoints on the hub."""
DETECTORS |= {
    "rt-detr-v2-resnet": lambda: RTDetrV2ForObjectDetection(
        RTDetrV2Config(backbone_config=RTDetrResNetConfig(**FOUR), **OWN)
    ),
    "d-fine-hgnet-v2": lambda: DFineForObjectDetection(
        DFineConfig(backbone_config=HGNetV2Config(**FOUR, **HGNET_V2), **OWN)
    ),
}
if hasattr(transformers, "Deimv2ForObjectDetection"):
    DETECTORS |= {
        "deimv2-hgnet-v2": lambda: transformers.Deimv2ForObjectDetection(
            transformers.Deimv2Config(backbone_config=HGNetV2Config(**FOUR, **HGNET_V2), **OWN)
        ),
        "deimv2-dinov3": lambda: transformers.Deimv2ForObjectDetection(
            transformers.Deimv2Config(
                backbone_config=DINOv3ViTConfig(**DINOV3 | {"patch_size": 16}, out_indices=[1, 2, 3]), **OWN
            )
        ),
    }
if hasattr(transformers, "RfDetrForObjectDetection"):
    OF_GROUPS = {
        **SMALL,
        "decoder_layers": 2,
        "decoder_ffn_dim": 32,
        "decoder_self_attention_heads": 2,
        "decoder_cross_attention_heads": 2,
        "group_detr": 2,
    }
    DETECTORS |= {
        "rf-detr": lambda: transformers.RfDetrForObjectDetection(
            transformers.RfDetrConfig(backbone_config=transformers.RfDetrDinov2Config(**RF_DETR), **OF_GROUPS)
        ),
        "lw-detr": lambda: transformers.LwDetrForObjectDetection(
            transformers.LwDetrConfig(
                backbone_config=transformers.LwDetrViTConfig(**LW_DETR), projector_scale_factors=[1.0], **OF_GROUPS
            )
        ),
    }
WITHOUT_EMBEDDINGS = ["rt-detr-v2", "d-fine", "deformable-detr"]


def make(name: str) -> nn.Module:
    torch.manual_seed(0)
    return DETECTORS[name]().eval()


def found(model: nn.Module) -> list[torch.Tensor]:
    with torch.no_grad():
        output = model.eval()(pixel_values=images())
    return [output.logits, output.pred_boxes]


@pytest.mark.filterwarnings("ignore:modules_to_save='task-head' trains:UserWarning")
@pytest.mark.parametrize("name", DETECTORS)
def test_detector_trains_saves_and_loads(name, tmp_path):
    base = found(make(name))
    model = get_peft_model(make(name), MonaConfig(init_weights=False, modules_to_save="task-head")).train()
    labels = [{"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.3]])}] * 2
    model(pixel_values=images(), labels=labels).loss.backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter.grad is not None]
    adapters = [p for key, p in model.named_parameters() if ".mona." in key]
    assert all(parameter.grad is not None for parameter in adapters)
    assert len(trained) > len(adapters)
    torch.optim.SGD(trained, lr=1e-3).step()
    expected = found(model)
    assert max((a - b).abs().max().item() for a, b in zip(expected, base, strict=True)) > 1e-3
    model.save_pretrained(tmp_path)
    for ours, theirs in zip(found(PeftModel.from_pretrained(make(name), tmp_path)), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", ["mona", "fixed"])
@pytest.mark.parametrize("name", [name for name in ("rf-detr", "lw-detr") if name in DETECTORS])
def test_head_whose_name_ends_as_that_of_a_list(name, method):
    """`class_embed` stands beside the list `model.enc_out_class_embed`; a second adapter of ours has its own too."""
    model = METHODS[method](make(name), MethodArguments())
    if method == "mona":
        model.add_adapter("second", MonaConfig(modules_to_save="task-head"))
    trained = {key for key, p in model.named_parameters() if p.requires_grad and ".class_embed." in key}
    assert trained == {f"base_model.model.class_embed.modules_to_save.default.{part}" for part in ("weight", "bias")}
    assert "base_model.model.model.enc_out_class_embed" in dict(model.named_modules()), "lists are seen again"


def test_list_as_a_module_to_save():
    with pytest.raises(ValueError, match="of a list name the members"):
        get_peft_model(make("d-fine"), MonaConfig(modules_to_save=["bbox_embed"]))


@pytest.mark.parametrize("name", WITHOUT_EMBEDDINGS)
def test_where_lora_stops_today(name):
    """If this fails, PEFT has learnt it, and the table in the documentation can say so."""
    with pytest.raises(NotImplementedError, match="get_input_embeddings"):
        get_peft_model(make(name), LoraConfig(target_modules=["q_proj"]))
