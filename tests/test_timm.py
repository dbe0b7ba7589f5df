"""timm's backbones: the checks of every backbone, through `create_model` and through transformers' TimmWrapper.

Run by `make test-torchvision`, with timm and torchvision installed.
"""

from __future__ import annotations

import importlib.util

import pytest
import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict, inject_adapter_in_model

from mona_peft import MonaConfig
from tests import test_backbones as checks
from tests.backbones import BACKBONES, image
from tests.models import largest_difference

TIMM_BACKBONES = {}
if importlib.util.find_spec("timm") is not None:
    from tests.timm_backbones import TIMM_BACKBONES

NAMES = list(TIMM_BACKBONES)
pytestmark = pytest.mark.timm


@pytest.fixture(autouse=True)
def rows(monkeypatch):
    for name in NAMES:
        monkeypatch.setitem(BACKBONES, name, TIMM_BACKBONES[name])


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


@pytest.mark.parametrize("name", NAMES)
def test_gradient_checkpointing_of_timm(name):
    """timm recomputes blocks by itself: one size a backward pass, or an error that says so."""
    row = TIMM_BACKBONES[name]
    model = checks.adapted(name).train()
    expected = checks.gradients(model, [checks.loss(model, row, row.image)])
    model.base_model.model.set_grad_checkpointing(True)
    checks.assert_same(checks.gradients(model, [checks.loss(model, row, row.image)]), expected)
    sizes = [row.image, row.further_images[0]]
    losses = [checks.loss(model, row, size) for size in sizes]
    if "vit" in name or "dinov2" in name or "eva" in name:
        with pytest.raises(RuntimeError, match="it is not known which grid they lie in"):
            sum(losses).backward()
    else:
        sum(losses).backward()


@pytest.mark.parametrize("name", NAMES)
def test_injected_without_a_peft_model(name):
    row = TIMM_BACKBONES[name]
    base = checks.outputs(checks.build(name), row, row.image)
    model = inject_adapter_in_model(MonaConfig(init_weights=False, modules_to_save=[]), checks.build(name)).eval()
    assert len(checks.adapted_blocks(model)) == len(row.strides)
    assert largest_difference(checks.outputs(model, row, row.image), base) > 1e-4
    assert len(get_peft_model_state_dict(model)) == sum(".mona.mona_" in key for key in model.state_dict())


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
