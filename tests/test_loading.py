"""Every way into a model: PEFT's, transformers' own, injection, an adapter folder as a model, a swap in place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from packaging.version import Version
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from peft.utils.hotswap import hotswap_adapter as peft_hotswap_adapter
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForImageClassification, SwinConfig, SwinModel

from mona_peft import MonaConfig, hotswap_adapter
from tests.models import TWO_STAGES, build, images, largest_difference, outputs
from tests.native_adapters import needs_native_adapters
from tests.test_save_load import WEIGHTS, trained
from tests.test_several_adapters import NAMES, logits


def assert_same_outputs(model: nn.Module, expected: torch.Tensor) -> None:
    torch.testing.assert_close(logits(model.eval(), images()), expected, atol=1e-6, rtol=0)


# Before 5.17 transformers' own load_adapter() leaves trained heads out, and warns of it; LoRA's too.
LOADS_HEADS_NATIVELY = Version(transformers.__version__) >= Version("5.17")


@pytest.fixture(params=NAMES)
def name(request) -> str:
    return request.param


@pytest.fixture
def saved(name, tmp_path, request) -> tuple[Path, torch.Tensor]:
    """Folder of a trained adapter, and the adapted model's outputs."""
    without_heads = "native" in request.keywords and not LOADS_HEADS_NATIVELY
    model = trained(name, modules_to_save=[] if without_heads else "task-head")
    model.save_pretrained(tmp_path / "adapter")
    expected = logits(model, images())
    assert largest_difference([expected], [logits(build(name), images())]) > 1e-3
    return tmp_path / "adapter", expected


def test_without_memory_for_a_second_copy(name, saved):
    folder, expected = saved
    model = PeftModel.from_pretrained(build(name), folder, low_cpu_mem_usage=True)
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    assert_same_outputs(model, expected)
    model.load_adapter(folder, "other", low_cpu_mem_usage=True)
    model.set_adapter("other")
    assert_same_outputs(model, expected)


def test_to_go_on_training(name, saved):
    folder, expected = saved
    model = PeftModel.from_pretrained(build(name), folder, is_trainable=True)
    trainable = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == {key for key, parameter in trained(name).named_parameters() if parameter.requires_grad}
    assert_same_outputs(model, expected)


def test_with_a_given_configuration(name, saved):
    folder, expected = saved
    config = MonaConfig(modules_to_save="task-head")
    model = PeftModel.from_pretrained(build(name), folder, config=config)
    assert model.peft_config["default"] is config
    assert config.inference_mode
    assert_same_outputs(model, expected)


def test_a_weight_that_loading_forgot_is_no_number(monkeypatch, tmp_path):
    """Adapters are not initialised where a checked file follows; none could pass for trained, though."""
    trained("swin").save_pretrained(tmp_path)
    monkeypatch.setattr("peft.peft_model.set_peft_model_state_dict", lambda *_, **__: nn.Module().load_state_dict({}))
    forgotten = PeftModel.from_pretrained(build("swin"), tmp_path)
    weights = [parameter for key, parameter in forgotten.named_parameters() if ".mona_" in key]
    assert weights
    assert all(weight.isnan().all() for weight in weights)
    assert outputs(forgotten, images())[0].isnan().any()
    # Where a file need not fit, what it lacks starts as a fresh adapter's does.
    partial = PeftModel.from_pretrained(build("swin"), tmp_path, ignore_mismatched_sizes=True)
    assert not any(parameter.isnan().any() for parameter in partial.parameters())


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_injection_and_state_dict(name, saved, low_cpu_mem_usage):
    _, expected = saved
    prefix = "base_model.model."
    state_dict = {key.removeprefix(prefix): value for key, value in get_peft_model_state_dict(trained(name)).items()}
    model = build(name)
    inject_adapter_in_model(
        MonaConfig(modules_to_save="task-head"), model, low_cpu_mem_usage=low_cpu_mem_usage, state_dict=state_dict
    )
    assert type(model) is type(build(name))
    result = set_peft_model_state_dict(model, dict(state_dict), low_cpu_mem_usage=low_cpu_mem_usage)
    assert result.unexpected_keys == []
    assert_same_outputs(model, expected)
    restored = get_peft_model_state_dict(model)
    assert all(torch.equal(restored[key], state_dict[key]) for key in state_dict)


@pytest.mark.native
@needs_native_adapters
def test_native_adapters_of_transformers(name, saved, tmp_path):
    """add_adapter, load_adapter, set_adapter, disable_adapters, enable_adapters, delete_adapter; to PEFT and back."""
    folder, expected = saved
    build(name).save_pretrained(tmp_path / "base")
    model = type(build(name)).from_pretrained(tmp_path / "base")
    base = logits(model, images())
    model.load_adapter(str(folder), "first")
    assert_same_outputs(model, expected)
    model.disable_adapters()
    assert_same_outputs(model, base)
    model.enable_adapters()
    assert_same_outputs(model, expected)

    model.add_adapter(MonaConfig(bottleneck_dim=8, init_weights=False, modules_to_save=[]), "second")
    assert model.active_adapters() == ["second"]
    second = logits(model.eval(), images())
    assert min(largest_difference([second], [other]) for other in (base, expected)) > 1e-3
    model.save_pretrained(tmp_path / "native")
    model.set_adapter(["first", "second"])
    assert min(largest_difference([logits(model, images())], [other]) for other in (second, expected)) > 1e-4
    model.set_adapter("first")
    assert_same_outputs(model, expected)
    model.delete_adapter("second")
    assert_same_outputs(model, expected)

    assert_same_outputs(PeftModel.from_pretrained(build(name), tmp_path / "native"), second)
    reloaded = type(build(name)).from_pretrained(tmp_path / "base")
    reloaded.load_adapter(str(tmp_path / "native"))
    assert_same_outputs(reloaded, second)


@pytest.mark.native
def test_adapter_folder_as_a_model(name, saved, tmp_path):
    folder, expected = saved
    build(name).save_pretrained(tmp_path / "base")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": str(tmp_path / "base")})
    )
    model_class = type(build(name)) if name == "upernet" else AutoModelForImageClassification
    assert_same_outputs(model_class.from_pretrained(folder), expected)


@needs_native_adapters
def test_lora_beside_mona(name, tmp_path):
    """In one model by transformers' own adapters: each alone, both together, saved and loaded."""
    model = build(name)
    base = logits(model, images())
    targets = ["query", "value"] if name == "swinv2-classifier" else ["q_proj", "v_proj"]
    model.add_adapter(LoraConfig(target_modules=targets, init_lora_weights=False), "lora")
    lora = logits(model.eval(), images())
    model.add_adapter(MonaConfig(init_weights=False, modules_to_save=[]), "mona")
    mona = logits(model.eval(), images())
    model.set_adapter(["lora", "mona"])
    both = logits(model, images())
    differences = [largest_difference([a], [b]) for a, b in [(base, lora), (base, mona), (both, lora), (both, mona)]]
    assert min(differences) > 1e-4
    for adapter, expected in [("lora", lora), ("mona", mona)]:
        model.set_adapter(adapter)
        assert_same_outputs(model, expected)
        model.save_pretrained(tmp_path / adapter)

    reloaded = build(name)
    for adapter in ("lora", "mona"):
        reloaded.load_adapter(str(tmp_path / adapter), adapter)
    reloaded.set_adapter(["lora", "mona"])
    assert_same_outputs(reloaded, both)


@needs_native_adapters
def test_lora_and_mona_train_together():
    model = build("swin-classifier")
    model.add_adapter(LoraConfig(target_modules=["q_proj"]), "lora")
    model.add_adapter(MonaConfig(modules_to_save=[]), "mona")
    model.set_adapter(["lora", "mona"])
    model.train()(pixel_values=images(), labels=torch.tensor([0, 1])).loss.backward()
    with_gradient = [key for key, parameter in model.named_parameters() if parameter.grad is not None]
    assert all(".lora_" in key or ".mona_" in key for key in with_gradient)
    assert {"lora" in key for key in with_gradient} == {True, False}


def test_hotswap(name, saved, tmp_path):
    folder, expected = saved
    model = trained(name)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.mul_(1.5)
    before = logits(model, images())
    assert largest_difference([before], [expected]) > 1e-3
    places = {key: parameter.data_ptr() for key, parameter in model.named_parameters()}
    requires_grad = [parameter.requires_grad for parameter in model.parameters()]
    model.save_pretrained(tmp_path / "other")
    for swapped, outputs_then in [(folder, expected), (tmp_path / "other", before)]:
        hotswap_adapter(model, swapped, "default")
        assert_same_outputs(model, outputs_then)
    assert {key: parameter.data_ptr() for key, parameter in model.named_parameters()} == places
    assert [parameter.requires_grad for parameter in model.parameters()] == requires_grad


@pytest.mark.parametrize(
    ("settings", "adapter_name", "message"),
    [
        ({"bottleneck_dim": 8}, "default", r"another form.*bottleneck_dim is 8, here 64.*load_adapter\(\)"),
        ({"filter_reduction": "sum"}, "default", r"filter_reduction is 'sum', here 'mean'"),
        ({"layers_to_transform": [0]}, "default", r"does not fit this model, and nothing was loaded.*are missing"),
        ({}, "missing", r"no adapter 'missing' to swap. The model has \['default'\]"),
    ],
    ids=str,
)
def test_hotswap_of_another_form(settings, adapter_name, message, tmp_path):
    trained("swin", **settings).save_pretrained(tmp_path)
    model = trained("swin")
    before = outputs(model, images())
    with pytest.raises(ValueError, match=message):
        hotswap_adapter(model, tmp_path, adapter_name)
    assert largest_difference(outputs(model, images()), before) == 0
    with pytest.raises(ValueError, match="PeftModel, and this is a SwinModel"):
        hotswap_adapter(build("swin"), tmp_path, "default")


def test_hotswap_of_peft_says_that_it_is_for_lora(tmp_path):
    trained("swin").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="only supports"):
        peft_hotswap_adapter(trained("swin"), str(tmp_path), "default")


def rename(folder: Path, old: str, new: str) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file({key.replace(old, new): tensor for key, tensor in tensors.items()}, folder / WEIGHTS)


@pytest.mark.parametrize("adapter_name", ["default", "flowers"])
def test_blocks_that_had_other_names(name, saved, adapter_name):
    """As where a family's modules were renamed between versions of transformers."""
    folder, expected = saved
    rename(folder, ".encoder.layers.", ".stem.stage.")
    with pytest.warns(UserWarning, match=r"saved for blocks of other names, such as .*stem\.stage\.0\.blocks\.0"):
        model = PeftModel.from_pretrained(build(name), folder, adapter_name=adapter_name)
    assert_same_outputs(model, expected)


@pytest.mark.native
def test_native_loading_of_blocks_that_had_other_names(name, saved):
    folder, expected = saved
    rename(folder, ".encoder.layers.", ".stem.stage.")
    model = build(name)
    with pytest.warns(UserWarning, match=r"saved for blocks of other names, such as .*stem\.stage\.0\.blocks\.0"):
        model.load_adapter(str(folder))
    assert_same_outputs(model, expected)


@needs_native_adapters
def test_native_loading_of_another_methods_adapter_is_as_before(tmp_path):
    """LoRA of another backbone: loaded in part, as transformers does."""
    get_peft_model(build("swin"), LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path)
    model = build("swin")
    model.add_adapter(MonaConfig(), "mona")
    model.load_adapter(str(tmp_path), "lora")
    assert sorted(model.peft_config) == ["lora", "mona"]


def test_renamed_blocks_keep_their_order(tmp_path):
    """By number, not by letter: block 10 comes after block 9."""

    def deep() -> SwinModel:
        torch.manual_seed(0)
        return SwinModel(SwinConfig(**TWO_STAGES | {"depths": [1, 11]})).eval()

    model = get_peft_model(deep(), MonaConfig(init_weights=False)).eval()
    model.save_pretrained(tmp_path)
    rename(tmp_path, "encoder.layers", "layers")
    with pytest.warns(UserWarning, match="12 blocks were taken in their order"):
        reloaded = PeftModel.from_pretrained(deep(), tmp_path).eval()
    assert largest_difference(outputs(reloaded, images()), outputs(model, images())) == 0
