"""Composed models: the default adapts the vision backbone and nothing else, and the rest is the task head."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn

from mona_peft import MonaConfig
from mona_peft.host.block import AdaptedBlock
from tests.backbones import image
from tests.composed import COMPOSED, build
from tests.test_backbones import tensors


@torch.no_grad()
def outputs(model: nn.Module, name: str) -> list[torch.Tensor]:
    row = COMPOSED[name]
    channels = 4 if name == "vitmatte" else 3  # with the trimap
    pixel_values = torch.cat([image(row.image), image(row.image, seed=2)], dim=1)[:, :channels]
    return [tensor.float() for tensor in tensors(model(pixel_values=pixel_values, **row.inputs()))]


def is_same(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> bool:
    return all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("name", COMPOSED)
def test_the_vision_backbone_alone_is_adapted(name):
    row = COMPOSED[name]
    base = outputs(build(name).requires_grad_(False), name)
    model = get_peft_model(build(name), MonaConfig(modules_to_save=[])).eval()
    blocks = [key for key, module in model.base_model.model.named_modules() if isinstance(module, AdaptedBlock)]
    assert len(blocks) == row.blocks
    assert all(key.startswith(f"{row.backbone}.") for key in blocks), blocks
    for key, parameter in model.named_parameters():
        assert parameter.requires_grad == (".mona.mona_" in key), key
    assert is_same(outputs(model, name), base)

    changed = get_peft_model(build(name), MonaConfig(modules_to_save=[], init_weights=False)).eval()
    assert not is_same(outputs(changed, name), base)


@pytest.mark.parametrize("name", COMPOSED)
def test_the_rest_is_the_task_head(name):
    row = COMPOSED[name]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*stay frozen: they lie directly in a larger module")
        model = get_peft_model(build(name), MonaConfig(modules_to_save="task-head"))
    heads = model.peft_config["default"].modules_to_save
    assert set(row.heads) <= set(heads), heads
    assert not [head for head in heads if head.startswith(row.backbone)]
    trained = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    for head in row.heads:
        assert any(f"{head}.modules_to_save." in key for key in trained), head
    assert not [key for key in trained if f".{row.backbone}." in key and ".mona.mona_" not in key]


@pytest.mark.parametrize("name", ["rt-detr-v2", "dpt", "grounding-dino"])
@pytest.mark.filterwarnings("ignore:.*stay frozen")
def test_two_adapters_with_heads_of_names_that_end_alike(name, tmp_path):
    model = get_peft_model(build(name), MonaConfig(bottleneck_dim=4, modules_to_save="task-head", init_weights=False))
    model.add_adapter("two", MonaConfig(bottleneck_dim=3, modules_to_save="task-head", init_weights=False))
    model.set_adapter("two")
    assert model.peft_config["two"].modules_to_save == model.peft_config["default"].modules_to_save
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(build(name), tmp_path / "two", adapter_name="two").state_dict()
    weights = {key: tensor for key, tensor in model.state_dict().items() if ".two." in key}
    assert weights.keys() == {key for key in loaded if ".two." in key}
    assert all(torch.equal(tensor, loaded[key]) for key, tensor in weights.items())


@pytest.mark.parametrize("name", ["dpt", "dpt-dinov2"])
def test_a_head_whose_name_is_the_ending_of_one_inside_it(name, tmp_path):
    """Adapters of DPT were saved with `head`, which PEFT takes for `head.head` too; the names in the file are the same.

    But the head in those files was the one before the training, and nothing in a file tells.
    """
    model = get_peft_model(build(name), MonaConfig(modules_to_save="task-head", init_weights=False)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    model.save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    config = json.loads(path.read_text())
    assert config["modules_to_save"] == ["neck", "head.head"]
    path.write_text(json.dumps(config | {"modules_to_save": ["neck", "head"]}))
    with pytest.warns(UserWarning, match=r"saved of \['head'\] is as it was before the training"):
        loaded = PeftModel.from_pretrained(build(name), tmp_path).eval()
    assert is_same(outputs(loaded, name), outputs(model, name))

    by_name = get_peft_model(build(name), MonaConfig(modules_to_save=["neck", "head"]))
    trained = [{key for key, p in m.named_parameters() if p.requires_grad} for m in (model, by_name)]
    assert trained[0] == trained[1]


def test_second_head_inside_another_is_refused():
    model = get_peft_model(build("rt-detr-v2"), MonaConfig(modules_to_save=["model.decoder", "class_embed.0"]))
    with pytest.raises(ValueError, match=r"inside it, .*class_embed.0.*Give longer endings"):
        model.add_adapter("two", MonaConfig(modules_to_save=["model.decoder", "class_embed.0"]))
