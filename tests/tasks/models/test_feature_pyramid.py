"""ViTDet's simple feature pyramid around plain ViTs: its maps, and the heads that take them."""

import json

import pytest
import torch
import torch.nn.functional as F
from peft import PeftModel, get_peft_model
from transformers import AutoBackbone, Dinov2Config, Dinov2Model, DINOv3ViTConfig, DINOv3ViTModel, VitDetConfig

from mona_peft import MonaConfig
from mona_peft.integration.selection import backbone_of
from mona_peft.tasks.models.architectures import ARCHITECTURES
from mona_peft.tasks.models.arguments import DenseModelArguments
from mona_peft.tasks.models.feature_pyramid import FeaturePyramidBackbone, FeaturePyramidConfig
from mona_peft.tasks.models.loading import load_dense_model
from mona_peft.tasks.task import INSTANCE_SEGMENTATION, OBJECT_DETECTION, SEMANTIC_SEGMENTATION
from tests.tasks.models.test_backbones import MARKS
from tests.tiny_runs import MASK2FORMER, RT_DETR, UPERNET

VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
DETR = {"model_type": "detr", "d_model": 32, "num_queries": 5, "decoder_layers": 1, "decoder_ffn_dim": 16}
SMALL = {
    **dict.fromkeys(("rt_detr", "rt_detr_v2", "d_fine", "deimv2"), RT_DETR),
    **{"upernet": UPERNET, "mask2former": MASK2FORMER, "retinanet": {"fpn_channels": 8}},
    "maskformer": {"fpn_feature_size": 32, "mask_feature_size": 32, "decoder_config": DETR},
    "deformable_detr": {"d_model": 32, "num_queries": 5, "encoder_layers": 1, "decoder_layers": 2},
}
TASKS = {
    "upernet": SEMANTIC_SEGMENTATION,
    "mask2former": INSTANCE_SEGMENTATION,
    "maskformer": INSTANCE_SEGMENTATION,
}


def settings(name: str) -> str:
    return json.dumps({**SMALL[name], "pyramid_channels": 8})


def pyramid(**stages) -> FeaturePyramidBackbone:
    torch.manual_seed(0)
    config = FeaturePyramidConfig(Dinov2Config(**VIT, patch_size=8, image_size=32), pyramid_channels=8, **stages)
    return AutoBackbone.from_config(config).eval()


def norm(x: torch.Tensor, layer: torch.nn.Module) -> torch.Tensor:
    return F.layer_norm(x.movedim(1, -1), x.shape[1:2], layer.weight, layer.bias, 1e-6).movedim(-1, 1)


@torch.no_grad()
def test_maps_are_those_of_the_paper():
    model = pyramid()
    for parameter in model.levels.parameters():
        parameter.normal_()
    images = torch.randn(2, 3, 32, 48)
    last = model.backbone(images).feature_maps[-1]
    assert last.shape == (2, 16, 4, 6)
    maps = model(images).feature_maps
    assert [tuple(map_.shape) for map_ in maps] == [(2, 8, 16, 24), (2, 8, 8, 12), (2, 8, 4, 6), (2, 8, 2, 3)]
    up, first_norm, _, again, *_ = model.levels["stage1"]
    finest = F.gelu(norm(F.conv_transpose2d(last, up.weight, up.bias, stride=2), first_norm))
    begun = {
        "stage1": F.conv_transpose2d(finest, again.weight, again.bias, stride=2),
        "stage2": F.conv_transpose2d(last, model.levels["stage2"][0].weight, model.levels["stage2"][0].bias, stride=2),
        "stage3": last,
        "stage4": F.max_pool2d(last, 2),
    }
    for map_, (stage, x) in zip(maps, begun.items(), strict=True):
        one, one_norm, three, three_norm = model.levels[stage][-4:]
        x = norm(F.conv2d(x, one.weight), one_norm)
        torch.testing.assert_close(map_, norm(F.conv2d(x, three.weight, padding=1), three_norm), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_images_that_patches_do_not_fill():
    model = pyramid(out_features=["stage2", "stage4"])
    images = torch.randn(1, 3, 33, 41)
    enlarged = F.interpolate(images, size=(48, 48), mode="bilinear", align_corners=False)
    for map_, expected in zip(model(images).feature_maps, model(enlarged).feature_maps, strict=True):
        assert torch.equal(map_, expected)
    assert model.channels == [8, 8]


def test_round_trip(tmp_path):
    """Adapters stand in the ViT, the pyramid is trained as a part of the head, and both are found again."""
    base = pyramid()
    assert backbone_of(base) == "backbone"
    model = get_peft_model(pyramid(), MonaConfig(bottleneck_dim=4, init_weights=False, modules_to_save="task-head"))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(base, tmp_path).eval()
    images = torch.randn(1, 3, 32, 32)
    for ours, theirs in zip(loaded(images).feature_maps, model.eval()(images).feature_maps, strict=True):
        assert torch.equal(ours, theirs)
    base.config.save_pretrained(tmp_path / "config")
    assert FeaturePyramidConfig.from_pretrained(tmp_path / "config").to_dict() == base.config.to_dict()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=MARKS.get(name, ())) for name in ARCHITECTURES if not ARCHITECTURES[name].blocks]
)
def test_heads(tmp_path, name):
    """Each head around a DINOv2 with the weights of a pre-trained one, for images that fill no patches."""
    torch.manual_seed(0)
    vit = Dinov2Model(Dinov2Config(**VIT, patch_size=14, image_size=56))
    vit.save_pretrained(tmp_path)
    args = DenseModelArguments(backbone=str(tmp_path), model_type=name, model_config=settings(name))
    model = load_dense_model(TASKS.get(name, OBJECT_DETECTION), args, ["cat", "dog"])
    inner = model.get_submodule(backbone_of(model))
    assert type(inner).__name__ == "Dinov2Backbone"
    assert torch.equal(inner.embeddings.cls_token, vit.embeddings.cls_token)
    with torch.no_grad():
        outputs = model(torch.randn(1, 3, 64, 96))
    logits = next(outputs[name] for name in ("logits", "class_queries_logits") if name in outputs)
    assert torch.isfinite(logits).any()
    if name == "upernet":
        assert logits.shape[-2:] == (64, 96)


def test_dinov3(tmp_path):
    torch.manual_seed(0)
    DINOv3ViTModel(DINOv3ViTConfig(**VIT, intermediate_size=24)).save_pretrained(tmp_path)
    args = DenseModelArguments(backbone=str(tmp_path), model_type="upernet", model_config=settings("upernet"))
    model = load_dense_model(SEMANTIC_SEGMENTATION, args, ["cat", "dog"]).eval()
    maps = model.backbone(torch.randn(1, 3, 64, 96)).feature_maps
    assert [map_.shape[-1] for map_ in maps] == [24, 12, 6, 3]  # strides 4, 8, 16, 32


def test_vitdet_itself():
    config = FeaturePyramidConfig(VitDetConfig(**VIT, image_size=64, pretrain_image_size=64), pyramid_channels=8)
    maps = AutoBackbone.from_config(config)(torch.randn(1, 3, 64, 64)).feature_maps
    assert [map_.shape[-1] for map_ in maps] == [16, 8, 4, 2]
