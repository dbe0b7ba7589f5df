"""A user's mistakes: each gives an error that says what to do, and leaves the model as it was."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import MobileNetV2Config, MobileNetV2Model, SwinConfig, SwinForImageClassification, SwinModel

from mona_peft import MonaConfig
from tests.models import TWO_STAGES, build, images, outputs


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bottleneck_dim": 0}, r"bottleneck_dim=0: give a whole number of at least 1"),
        ({"bottleneck_dim": 6.5}, r"bottleneck_dim=6.5: give a whole number"),
        ({"bottleneck_dim": True}, r"bottleneck_dim=True: give a whole number"),
        ({"kernel_sizes": (3, 4)}, r"kernel_sizes=\(3, 4\): give at least one positive odd number"),
        ({"kernel_sizes": (0,)}, r"kernel_sizes=\(0,\)"),
        ({"kernel_sizes": (-3,)}, r"kernel_sizes=\(-3,\)"),
        ({"kernel_sizes": ()}, r"kernel_sizes=\(\)"),
        ({"kernel_sizes": (3, 3)}, r"kernel_sizes=\(3, 3\).*none twice"),
        ({"dropout": 1.0}, r"dropout=1.0: give a probability from 0 up to but not including 1"),
        ({"dropout": -0.1}, r"dropout=-0.1"),
        ({"dropout": "0.1"}, r"dropout='0.1'"),
        ({"sites": ()}, r"sites=\(\): choose from \('attention', 'mlp'\)"),
        ({"sites": ("attn",)}, r"sites=\('attn',\)"),
        ({"norm_position": "output"}, r"norm_position='output': choose one of \('input', 'bottleneck', 'none'\)"),
        ({"filter_reduction": "max"}, r"filter_reduction='max': choose one of \('mean', 'sum'\)"),
        ({"init_weights": "zero"}, r"init_weights='zero': choose one of \(True, False, 'paper'\)"),
        ({"target_modules": "all-linear"}, r"target_modules='all-linear' names linear layers.*whole blocks"),
        ({"target_modules": []}, r"target_modules=\[\] adapts nothing"),
        ({"modules_to_save": "classifier"}, r"modules_to_save='classifier': give a list of names, or 'task-head'"),
    ],
    ids=str,
)
def test_values_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        MonaConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_modules": ["query"]}, r"target_modules: \['query'\] matches no block.*encoder.layers.0.blocks.0"),
        ({"target_modules": ["blocks.0", "blocks.9"]}, r"target_modules: \['blocks.9'\] matches no block"),
        ({"target_modules": r".*decoder.*"}, r"target_modules: \['\.\*decoder\.\*'\] matches no block"),
        ({"exclude_modules": ["blocks.7"]}, r"exclude_modules: \['blocks.7'\] matches no block"),
        ({"exclude_modules": r".*"}, r"No block is left to adapt"),
        ({"layers_to_transform": 4}, r"layers_to_transform=4: \[4\] is out of range. The model has 4 blocks"),
        ({"layers_to_transform": [0, -5]}, r"\[-5\] is out of range"),
        ({"layers_to_transform": []}, r"No block is left to adapt"),
        (
            {"modules_to_save": ["embeddings"]},
            r"means 'swin.embeddings' and, inside it, 'swin.embeddings.patch_embeddings'.*longer endings",
        ),
        ({"modules_to_save": ["clasifier"]}, r"\['clasifier'\] matches no module.*\['classifier'\]"),
    ],
    ids=str,
)
def test_configuration_that_does_not_fit_leaves_the_model_alone(settings, message):
    model = build("swin-classifier")
    before = outputs(model, images())
    types = [type(module) for module in model.modules()]
    with pytest.raises(ValueError, match=message):
        get_peft_model(model, MonaConfig(**{"modules_to_save": [], **settings}))
    assert [type(module) for module in model.modules()] == types
    assert all(parameter.requires_grad for parameter in model.parameters())
    for ours, theirs in zip(outputs(model, images()), before, strict=True):
        assert torch.equal(ours, theirs)


def test_second_adapter_that_does_not_fit_leaves_the_first_alone():
    model = get_peft_model(build("swin"), MonaConfig(init_weights=False)).eval()
    before = outputs(model, images())
    with pytest.raises(ValueError, match="matches no block"):
        model.add_adapter("second", MonaConfig(target_modules=["nowhere"]))
    assert list(model.peft_config) == ["default"]
    for ours, theirs in zip(outputs(model, images()), before, strict=True):
        assert torch.equal(ours, theirs)


def test_unknown_backbone():
    model = MobileNetV2Model(MobileNetV2Config(depth_multiplier=0.1))
    with pytest.raises(ValueError, match=r"none is of a known class. Known are .*SwinLayer.*register_block"):
        get_peft_model(model, MonaConfig())


def test_task_head_of_a_bare_backbone():
    with pytest.raises(ValueError, match=r"no head of SwinModel can be told from its backbone"):
        get_peft_model(build("swin"), MonaConfig(modules_to_save="task-head"))


def test_one_configuration_for_models_with_different_heads():
    config = MonaConfig(modules_to_save="task-head")
    first = get_peft_model(build("swin-classifier"), config)
    get_peft_model(build("swin-classifier"), config)
    with pytest.raises(ValueError, match=r"used for another model.*\['classifier'\].*'auxiliary_head'\]. Make one for"):
        get_peft_model(build("upernet"), config)
    assert first.peft_config["default"].modules_to_save == ["classifier"]


@pytest.mark.parametrize("name", ["v1.0", "", "a/b", "..", "keys"])
def test_name_that_no_module_can_have(name, saved):
    """It is refused by every way of naming an adapter, before anything changes."""
    message = r"adapter_name=.*modules and folders are called by it"
    plain = build("swin")
    keys = list(plain.state_dict())
    for attach in (
        lambda: get_peft_model(plain, MonaConfig(), name),
        lambda: PeftModel.from_pretrained(plain, saved, name),
        lambda: plain.load_adapter(str(saved), name),
    ):
        with pytest.raises(ValueError, match=message):
            attach()
        assert list(plain.state_dict()) == keys
    model = get_peft_model(build("swin"), MonaConfig())
    for add in (lambda: model.load_adapter(saved, name), lambda: model.add_adapter(name, MonaConfig())):
        with pytest.raises(ValueError, match=message):
            add()
        assert list(model.peft_config) == ["default"]


@pytest.fixture
def saved(tmp_path):
    get_peft_model(build("swin"), MonaConfig(init_weights=False)).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"embed_dim": 32},
            r"does not fit this model, and nothing was loaded.*have another shape.*\(16,\), here \(32,\)",
        ),
        ({"depths": [2, 4]}, r"64 are missing, such as encoder.layers.1.blocks.2"),
        ({"depths": [2, 1]}, r"32 have no place in this model"),
    ],
)
def test_adapter_of_another_backbone(saved, changes, message):
    model = SwinModel(SwinConfig(**TWO_STAGES | changes)).eval()
    before = outputs(model, images())
    with pytest.raises(ValueError, match=message):
        PeftModel.from_pretrained(model, saved)
    for ours, theirs in zip(outputs(model, images()), before, strict=True):
        assert torch.equal(ours, theirs)
    assert not [name for name, _ in model.named_modules() if "mona" in name]


def test_adapter_of_another_width(saved):
    config = json.loads((saved / "adapter_config.json").read_text())
    (saved / "adapter_config.json").write_text(json.dumps(config | {"bottleneck_dim": 32}))
    with pytest.raises(ValueError, match=r"another shape, such as .*\(64.*\), here \(32"):
        PeftModel.from_pretrained(build("swin"), saved)


def test_missing_weights(saved):
    (saved / "adapter_model.safetensors").unlink()
    with pytest.raises(
        ValueError, match=r"adapter_model.safetensors is missing.*\['README.md', 'adapter_config.json'\]"
    ):
        PeftModel.from_pretrained(build("swin"), saved)


def test_pickled_weights_are_never_read(saved):
    (saved / "adapter_model.safetensors").unlink()
    torch.save({}, saved / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"pickled weights, adapter_model.bin, and they are not read"):
        PeftModel.from_pretrained(build("swin"), saved)


@pytest.mark.parametrize("length", [0, 4, 100, 10_000])
def test_truncated_weights(saved, length):
    path = saved / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    model = build("swin")
    with pytest.raises(ValueError, match=rf"cannot be read.*{length} bytes long"):
        PeftModel.from_pretrained(model, saved)
    assert not [name for name, _ in model.named_modules() if "mona" in name]


@pytest.mark.parametrize("merge", ["merge_and_unload", "merge_adapter"])
def test_merging_says_why_not(merge):
    model = get_peft_model(build("swin"), MonaConfig())
    with pytest.raises(NotImplementedError, match=r"not linear.*save_pretrained\(\).*unload\(\)"):
        getattr(model, merge)()


def test_forward_replaced_on_the_instance():
    model = build("swin")
    block = model.encoder.layers[0].blocks[0]
    block.forward = lambda hidden, input_dimensions: (hidden, None)
    with pytest.raises(ValueError, match="forward of this SwinLayer was replaced"):
        get_peft_model(model, MonaConfig())


def test_labels_out_of_range_do_not_hide():
    model = get_peft_model(
        SwinForImageClassification(SwinConfig(**TWO_STAGES)), MonaConfig(modules_to_save="task-head")
    )
    with pytest.raises(IndexError, match="out of bounds"):
        model(pixel_values=images(), labels=torch.tensor([0, 9]))
