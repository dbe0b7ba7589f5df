"""A classifier's backbone in models for dense prediction."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import (
    SwinBackbone,
    SwinConfig,
    SwinForImageClassification,
    SwinModel,
    Swinv2Backbone,
    Swinv2Config,
    Swinv2ForImageClassification,
)

from mona_peft import load_backbone
from mona_peft.integration.selection import backbone_of
from tests.models import FOUR_STAGES, HEADED, images, upernet
from tests.test_detectors import DETECTORS

MODELS = {name: HEADED[name] for name in ("upernet", "mask2former", "maskformer")}
OWN_BACKBONE = ("resnet", "hgnet-v2", "dinov3", "rf-detr", "lw-detr")  # none of Swin's
MODELS |= {name: make for name, make in DETECTORS.items() if not name.endswith(OWN_BACKBONE)}
MODELS["swinv2"] = lambda: upernet(Swinv2Config(**FOUR_STAGES))


@torch.no_grad()
def feature_maps(backbone: nn.Module) -> dict[str, torch.Tensor]:
    return dict(zip(backbone.out_features, backbone.eval()(images()).feature_maps, strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_backbone_of_a_classifier_becomes_that_of_a_dense_model(name, tmp_path):
    v2 = name == "swinv2"
    settings = FOUR_STAGES | {"num_labels": 7}
    torch.manual_seed(1)
    classifier = (
        Swinv2ForImageClassification(Swinv2Config(**settings))
        if v2
        else SwinForImageClassification(SwinConfig(**settings))
    )
    classifier.save_pretrained(tmp_path)
    pretrained = (Swinv2Backbone if v2 else SwinBackbone).from_pretrained(
        tmp_path, out_features=settings["out_features"]
    )
    expected = feature_maps(pretrained)

    model = MODELS[name]()
    head = {key: value.clone() for key, value in model.state_dict().items()}
    inner = backbone_of(model)
    before = feature_maps(model.get_submodule(inner))
    assert all((before[stage] - expected[stage]).abs().max() > 0.1 for stage in before)
    load_backbone(model, tmp_path)
    for stage, features in feature_maps(model.get_submodule(inner)).items():
        torch.testing.assert_close(features, expected[stage], atol=1e-5, rtol=0)
    assert all(
        torch.equal(value, head[key]) for key, value in model.state_dict().items() if not key.startswith(f"{inner}.")
    )


def test_other_sizes_and_other_families_are_refused(tmp_path):
    model = HEADED["upernet"]()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    wider = FOUR_STAGES | {"embed_dim": 32}
    SwinForImageClassification(SwinConfig(**wider)).save_pretrained(tmp_path / "wider")
    deeper = FOUR_STAGES | {"depths": [2, 1, 2, 1]}
    SwinForImageClassification(SwinConfig(**FOUR_STAGES)).save_pretrained(tmp_path / "shallower")
    with pytest.raises(ValueError, match=r"wider has tensors of other shapes, .*embed_dim=16, depths=\[1, 1, 2, 1\]"):
        load_backbone(model, tmp_path / "wider")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    deep = upernet(SwinConfig(**deeper))
    with pytest.raises(ValueError, match=r"shallower has nothing for .*layers.0.blocks.1"):
        load_backbone(deep, tmp_path / "shallower")
    with pytest.raises(ValueError, match="SwinModel has no backbone apart from itself"):
        load_backbone(SwinModel(SwinConfig(**FOUR_STAGES)), tmp_path / "wider")
