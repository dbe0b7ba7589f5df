"""Which adapters are there, active, enabled and trained, layer by layer: what PEFT's own tests ask of every tuner.

`docs/peft_contract.md` maps them to ours, row by row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import peft
import pytest
import torch
from packaging.version import Version
from peft import PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import nn

from mona_peft import MonaConfig
from tests.models import build, images, largest_difference
from tests.test_save_load import trained
from tests.test_several_adapters import logits

FIRST, SECOND, THIRD = "layers.0.blocks.0", "layers.0.blocks.1", "layers.1.blocks.0"
NEW_IN_PEFT_0_21 = pytest.mark.skipif(Version(peft.__version__) < Version("0.21"), reason="new in PEFT 0.21")


def config(*targets: str, head: bool = False, **settings) -> MonaConfig:
    return MonaConfig(
        target_modules=list(targets) or None,
        bottleneck_dim=4,
        init_weights=False,
        modules_to_save=["classifier"] if head else [],
        **settings,
    )


def adapted(*targets: str, adapter_name: str = "default", head: bool = False) -> PeftModel:
    return get_peft_model(build("swin-classifier"), config(*targets, head=head), adapter_name=adapter_name).eval()


def layers(model: nn.Module) -> list[BaseTunerLayer]:
    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]


def head_of(model: PeftModel) -> AuxiliaryTrainingWrapper:
    return model.base_model.model.classifier


def trainable(model: nn.Module) -> set[str]:
    """Names of the adapters that are trained, in whole; `frozen` if a parameter outside of them is."""
    found: dict[str, set[bool]] = {}
    for key, parameter in model.named_parameters():
        path = key.split(".")
        if ".mona." in key:
            name = path[-2]
        else:
            name = path[path.index("modules_to_save") + 1] if "modules_to_save" in path else "frozen"
        found.setdefault(name, set()).add(parameter.requires_grad)
    assert all(len(states) == 1 for name, states in found.items() if name != "frozen"), found
    return {name for name, states in found.items() if True in states}


def test_training_changes_all_of_the_adapter_and_nothing_else():
    model = trained("swin-classifier", dropout=0.0).train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(2):
        model(images()).logits.pow(2).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    changed = {key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])}
    assert changed == {key for key, parameter in model.named_parameters() if parameter.requires_grad}


def test_the_name_of_an_adapter_makes_no_difference():
    def named(name: str) -> PeftModel:
        model = build("swin-classifier")
        torch.manual_seed(3)
        return get_peft_model(model, config(head=True), adapter_name=name).eval()

    model = named("default")
    base = logits(build("swin-classifier"), images())
    assert largest_difference([logits(model, images())], [base]) > 1e-3
    for name in ("adapter", "other-name"):
        other = named(name)
        assert torch.equal(logits(other, images()), logits(model, images()))
        state = {key.replace(f".{name}.", ".default."): tensor for key, tensor in other.state_dict().items()}
        assert state.keys() == model.state_dict().keys()
        assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ["swin-classifier", "upernet"])
def test_layers_tell_their_width(name):
    model = get_peft_model(build(name), MonaConfig(modules_to_save=[]))
    for layer in layers(model):
        width = next(parameter.shape[-1] for key, parameter in layer.named_parameters() if "down_weight" in key)
        assert layer.in_features == layer.out_features == width


@NEW_IN_PEFT_0_21
def test_a_name_that_is_taken_changes_nothing():
    model = adapted(FIRST, adapter_name="taken", head=True)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    settings = model.peft_config["taken"].to_dict()
    with pytest.raises(ValueError, match="taken"):
        model.add_adapter("taken", config(SECOND, head=True))
    assert model.peft_config["taken"].to_dict() == settings
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("through_tuner", [False, True])
def test_activation_reaches_every_layer_and_head(through_tuner):
    """Also where the targets of two adapters overlap in part, and one alone has a head."""
    model = adapted(FIRST, SECOND)
    model.add_adapter("other", config(SECOND, THIRD, head=True))
    assert [layer._get_available_adapters() for layer in layers(model)] == [
        {"default"},
        {"default", "other"},
        {"other"},
    ]
    assert head_of(model).modules_to_save.keys() == {"other"}
    outputs = {}
    for name in ("default", "other", "default"):
        if len(outputs):
            (model.base_model if through_tuner else model).set_adapter(name)
        assert model.active_adapters == [name]
        assert all(layer.active_adapters == [name] for layer in layers(model))
        assert head_of(model).active_adapters == (["other"] if name == "other" else [])
        assert trainable(model) == {name}
        found = logits(model, images())
        assert torch.equal(outputs.setdefault(name, found), found)
    assert largest_difference([outputs["default"]], [outputs["other"]]) > 1e-4


def test_two_active_adapters_with_different_heads():
    model = get_peft_model(
        build("upernet"), MonaConfig(bottleneck_dim=4, init_weights=False, modules_to_save=["decode_head"])
    )
    model.add_adapter("other", MonaConfig(bottleneck_dim=4, init_weights=False, modules_to_save=["auxiliary_head"]))
    base = model.base_model.model
    assert base.decode_head.modules_to_save.keys() == {"default"}
    assert base.auxiliary_head.modules_to_save.keys() == {"other"}
    model.base_model.set_adapter(["default", "other"])
    assert base.decode_head.active_adapters == ["default"]
    assert base.auxiliary_head.active_adapters == ["other"]
    assert trainable(model) == {"default", "other"}


def test_the_context_restores_what_was_before_it():
    model = adapted(head=True)

    def states() -> set[bool]:
        return {layer.disable_adapters for layer in layers(model)} | {head_of(model).disable_adapters}

    with model.disable_adapter():
        assert states() == {True}
    assert states() == {False}
    model.base_model.disable_adapter_layers()
    with model.disable_adapter():
        assert states() == {True}
    assert states() == {True}


@NEW_IN_PEFT_0_21
def test_contexts_in_one_another():
    model = adapted(head=True)
    with model.disable_adapter():
        with model.disable_adapter():
            assert not model.has_active_enabled_adapter
        assert not model.has_active_enabled_adapter
        assert all(layer.disable_adapters for layer in layers(model))
    assert model.has_active_enabled_adapter
    assert not any(layer.disable_adapters for layer in layers(model))


def test_layers_that_disagree_are_warned_of():
    model = adapted()
    layers(model)[0].enable_adapters(False)
    message = "some adapter layers that are enabled and others that are disabled"
    with pytest.warns(UserWarning, match=message), model.disable_adapter():
        pass
    assert not any(layer.disable_adapters for layer in layers(model))


def holders_of(name: str, *modules: nn.Module) -> Iterator[str]:
    """Public attributes that map the name of an adapter to something."""
    for module in modules:
        for attribute in dir(module):
            value = None if attribute.startswith("_") else getattr(module, attribute, None)
            if isinstance(value, (Mapping, nn.ModuleDict, nn.ParameterDict)) and name in value:
                yield attribute


@pytest.mark.parametrize("active", [False, True])
def test_deletion_leaves_nothing_of_an_adapter(active):
    model = adapted()
    model.add_adapter("gone", config(recompute_mlp=True))
    model.set_adapters(["default", "gone"], [0.5, 2.0])
    if not active:
        model.set_adapter("default")
    assert {"mona_attn", "recomputed", "peft_config"} <= set(holders_of("gone", model, *layers(model)))
    model.delete_adapter("gone")
    assert model.active_adapters == ["default"]
    assert not list(holders_of("gone", model, *layers(model)))
    assert not [key for key in model.state_dict() if "gone" in key]
    assert not any(layer.recomputed_sites() for layer in layers(model))


@pytest.mark.parametrize("with_head", [(True, False, True), (False, True, False)])
def test_deleting_the_active_adapter_activates_the_next(with_head):
    model = adapted(adapter_name="adapter0", head=with_head[0])
    for number in (1, 2):
        model.add_adapter(f"adapter{number}", config(head=with_head[number]))
    expected = {}
    for name in ("adapter2", "adapter1", "adapter0"):
        model.set_adapter(name)
        expected[name] = logits(model, images())
    for number in range(3):
        # PEFT's own heads stay off where an adapter without one is deleted.
        assert model.active_adapters == [f"adapter{number}"]
        assert head_of(model).active_adapters == ([f"adapter{number}"] if with_head[number] else [])
        assert torch.equal(logits(model, images()), expected[f"adapter{number}"])
        model.delete_adapter(f"adapter{number}")
    assert model.active_adapters == []
    assert not head_of(model).modules_to_save
    base = logits(build("swin-classifier"), images())
    torch.testing.assert_close(logits(model.base_model, images()), base, atol=1e-6, rtol=0)


def test_gradients_of_chosen_adapters():
    model = adapted(FIRST)
    model.add_adapter("other", config(FIRST, SECOND, head=True))
    assert trainable(model) == {"default"}
    model.set_requires_grad("other")
    assert trainable(model) == {"default", "other"}
    model.set_requires_grad(["default", "other"], requires_grad=False)
    assert trainable(model) == set()


def test_nothing_is_trained_while_adapters_are_off():
    model = adapted(head=True)
    assert trainable(model) == {"default"}
    with model.disable_adapter():
        assert trainable(model) == set()
    assert trainable(model) == {"default"}
    model.base_model.disable_adapter_layers()
    assert trainable(model) == set()
    model.base_model.enable_adapter_layers()
    assert trainable(model) == {"default"}


def test_adapters_made_active_for_inference_are_not_trained():
    model = adapted(head=True)
    model.add_adapter("other", config(head=True))
    for name in ("other", "default"):
        model.set_adapter(name, inference_mode=True)
        assert model.active_adapters == [name]
        assert trainable(model) == set()
        model.set_adapter(name, inference_mode=False)
        assert trainable(model) == {name}


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("is_trainable", [False, True])
def test_what_is_trained_after_loading(head, is_trainable, tmp_path):
    adapted(head=head).save_pretrained(tmp_path)
    model = PeftModel.from_pretrained(build("swin-classifier"), tmp_path, is_trainable=is_trainable)
    assert trainable(model) == ({"default"} if is_trainable else set())
    for name in ("other", "third"):
        result = model.load_adapter(tmp_path, name, is_trainable=is_trainable)
        assert result.missing_keys == []
    assert model.active_adapters == ["default"]
    assert "frozen" not in trainable(model)
    assert trainable(model) <= ({"default", "other", "third"} if is_trainable else set())
    if Version(peft.__version__) < Version("0.21"):
        return
    assert trainable(model) == ({"default", "other", "third"} if is_trainable else set())
    model.load_adapter(tmp_path, "opposite", is_trainable=not is_trainable)
    model.add_adapter("added", config(head=head))
    assert trainable(model) == ({"default", "other", "third"} if is_trainable else {"opposite"})


@NEW_IN_PEFT_0_21
def test_loading_leaves_what_is_trained_as_it_was(tmp_path):
    adapted().save_pretrained(tmp_path)
    model = adapted()
    model.base_model.model.classifier.weight.requires_grad_(True)
    next(parameter for parameter in model.parameters() if parameter.requires_grad).requires_grad_(False)
    before = {key: parameter.requires_grad for key, parameter in model.named_parameters()}
    model.load_adapter(tmp_path, "other", is_trainable=False)
    after = {key: parameter.requires_grad for key, parameter in model.named_parameters()}
    assert {key: after[key] for key in before} == before
    assert not any(state for key, state in after.items() if key not in before)
