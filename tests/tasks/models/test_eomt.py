"""EoMT of a pre-trained plain ViT: the same maps as the ViT's until queries enter, and what is refused."""

import pytest
import torch
from transformers import (
    AutoModelForUniversalSegmentation,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    PreTrainedModel,
    SwinConfig,
    SwinModel,
)

from mona_peft import load_backbone
from mona_peft.tasks.models.eomt import eomt_config

SIZES = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "patch_size": 8, "image_size": 40}
KINDS = {
    "dinov2": ("eomt", lambda: Dinov2Model(Dinov2Config(**SIZES))),
    "registers": ("eomt", lambda: Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**SIZES))),
    "swiglu": ("eomt", lambda: Dinov2Model(Dinov2Config(**SIZES, use_swiglu_ffn=True))),
    "dinov3": ("eomt_dinov3", lambda: DINOv3ViTModel(DINOv3ViTConfig(**SIZES, intermediate_size=24, rope_theta=50.0))),
}
SWIN = {"image_size": 40, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 1]}
QUERIES = {"num_queries": 5, "num_blocks": 1}


def random(model: PreTrainedModel) -> PreTrainedModel:
    """No weight is 0 or 1, so that each matters."""
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_those_of_the_vit_until_queries_enter(tmp_path, kind):
    """On images of another size than the ViT was trained on, whose position embeddings are interpolated."""
    torch.manual_seed(0)
    model_type, build = KINDS[kind]
    vit = random(build())
    vit.save_pretrained(tmp_path)
    model = AutoModelForUniversalSegmentation.from_config(eomt_config(model_type, vit.config, 48, QUERIES, {})).eval()
    load_backbone(model, tmp_path)
    pixels = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        expected = vit(pixels, output_hidden_states=True).hidden_states[:4]
        actual = model(pixels, output_hidden_states=True).hidden_states[:4]
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    norm = vit.layernorm if model_type == "eomt" else vit.norm
    assert torch.equal(model.layernorm.weight, norm.weight)


@pytest.mark.parametrize(
    ("build", "missing"),
    [
        (lambda: Dinov2Model(Dinov2Config(**SIZES | {"hidden_size": 32})), "embeddings.cls_token"),
        (lambda: Dinov2Model(Dinov2Config(**SIZES | {"num_hidden_layers": 3})), "layers.3.norm1.weight"),
        (lambda: SwinModel(SwinConfig(**SWIN)), "embeddings.cls_token"),
        (lambda: SwinModel(SwinConfig(**SWIN, use_absolute_embeddings=True)), "embeddings.cls_token"),
    ],
    ids=["wider", "shallower", "swin", "swin with position embeddings"],
)
def test_weights_that_do_not_fit_change_nothing(tmp_path, build, missing):
    build().save_pretrained(tmp_path)
    model = AutoModelForUniversalSegmentation.from_config(eomt_config("eomt", Dinov2Config(**SIZES), None, QUERIES, {}))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.raises(ValueError, match=f"nothing of the shape of {missing}"):
        load_backbone(model, tmp_path)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name])


def test_weights_that_the_file_lacks_are_not_drawn_at_random(tmp_path):
    vit = Dinov2Model(Dinov2Config(**SIZES))
    vit.save_pretrained(tmp_path, state_dict={n: w for n, w in vit.state_dict().items() if "layer.2.mlp" not in n})
    model = AutoModelForUniversalSegmentation.from_config(eomt_config("eomt", vit.config, None, QUERIES, {}))
    with pytest.raises(ValueError, match=r"nothing of the shape of layers\.2\.mlp"):
        load_backbone(model, tmp_path)


@pytest.mark.parametrize("side", [0, -8])
def test_no_image_is_that_small(side):
    with pytest.raises(ValueError, match=f"Images of {side} x {side} pixels: a positive number is wanted"):
        eomt_config("eomt", Dinov2Config(**SIZES), side, QUERIES, {})


def test_queries_enter_where_the_paper_has_them():
    blocks = {
        depth: eomt_config("eomt", Dinov2Config(num_hidden_layers=depth), None, {}, {}).num_blocks
        for depth in (2, 12, 24, 40)
    }
    assert blocks == {2: 2, 12: 3, 24: 4, 40: 5}
