"""Backbones of timm and open_clip: the checks of every backbone, and through transformers' TimmWrapper.

Run by `make test-torchvision`, with timm, open_clip and torchvision installed.
"""

from __future__ import annotations

import importlib.util
from collections import OrderedDict

import pytest
import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict, inject_adapter_in_model
from torch import nn

from mona_peft import AdapterConfig, MonaConfig
from tests import test_backbones as checks
from tests.backbones import BACKBONES, image
from tests.models import largest_difference

ROWS = {}
if importlib.util.find_spec("timm") is not None:
    from tests.timm_backbones import TIMM_BACKBONES

    ROWS |= TIMM_BACKBONES
if importlib.util.find_spec("open_clip") is not None:
    from tests.open_clip_backbones import OPEN_CLIP_BACKBONES, SIZES

    ROWS |= OPEN_CLIP_BACKBONES


def marked(name):
    return pytest.param(name, marks=pytest.mark.open_clip if name.startswith("open-clip") else pytest.mark.timm)


# Where neither library is there, a row that is deselected with its mark, and not an empty set, which is a skip.
NAMES = [marked(name) for name in ROWS or ("timm",)]


@pytest.fixture(autouse=True)
def rows(monkeypatch):
    for name, row in ROWS.items():
        monkeypatch.setitem(BACKBONES, name, row)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", NAMES)
def test_blocks_equal_naive_blocks(name, training):
    checks.test_blocks_equal_naive_blocks(name, training, ("attention", "mlp"))


@pytest.mark.parametrize(
    "check",
    [
        checks.test_starts_bit_equal_to_the_base,
        checks.test_every_place_of_an_image_is_at_its_place_in_the_grid,
        checks.test_prefix_tokens_do_not_reach_the_grid,
        checks.test_gradients_reach_every_parameter_of_the_adapters_alone,
        checks.test_several_image_sizes_in_any_order_and_in_one_backward_pass,
    ],
    ids=lambda check: check.__name__.removeprefix("test_"),
)
@pytest.mark.parametrize("name", NAMES)
def test_backbone(name, check):
    check(name)


@pytest.mark.parametrize("name", NAMES)
def test_round_trip(name, tmp_path):
    checks.test_round_trip(name, tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_compiles_whole(name):
    checks.test_compiles_whole(name)


# open_clip hands its custom blocks more arguments than they take.
@pytest.mark.parametrize("name", [name for name in NAMES if name.values != ("open-clip-custom",)])
def test_gradient_checkpointing(name):
    """Both libraries recompute blocks by themselves: one size a backward pass, or an error that says so."""
    row = ROWS[name]
    model = checks.adapted(name).train()
    expected = checks.gradients(model, [checks.loss(model, row, row.image)])
    model.base_model.model.set_grad_checkpointing(True)
    checks.assert_same(checks.gradients(model, [checks.loss(model, row, row.image)]), expected)
    if not row.further_images:
        return
    sizes = [row.image, row.further_images[0]]
    losses = [checks.loss(model, row, size) for size in sizes]
    if "vit" in name or "dinov2" in name or "eva" in name:
        with pytest.raises(RuntimeError, match="it is not known which grid they lie in"):
            sum(losses).backward()
    else:
        sum(losses).backward()


@pytest.mark.parametrize("name", NAMES)
def test_injected_without_a_peft_model(name):
    row = ROWS[name]
    base = checks.outputs(checks.build(name), row, row.image)
    model = inject_adapter_in_model(MonaConfig(init_weights=False, modules_to_save=[]), checks.build(name)).eval()
    assert len(checks.adapted_blocks(model)) == len(row.strides)
    assert largest_difference(checks.outputs(model, row, row.image), base) > 1e-4
    assert len(get_peft_model_state_dict(model)) == sum(".mona.mona_" in key for key in model.state_dict())


@pytest.mark.timm
@pytest.mark.parametrize("architecture", ["swin_tiny_patch4_window7_224", "vit_tiny_patch16_224", "convnext_atto"])
def test_through_transformers(architecture, tmp_path):
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

    def build():
        torch.manual_seed(0)
        return TimmWrapperForImageClassification(TimmWrapperConfig(architecture=architecture, num_labels=5)).eval()

    pixel_values = image((224, 224), 1)
    with torch.no_grad():
        base = build().requires_grad_(False)(pixel_values).logits
        model = get_peft_model(build(), MonaConfig(modules_to_save=["head"])).eval()
        assert torch.equal(model(pixel_values).logits, base)
        model = get_peft_model(build(), MonaConfig(modules_to_save=["head"], init_weights=False)).eval()
        adapted = model(pixel_values).logits
        assert (adapted - base).abs().max() > 1e-4
        model.save_pretrained(tmp_path)
        reloaded = PeftModel.from_pretrained(build(), tmp_path).eval()
        torch.testing.assert_close(reloaded(pixel_values).logits, adapted)
    trained = [key for key, parameter in model.named_parameters() if parameter.requires_grad]
    assert all(".mona.mona_" in key or ".modules_to_save." in key for key in trained)


def open_clip_model(**vision):
    from open_clip.model import CLIP

    torch.manual_seed(0)
    sizes = {key: value for key, value in SIZES.items() if key != "heads"}
    text = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 3}
    return CLIP(8, {**sizes, "head_width": 8, **vision}, text).eval()


@pytest.mark.open_clip
@pytest.mark.parametrize("config", [MonaConfig, AdapterConfig])
def test_only_the_vision_tower_of_open_clip_is_adapted(config):
    pixels, text = image((24, 40)), torch.randint(0, 50, (2, 8))
    model = get_peft_model(open_clip_model(), config(init_weights=False)).eval()
    adapters = f".{config.child()}."
    assert {name.split(adapters)[0] for name, _ in model.named_parameters() if adapters in name} == {
        f"base_model.model.visual.transformer.resblocks.{block}" for block in range(2)
    }
    stock = open_clip_model().requires_grad_(False)  # attention of trainable weights runs another kernel
    with torch.no_grad():
        assert torch.equal(model.encode_text(text), stock.encode_text(text))
        assert (model.encode_image(pixels) - stock.encode_image(pixels)).abs().max() > 1e-4
        maps = model.visual.forward_intermediates(pixels)["image_intermediates"]
    assert [tuple(features.shape) for features in maps] == [(2, 16, 3, 5)] * 2


@pytest.mark.open_clip
@torch.no_grad()
def test_a_classifier_on_the_tower_of_open_clip(tmp_path):
    def build():
        return nn.Sequential(OrderedDict(tower=open_clip_model().visual, classifier=nn.Linear(8, 3))).eval()

    torch.manual_seed(1)
    model = get_peft_model(build(), MonaConfig(init_weights=False, modules_to_save=["classifier"])).eval()
    expected = model(image((24, 40)))
    model.save_pretrained(tmp_path)
    reloaded = PeftModel.from_pretrained(build(), tmp_path).eval()
    torch.testing.assert_close(reloaded(image((24, 40))), expected)


@pytest.mark.open_clip
def test_of_a_convolutional_tower_beside_a_text_tower_its_blocks_are_adapted():
    def build():
        return open_clip_model(layers=(1, 1, 1, 1), image_size=64, head_width=64, width=16)

    model = get_peft_model(build(), MonaConfig(init_weights=False)).eval()
    assert {name.split(".mona.")[0] for name, _ in model.named_parameters() if ".mona." in name} == {
        f"base_model.model.visual.layer{stage}.0" for stage in range(1, 5)
    }
    pixels, text = image((64, 64)), torch.randint(0, 50, (2, 8))
    stock = build().requires_grad_(False)
    with torch.no_grad():
        assert torch.equal(model.encode_text(text), stock.encode_text(text))
        assert (model.encode_image(pixels) - stock.encode_image(pixels)).abs().max() > 1e-4


@pytest.mark.open_clip
def test_tokens_in_front_of_samples_are_refused():
    """So they lay before open_clip 2.26, where nothing told of it."""
    model = open_clip_model()
    model.visual.transformer.batch_first = False
    before = [type(module) for module in model.modules()]
    with pytest.raises(ValueError, match=r"open_clip has from 2\.26 on"):
        get_peft_model(model, MonaConfig())
    assert [type(module) for module in model.modules()] == before


@pytest.mark.open_clip
def test_dropped_patches_are_refused():
    model = get_peft_model(open_clip_model(patch_dropout=0.5), MonaConfig())
    model.eval().encode_image(image((24, 40)))
    with pytest.raises(ValueError, match="Were tokens dropped"):
        model.train().encode_image(image((24, 40)))
