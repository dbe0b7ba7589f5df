"""What LoRA in PEFT does where Mona is compared with it: the column beside ours in `docs/peft_features.md`."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.hotswap import hotswap_adapter
from safetensors.torch import load_file, save_file
from torch import nn

from tests.models import build, images, largest_difference
from tests.test_several_adapters import logits

WEIGHTS = "adapter_model.safetensors"


def lora(name: str = "swin-classifier", seed: int = 0, modules_to_save: list[str] | None = None) -> PeftModel:
    model = build(name)
    torch.manual_seed(seed)
    config = LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False, modules_to_save=modules_to_save)
    return get_peft_model(model, config).eval()


def two() -> PeftModel:
    model = lora()
    torch.manual_seed(1)
    model.add_adapter("second", LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    return model.eval()


def test_several_adapters():
    model = two()
    first = logits(model, images())
    model.set_adapter("second")
    assert largest_difference([logits(model, images())], [first]) > 1e-4
    model.delete_adapter("second")
    model.set_adapter("default")
    torch.testing.assert_close(logits(model, images()), first)


@pytest.mark.parametrize("name", ["swin-classifier", "upernet"])
def test_no_adapter_for_each_sample(name):
    """LoRA's layers see windows, of which an image has many."""
    with pytest.raises(ValueError, match="Length of `adapter_names` should be the same as the number of inputs"):
        lora(name)(images(), adapter_names=["default", "__base__"])


def test_weighted_adapters_become_one():
    model = two()
    model.add_weighted_adapter(["default", "second"], [0.5, 0.5], "mean", combination_type="cat")
    model.set_adapter("mean")
    assert logits(model, images()).isfinite().all()


def test_merging():
    model = lora()
    expected = logits(model, images())
    torch.testing.assert_close(logits(model.merge_and_unload(), images()), expected, atol=1e-5, rtol=0)


def test_hotswap(tmp_path):
    other = lora(seed=3)
    other.save_pretrained(tmp_path)
    model = lora()
    hotswap_adapter(model, str(tmp_path), "default", torch_device="cpu")
    torch.testing.assert_close(logits(model, images()), logits(other, images()), atol=1e-6, rtol=0)


def test_native_adapters_keep_their_head_off_after_enabling():
    """transformers' enable_adapters() forgets trained heads."""
    model = build("swin-classifier")
    model.add_adapter(LoraConfig(target_modules=["q_proj"], modules_to_save=["classifier"]))
    nn.init.ones_(model.classifier.modules_to_save["default"].weight)
    expected = logits(model.eval(), images())
    model.disable_adapters()
    model.enable_adapters()
    assert largest_difference([logits(model, images())], [expected]) > 1e-3


def test_a_damaged_file_is_loaded_without_a_word(tmp_path):
    lora().save_pretrained(tmp_path)
    content = bytearray((tmp_path / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (tmp_path / WEIGHTS).write_bytes(content)
    PeftModel.from_pretrained(build("swin-classifier"), tmp_path)


def test_an_adapter_of_another_backbone_is_loaded_in_part(tmp_path):
    """A warning of missing keys, and blocks that stay untrained."""
    lora().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    save_file({key: tensor for key, tensor in tensors.items() if "layers.1" not in key}, tmp_path / WEIGHTS)
    with pytest.warns(UserWarning, match="Found missing adapter keys"):
        PeftModel.from_pretrained(build("swin-classifier"), tmp_path)
