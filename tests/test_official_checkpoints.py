"""Checkpoints of the authors' code: read in every form they come in, refused with a reason, and written back."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import (
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    MaskFormerSwinConfig,
    RTDetrConfig,
    RTDetrForObjectDetection,
    SwinBackbone,
    SwinConfig,
    SwinForImageClassification,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)
from transformers.models.maskformer.modeling_maskformer_swin import MaskFormerSwinBackbone

from mona_peft import MonaConfig, load_official_checkpoint, official_state_dict
from scripts.load_official_checkpoint import main
from tests.models import build
from tests.official import FOLDER, recorded

CONFIG = json.loads((FOLDER / "hf_base_w7_config.json").read_text())


def swin_config(**changes) -> SwinConfig:
    return SwinConfig(**CONFIG | changes)


def checkpoint(tmp_path: Path, *, prefix: str = "", wrapped_in: str | None = "state_dict", **changes) -> Path:
    """Write the recorded state dict of the authors' backbone the way their toolboxes write it.

    `changes` replace or add tensors under the authors' names; None takes one out.
    """
    tensors = {**recorded("official_mona_w7"), "layers.0.blocks.0.attn.relative_position_index": torch.zeros(49, 49)}
    tensors = {key: tensor for key, tensor in (tensors | changes).items() if tensor is not None}
    tensors = {f"{prefix}{key}": tensor for key, tensor in tensors.items()}
    if prefix:
        tensors["decode_head.conv_seg.weight"] = torch.zeros(3, 16, 1, 1)
    content = tensors
    if wrapped_in:
        meta = {"epoch": 12, "CLASSES": ("cat", "dog"), "config": "model = dict(...)"}
        optimizer = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-4}]}
        content = {"meta": meta, wrapped_in: tensors, "optimizer": optimizer}
    path = tmp_path / "official.pth"
    torch.save(content, path)
    return path


def feature_maps(backbone: nn.Module, name: str) -> list[torch.Tensor]:
    with torch.no_grad():
        return list(backbone(recorded("inputs")[name]).feature_maps)


def assert_recorded_outputs(backbone: nn.Module, name: str = "odd60x92") -> None:
    for stage, found in enumerate(feature_maps(backbone.eval(), name)):
        expected = recorded("expected_outputs_w7")[f"{name}.stage{stage}"]
        torch.testing.assert_close(found, expected, atol=5e-5, rtol=0)


def upernet() -> UperNetForSemanticSegmentation:
    return UperNetForSemanticSegmentation(
        UperNetConfig(backbone_config=swin_config(), hidden_size=16, use_auxiliary_head=False)
    )


def mask2former() -> Mask2FormerForUniversalSegmentation:
    return Mask2FormerForUniversalSegmentation(
        Mask2FormerConfig(backbone_config=swin_config(), feature_size=32, mask_feature_size=32, hidden_dim=32)
    )


def rt_detr() -> RTDetrForObjectDetection:
    return RTDetrForObjectDetection(
        RTDetrConfig(backbone_config=swin_config(), encoder_in_channels=[16, 32], feat_strides=[4, 8], d_model=32)
    )


MODELS = {
    "backbone": (lambda: SwinBackbone(swin_config()), ""),
    "upernet": (upernet, "backbone"),
    "mask2former": (mask2former, "model.pixel_level_module.encoder"),
    "maskformer-swin": (lambda: MaskFormerSwinBackbone(MaskFormerSwinConfig(**CONFIG)), ""),
    "rt-detr": (rt_detr, "model.backbone.model"),
}
"""Models around the recorded Swin, and where their backbone is."""


@pytest.mark.parametrize(("prefix", "wrapped_in"), [("", None), ("", "model"), ("backbone.", "state_dict")])
@pytest.mark.parametrize("name", MODELS)
def test_gives_the_authors_outputs_in_every_model(name, prefix, wrapped_in, tmp_path):
    make_model, backbone = MODELS[name]
    path = checkpoint(tmp_path, prefix=prefix, wrapped_in=wrapped_in)
    model = load_official_checkpoint(make_model(), path, load_backbone=True)
    assert isinstance(model, PeftModel)
    assert_recorded_outputs(model.get_base_model().get_submodule(backbone))


def test_adapter_alone_on_the_backbone_it_was_trained_on(tmp_path):
    model = SwinBackbone(swin_config())
    model.load_state_dict(recorded("hf_base_w7"), strict=False)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    model = load_official_checkpoint(model, checkpoint(tmp_path), config=MonaConfig(dropout=0.0))
    assert_recorded_outputs(model.get_base_model())
    assert all(torch.equal(model.get_base_model().state_dict()[key], before[key]) for key in before)
    assert model.peft_config["default"].dropout == 0

    model.save_pretrained(tmp_path / "adapter")
    reloaded = SwinBackbone(swin_config())
    reloaded.load_state_dict(recorded("hf_base_w7"), strict=False)
    assert_recorded_outputs(PeftModel.from_pretrained(reloaded, tmp_path / "adapter").get_base_model())


def test_as_a_further_adapter(tmp_path):
    model = load_official_checkpoint(SwinBackbone(swin_config()), checkpoint(tmp_path), load_backbone=True)
    model = load_official_checkpoint(model, checkpoint(tmp_path, wrapped_in=None), adapter_name="again")
    assert list(model.peft_config) == ["default", "again"]
    model.set_adapter("again")
    assert_recorded_outputs(model.get_base_model())


def test_classifier_with_a_head_to_train(tmp_path):
    more = {"head.weight": torch.zeros(9, 32), "norm.weight": torch.full([32], 3.0)}
    path = checkpoint(tmp_path, wrapped_in="model", **more)
    model = SwinForImageClassification(swin_config(num_labels=4))
    model = load_official_checkpoint(model, path, config=MonaConfig(modules_to_save="task-head"), load_backbone=True)
    assert model.get_base_model().classifier.modules_to_save["default"].weight.shape == (4, 32)
    assert torch.equal(model.get_base_model().swin.layernorm.weight, more["norm.weight"])
    official = {key.removeprefix("layers.1.blocks.0."): value for key, value in recorded("official_mona_w7").items()}
    block = model.get_base_model().swin.encoder.layers[1].blocks[0]
    assert torch.equal(block.mona.mona_mlp["default"].dw5_weight, official["my_module_2.adapter_conv.conv2.weight"])
    assert torch.equal(block.attention.k_proj.weight, official["attn.qkv.weight"][32:64])


@pytest.mark.parametrize("name", MODELS)
def test_way_back(name, tmp_path):
    model = load_official_checkpoint(MODELS[name][0](), checkpoint(tmp_path), load_backbone=True)
    written = official_state_dict(model, prefix="backbone.", include_backbone=True)
    official = recorded("official_mona_w7")
    assert written.keys() >= {f"backbone.{key}" for key in official}
    assert all(torch.equal(written[f"backbone.{key}"], tensor) for key, tensor in official.items())
    adapter_alone = official_state_dict(model)
    assert adapter_alone.keys() == {key for key in official if "my_module" in key}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernel_sizes": (3,)}, "filters of 3, 5 and 7.*another form"),
        ({"sites": ("mlp",)}, "both sites of every block.*another form"),
        ({"layers_to_transform": [0]}, "both sites of every block.*another form"),
    ],
    ids=str,
)
def test_another_form_has_no_way_back(settings, message):
    model = get_peft_model(build("swin"), MonaConfig(**settings))
    with pytest.raises(ValueError, match=message):
        official_state_dict(model)


MONA = "layers.0.blocks.1.my_module_1"


@pytest.mark.parametrize(
    ("changes", "load_backbone", "message"),
    [
        ({f"{MONA}.project1.weight": torch.zeros(64, 8)}, False, rf"{MONA}.project1.weight \(64, 8\), here \(64, 16\)"),
        ({f"{MONA}.gamma": None}, False, rf"it has no {MONA}.gamma"),
        (
            {"layers.1.blocks.2.my_module_1.gamma": torch.zeros(32)},
            False,
            r"no place for, layers.1.blocks.2.my_module_1",
        ),
        ({f"{MONA}.gate": torch.zeros(1)}, False, rf"no place for, {MONA}.gate"),
        ({"layers.1.blocks.0.attn.qkv.weight": None}, True, r"it has no layers.1.blocks.0.attn.qkv.weight"),
        (
            {"layers.0.blocks.0.attn.relative_position_bias_table": torch.zeros(529, 2)},
            True,
            r"relative_position_bias_table \(529, 2\), here \(169, 2\)",
        ),
    ],
    ids=["shape", "missing", "block", "parameter", "backbone", "window"],
)
def test_file_that_does_not_fit(changes, load_backbone, message, tmp_path):
    model = SwinBackbone(swin_config())
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=f"does not fit this model, and nothing was changed.*{message}"):
        load_official_checkpoint(model, checkpoint(tmp_path, **changes), load_backbone=load_backbone)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_models_that_are_no_swin(tmp_path):
    with pytest.raises(ValueError, match="for a Swin, and the blocks of this Swinv2Model are Swinv2Layer"):
        load_official_checkpoint(build("swinv2"), checkpoint(tmp_path))


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {"backbone.norm.weight": torch.ones(1)}}, r"holds no Mona.*backbone.norm.weight"),
        (
            {f"{a}{MONA}.gamma": torch.ones(1) for a in ("student.", "teacher.")},
            r"several prefixes, \['student.', 'teacher.'\]",
        ),
        ([torch.ones(1)], "holds a list instead of a state dict"),
        ({"state_dict": {}, "meta": Malicious()}, "cannot be read as a checkpoint of tensors alone.*save its weights"),
    ],
    ids=["no-mona", "two", "list", "malicious"],
)
def test_unreadable_files(content, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(content, "official.pth")
    with pytest.raises(ValueError, match=message):
        load_official_checkpoint(build("swin"), "official.pth")
    assert not (tmp_path / "ran").exists()


def test_truncated_file(tmp_path):
    path = checkpoint(tmp_path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        load_official_checkpoint(build("swin"), path)


@pytest.fixture
def untouched():
    """A model of which it is checked afterwards that nothing has been changed."""
    model = SwinBackbone(swin_config())
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    modules = [(name, type(module)) for name, module in model.named_modules()]
    yield model
    assert [(name, type(module)) for name, module in model.named_modules()] == modules
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    "settings",
    [
        {"filter_reduction": "sum"},
        {"kernel_sizes": (3,)},
        {"kernel_sizes": (3, 5, 9)},
        {"norm_position": "none"},
        {"sites": ("mlp",)},
        {"layers_to_transform": [0]},
        {"target_modules": ["blocks.0"]},
        {"exclude_modules": ["blocks.0"]},
    ],
    ids=str,
)
def test_configuration_of_other_monas_is_refused(settings, untouched, tmp_path):
    """Also where the shapes of its weights are the same."""
    with pytest.raises(ValueError, match=f"config asks for {next(iter(settings))}=.*has to be"):
        load_official_checkpoint(untouched, checkpoint(tmp_path), config=MonaConfig(**settings))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"config": MonaConfig(modules_to_save="task-head")}, "no head of SwinBackbone"),
        ({"config": MonaConfig(modules_to_save=["classifier"])}, "matches no module of SwinBackbone"),
        ({"adapter_name": "a.b"}, "Give another, such as 'a_b'"),
    ],
    ids=["no-head", "module", "name"],
)
def test_arguments_that_do_not_fit(arguments, message, untouched, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_official_checkpoint(untouched, checkpoint(tmp_path), **arguments)


def test_name_that_is_taken(tmp_path):
    model = load_official_checkpoint(SwinBackbone(swin_config()), checkpoint(tmp_path))
    with pytest.raises(ValueError, match="already; give another adapter_name"):
        load_official_checkpoint(model, checkpoint(tmp_path))


def test_configuration_given_stays_as_it_is(tmp_path):
    config = MonaConfig(bottleneck_dim=8, modules_to_save=[])
    model = load_official_checkpoint(SwinBackbone(swin_config()), checkpoint(tmp_path), config=config)
    assert (config.bottleneck_dim, model.peft_config["default"].bottleneck_dim) == (8, 64)


PROJECTION = f"{MONA}.project1.weight"
ODD = {
    "integers": lambda tensor: tensor.long(),
    "complex": lambda tensor: tensor.to(torch.complex64),
    "sparse": lambda tensor: tensor.to_sparse(),
    "no data": lambda tensor: tensor.to("meta"),
    "scalar": lambda tensor: tensor.sum(),
    "empty": lambda tensor: tensor[:0],
    "one number for all": lambda tensor: torch.zeros(1).expand(tensor.shape),
    "huge, one number for all": lambda tensor: torch.zeros(1).expand(2**20, tensor.shape[1]),
}


@pytest.mark.parametrize("change", ODD.values(), ids=ODD)
@pytest.mark.parametrize("every", [True, False])
def test_tensors_that_are_no_weights(change, every, untouched, tmp_path):
    tensors = recorded("official_mona_w7")
    names = [key for key in tensors if key.endswith(".project1.weight")] if every else [PROJECTION]
    path = checkpoint(tmp_path, **{name: change(tensors[name]) for name in names})
    with pytest.raises(ValueError, match=r"official\.pth.*project1.weight"):
        load_official_checkpoint(untouched, path)


def test_keys_that_are_no_strings(tmp_path):
    """They are no weights, and nobody asked for them."""
    path = checkpoint(tmp_path, wrapped_in=None)
    torch.save({**torch.load(path), 7: torch.zeros(1), ("a",): torch.zeros(1)}, path)
    load_official_checkpoint(SwinBackbone(swin_config()), path)


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_files(zipped, untouched, tmp_path):
    """A file is read or refused, in one way; forty damages of each kind of file, always the same."""
    path, generator = tmp_path / "official.pth", random.Random(0)
    tensors = {key: tensor[:1] for key, tensor in recorded("official_mona_w7").items()}  # fits no model
    torch.save({"state_dict": tensors}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for number in range(40):
        content = bytearray(whole)
        place = generator.randrange(min(len(content), 4000) if number % 2 else len(content))
        damage = generator.randrange(3)
        if damage == 0:
            del content[place:]
        elif damage == 1:
            content[place] ^= 1 << generator.randrange(8)
        else:
            content[place : place + 8] = generator.randbytes(8)
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"official\.pth"):
            load_official_checkpoint(untouched, path)


def test_script(tmp_path, capsys):
    SwinBackbone(swin_config()).save_pretrained(tmp_path / "model")
    arguments = [str(checkpoint(tmp_path, prefix="backbone.")), str(tmp_path / "model")]
    main([*arguments, "--output_dir", str(tmp_path / "converted"), "--load_backbone"])
    assert "converted" in capsys.readouterr().out
    base = SwinBackbone.from_pretrained(tmp_path / "converted" / "base_model")
    model = PeftModel.from_pretrained(base, tmp_path / "converted")
    assert_recorded_outputs(model.get_base_model())
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        main([str(tmp_path / "model" / "config.json"), arguments[1], "--output_dir", str(tmp_path / "none")])
    assert not (tmp_path / "none").exists()
