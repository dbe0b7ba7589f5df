"""Several adapters on one backbone: switched, added up, weighted, one for each sample, disabled, deleted, renamed."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel, get_peft_model

from mona_peft import MonaConfig
from tests.models import build, images, largest_difference
from tests.test_save_load import trained

NAMES = ["swin-classifier", "swinv2-classifier", "upernet"]
OTHER = {"init_weights": False, "bottleneck_dim": 8, "layers_to_transform": [1, 2], "kernel_sizes": (3,)}


def two_adapters(name: str, **settings) -> PeftModel:
    """A model with the adapters `wide` and `narrow`, of different widths and in different blocks."""
    model = trained(name, "wide", **settings)
    model.add_adapter("narrow", MonaConfig(**{"modules_to_save": "task-head", **OTHER, **settings}))
    torch.manual_seed(3)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if ".narrow." in key:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model.eval()


def logits(model: torch.nn.Module, pixel_values: torch.Tensor, **kwargs) -> torch.Tensor:
    with torch.no_grad():
        return model(pixel_values, **kwargs).logits


def logits_of_each(model: PeftModel, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
    found = {}
    for name in ("wide", "narrow"):
        model.set_adapter(name)
        found[name] = logits(model, pixel_values)
    with model.disable_adapter():
        found["__base__"] = logits(model, pixel_values)
    assert min(largest_difference([found[a]], [found[b]]) for a in found for b in found if a < b) > 1e-3
    return found


@pytest.mark.parametrize("name", NAMES)
def test_switching_gives_what_each_adapter_gives_alone(name, tmp_path):
    model = two_adapters(name)
    expected = logits_of_each(model, images())
    model.save_pretrained(tmp_path)
    for adapter in ("wide", "narrow"):
        alone = PeftModel.from_pretrained(build(name), tmp_path / adapter).eval()
        torch.testing.assert_close(logits(alone, images()), expected[adapter], atol=1e-6, rtol=0)
    together = PeftModel.from_pretrained(build(name), tmp_path / "wide", adapter_name="renamed").eval()
    together.load_adapter(tmp_path / "narrow", "narrow")
    assert together.active_adapters == ["renamed"]
    torch.testing.assert_close(logits(together, images()), expected["wide"], atol=1e-6, rtol=0)
    together.set_adapter("narrow")
    torch.testing.assert_close(logits(together, images()), expected["narrow"], atol=1e-6, rtol=0)


def test_only_the_active_adapter_is_trained():
    model = two_adapters("swin-classifier")
    model.set_adapter("narrow")
    trainable = [key for key, parameter in model.named_parameters() if parameter.requires_grad]
    assert trainable
    assert all(".narrow." in key for key in trainable)
    frozen = {key: p.clone() for key, p in model.named_parameters() if not p.requires_grad}
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(pixel_values=images(), labels=torch.tensor([0, 1])).loss.backward()
    optimizer.step()
    assert all(torch.equal(p, frozen[key]) for key, p in model.named_parameters() if key in frozen)
    model.set_requires_grad("wide")
    assert any(".wide." in key and p.requires_grad for key, p in model.named_parameters())


@pytest.mark.parametrize("name", NAMES)
def test_two_active_adapters_add_up(name):
    """The sum of both deltas in every block; seen in a block where only one of them stands, and with a weight of 0."""
    model = two_adapters(name, modules_to_save=[])
    expected = logits_of_each(model, images())
    model.set_adapters(["wide", "narrow"])
    assert model.active_adapters == ["wide", "narrow"]
    both = logits(model, images())
    assert min(largest_difference([both], [other]) for other in expected.values()) > 1e-4
    model.base_model.set_adapter(["narrow", "wide"])
    torch.testing.assert_close(logits(model, images()), both, atol=1e-6, rtol=0)
    model.set_adapters(["wide", "narrow"], [1.0, 0.0])
    torch.testing.assert_close(logits(model, images()), expected["wide"], atol=1e-6, rtol=0)
    model.set_adapters(["wide", "narrow"], [0, 0])
    torch.testing.assert_close(logits(model, images()), expected["__base__"], atol=1e-6, rtol=0)


def test_weights_multiply_outputs_and_end_with_the_next_activation():
    model = two_adapters("swin", modules_to_save=None)
    layer = model.base_model.model.encoder.layers[0].blocks[1].mona
    hidden, grid = torch.randn(2, 256, 16), (16, 16)
    with torch.no_grad():
        alone = {name: layer.mona_attn[name](hidden, grid) for name in ("wide", "narrow")}
        model.set_adapters(["wide", "narrow"], [0.25, -2])
        weighted = layer(hidden, grid, "attention")
        model.set_adapter("wide")
        plain = layer(hidden, grid, "attention")
    torch.testing.assert_close(weighted, 0.25 * alone["wide"] - 2 * alone["narrow"])
    torch.testing.assert_close(plain, alone["wide"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["wide", "missing"],), r"choose from the adapters \['wide', 'narrow'\]"),
        (([],), "choose from the adapters"),
        ((["wide", "narrow"], [1.0]), "got 2 adapters, but 1 weights"),
    ],
    ids=str,
)
def test_adapters_and_weights_have_to_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        two_adapters("swin", modules_to_save=None).set_adapters(*arguments)


def test_two_heads_cannot_be_active_at_once():
    with pytest.raises(ValueError, match="Only one adapter can be set at a time"):
        two_adapters("swin-classifier").set_adapters(["wide", "narrow"])


def test_weighted_adapter_says_what_to_call():
    with pytest.raises(NotImplementedError, match=r"set_adapters\(adapters, weights\)"):
        two_adapters("swin", modules_to_save=None).add_weighted_adapter(["wide", "narrow"], [0.5, 0.5], "mean")


@pytest.mark.parametrize("active", ["wide", "narrow"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("heads", ["task-head", []], ids=["heads", "no-heads"])
def test_an_adapter_for_each_sample(name, active, heads):
    model = two_adapters(name, modules_to_save=heads)
    pixel_values = images(5)
    expected = logits_of_each(model, pixel_values)
    model.set_adapter(active)
    names = ["narrow", "__base__", "wide", "narrow", "__base__"]
    found = logits(model, pixel_values, adapter_names=names)
    for row, adapter in enumerate(names):
        torch.testing.assert_close(found[row], expected[adapter][row], atol=1e-6, rtol=0)
    torch.testing.assert_close(logits(model, pixel_values), expected[active], atol=1e-6, rtol=0)
    with model.disable_adapter():
        torch.testing.assert_close(
            logits(model, pixel_values, adapter_names=names), expected["__base__"], atol=1e-6, rtol=0
        )


def test_an_adapter_without_a_head_uses_the_frozen_one():
    model = trained("swin-classifier", "headed")
    model.add_adapter("headless", MonaConfig(init_weights=False, modules_to_save=[]))
    model.eval().set_adapter("headless")
    expected = logits(model, images(2))
    model.set_adapter("headed")
    assert largest_difference([logits(model, images(2))], [expected]) > 1e-3
    found = logits(model, images(2), adapter_names=["headed", "headless"])
    torch.testing.assert_close(found[1], expected[1], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["wide"], r"Length of `adapter_names` should be the same as the number of inputs, but got 1 and 2"),
        (["__base__"] * 3, r"Length of `adapter_names` should be the same as the number of inputs, but got 3 and 2"),
        (["wide", "missing"], r"non-existing adapter\(s\): missing. The model has wide, narrow"),
    ],
    ids=str,
)
def test_names_have_to_fit_the_batch(names, message):
    with pytest.raises(ValueError, match=message):
        two_adapters("swin-classifier")(images(2), adapter_names=names)


def test_names_are_for_inference():
    model = two_adapters("swin-classifier").train()
    with pytest.raises(ValueError, match="Cannot pass `adapter_names` when the model is in training mode"):
        model(images(2), adapter_names=["wide", "narrow"])


def test_heads_that_cannot_be_told_apart_by_sample():
    model = trained("mask2former", "wide")
    with pytest.raises(TypeError, match=r"trained head Mask2FormerPixelDecoder.*set_adapter\(\)"):
        model(images(2), adapter_names=["wide", "__base__"])
    headless = trained("mask2former", "wide", modules_to_save=[])
    with torch.no_grad():
        found = headless(images(2), adapter_names=["wide", "__base__"]).class_queries_logits
        expected = headless(images(2)).class_queries_logits
    assert torch.allclose(found[0], expected[0], atol=1e-5)
    assert (found[1] - expected[1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_disabling_by_context_and_by_method(name):
    model = two_adapters(name)
    base, adapted = logits_of_each(model, images())["__base__"], logits(model, images())
    model.base_model.disable_adapter_layers()
    torch.testing.assert_close(logits(model, images()), base, atol=1e-6, rtol=0)
    model.base_model.enable_adapter_layers()
    torch.testing.assert_close(logits(model, images()), adapted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_deleting(name):
    model = two_adapters(name)
    expected = logits_of_each(model, images())
    model.set_adapter("narrow")
    model.delete_adapter("narrow")
    assert model.active_adapters == ["wide"]
    assert not [key for key in model.state_dict() if "narrow" in key]
    torch.testing.assert_close(logits(model, images()), expected["wide"], atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="Adapter narrow does not exist"):
        model.delete_adapter("narrow")
    model.delete_adapter("wide")
    assert model.active_adapters == []
    with torch.no_grad():
        torch.testing.assert_close(model.base_model(images()).logits, expected["__base__"], atol=1e-6, rtol=0)


def test_status_tells_what_is_there():
    model = two_adapters("swin-classifier")
    model.set_adapter("wide")
    status = model.get_model_status()
    assert (status.peft_types, status.active_adapters) == ({"wide": "MONA", "narrow": "MONA"}, ["wide"])
    assert status.requires_grad == {"wide": True, "narrow": False}
    assert status.enabled
    assert status.merged_adapters == []
    assert sorted(status.available_adapters) == ["narrow", "wide"]
    # Four blocks and the head.
    assert status.num_adapter_layers == 5
    assert status.trainable_params == sum(p.numel() for p in model.parameters() if p.requires_grad)
    layers = {layer.name: layer for layer in model.get_layer_status() if layer.module_type == "MonaLayer"}
    assert len(layers) == 4
    first = layers["model.swin.encoder.layers.0.blocks.0.mona"]
    assert first.available_adapters == ["wide"]
    assert layers["model.swin.encoder.layers.0.blocks.1.mona"].available_adapters == ["narrow", "wide"]
    assert first.devices == {"wide": ["cpu"]}
    with model.disable_adapter():
        assert not model.get_model_status().enabled


def test_trainable_parameters_are_printed(capsys):
    model = get_peft_model(build("swin-classifier"), MonaConfig(modules_to_save="task-head"))
    model.print_trainable_parameters()
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert f"trainable params: {trainable:,} || all params: " in capsys.readouterr().out


def test_weights_hold_until_other_adapters_are_made_active(tmp_path):
    """PEFT makes the same adapters active again whenever one is added, loaded, deleted or switched on."""
    model = two_adapters("swin-classifier", modules_to_save=[])
    model.save_pretrained(tmp_path)
    model.set_adapters(["wide", "narrow"])
    unweighted = logits(model, images())
    model.set_adapters(["wide", "narrow"], [0.7, 0.3])
    weighted = logits(model, images())
    assert (weighted - unweighted).abs().max() > 1e-3

    def switch_off_and_on():
        with model.disable_adapter():
            model(images())

    for change in (
        switch_off_and_on,
        lambda: model.add_adapter("third", MonaConfig(modules_to_save=[])),
        lambda: model.delete_adapter("third"),
        lambda: model.load_adapter(tmp_path / "wide", "fourth"),
        lambda: model.base_model.set_adapter(["wide", "narrow"]),
    ):
        change()
        assert torch.equal(logits(model.eval(), images()), weighted)
    model.set_adapter("wide")
    model.set_adapters(["wide", "narrow"])
    assert torch.equal(logits(model, images()), unweighted)
