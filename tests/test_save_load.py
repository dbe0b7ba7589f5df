"""Saving and loading: what is in the file, and equal outputs afterwards, also in a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from mona_peft import MonaConfig
from tests.models import HEADED, HEADS, MODELS, build, images, largest_difference, outputs

WEIGHTS = "adapter_model.safetensors"


def trained(name: str, adapter_name: str = "default", **settings) -> PeftModel:
    """An adapted model whose every trainable weight is away from where a fresh one would be."""
    head = "task-head" if name in HEADED else None
    config = MonaConfig(**{"modules_to_save": head, "init_weights": False, **settings})
    model = get_peft_model(build(name), config, adapter_name=adapter_name)
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return model.eval()


@pytest.mark.parametrize("name", MODELS)
def test_round_trip(name, tmp_path):
    model = trained(name)
    expected = outputs(model, images())
    assert largest_difference(expected, outputs(build(name), images())) > 1e-3
    model.save_pretrained(tmp_path)
    reloaded = PeftModel.from_pretrained(build(name), tmp_path).eval()
    for ours, theirs in zip(outputs(reloaded, images()), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
    assert not any(parameter.requires_grad for parameter in reloaded.parameters())


def test_batch_norm_of_a_trained_head_is_saved(tmp_path):
    model = trained("upernet").train()
    model(images())
    model.eval().save_pretrained(tmp_path)
    reloaded = PeftModel.from_pretrained(build("upernet"), tmp_path).eval()
    for ours, theirs in zip(outputs(reloaded, images()), outputs(model, images()), strict=True):
        assert torch.equal(ours, theirs)


def test_frozen_head_in_training_mode_reloads_equal(tmp_path):
    """Batch norm that is frozen and not saved must not have drifted."""
    model = trained("upernet", modules_to_save=[]).train()
    model(images())
    model.eval().save_pretrained(tmp_path)
    reloaded = PeftModel.from_pretrained(build("upernet"), tmp_path).eval()
    for ours, theirs in zip(outputs(reloaded, images()), outputs(model, images()), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ["swin", "swin-classifier", "mask2former"])
def test_file_holds_adapters_and_heads_alone(name, tmp_path):
    trained(name, adapter_name="flowers").save_pretrained(tmp_path)
    folder = tmp_path / "flowers"
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "adapter_config.json", WEIGHTS]
    heads = tuple(f"base_model.model.{head}." for head in HEADS.get(name, []))
    keys = load_file(folder / WEIGHTS).keys()
    for key in keys:
        assert ".mona.mona_attn." in key or ".mona.mona_mlp." in key or key.startswith(heads), key
        assert "flowers" not in key
    assert any(".mona.mona_attn.down_weight" in key for key in keys)


def test_adapter_may_be_renamed_on_load(tmp_path):
    model = trained("swin", adapter_name="flowers")
    model.save_pretrained(tmp_path)
    reloaded = PeftModel.from_pretrained(build("swin"), tmp_path / "flowers", adapter_name="pets").eval()
    for ours, theirs in zip(outputs(reloaded, images()), outputs(model, images()), strict=True):
        assert torch.equal(ours, theirs)


def test_saved_twice_is_the_same_file(tmp_path):
    for folder in ("first", "second"):
        trained("swin-classifier", target_modules=["layers.1.blocks.0", "layers.0.blocks.1"]).save_pretrained(
            tmp_path / folder
        )
    for file in ("adapter_config.json", WEIGHTS):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


def test_config_round_trip(tmp_path):
    config = MonaConfig(
        bottleneck_dim=32,
        kernel_sizes=(3, 9),
        dropout=0.2,
        sites=("mlp",),
        norm_position="bottleneck",
        filter_reduction="sum",
        init_weights="paper",
        target_modules=["blocks.1", "blocks.0"],
        layers_to_transform=[0, 1],
    )
    config.save_pretrained(tmp_path)
    assert PeftConfig.from_pretrained(tmp_path) == config
    assert MonaConfig.from_pretrained(tmp_path) == config
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "MONA"


def test_default_targets_stay_open_in_the_file(tmp_path):
    """Names of blocks differ between versions of transformers, so the file names none unless asked to."""
    trained("swin").save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"] is None


FRESH_PROCESS = """
import sys
import torch
import mona_peft
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification

torch.set_num_threads(1)
base, adapter, record = sys.argv[1:]
model = PeftModel.from_pretrained(AutoModelForImageClassification.from_pretrained(base), adapter).eval()
record = load_file(record)
with torch.no_grad():
    torch.testing.assert_close(model(record["images"]).logits, record["logits"], atol=1e-6, rtol=0)
print("equal")
"""


@pytest.mark.parametrize("name", ["swin-classifier", "swinv2-classifier"])
def test_fresh_process_gives_equal_outputs(name, tmp_path):
    build(name).save_pretrained(tmp_path / "base")
    model = trained(name)
    model.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        logits = model(images()).logits
    save_file({"images": images(), "logits": logits}, tmp_path / "record.safetensors")
    arguments = [str(tmp_path / part) for part in ("base", "adapter", "record.safetensors")]
    result = subprocess.run([sys.executable, "-c", FRESH_PROCESS, *arguments], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "equal"
