"""What LoRA in PEFT does where Mona is compared with it: the column beside ours in `docs/peft_features.md`."""

from __future__ import annotations

import copy
import json
import pickle
import threading

import peft
import pytest
import torch
from packaging.version import Version
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from peft.utils.hotswap import hotswap_adapter
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForImageClassification

from tests.models import build, images, largest_difference
from tests.native_adapters import needs_native_adapters
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


@needs_native_adapters
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


@pytest.mark.skipif(Version(peft.__version__) < Version("0.20"), reason="before PEFT 0.20 nothing of it is loaded")
@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_injection(low_cpu_mem_usage):
    model = lora()
    state_dict = {key.removeprefix("base_model.model."): v for key, v in get_peft_model_state_dict(model).items()}
    injected = build("swin-classifier")
    config = LoraConfig(target_modules=["q_proj", "v_proj"])
    inject_adapter_in_model(config, injected, low_cpu_mem_usage=low_cpu_mem_usage)
    set_peft_model_state_dict(injected, dict(state_dict), low_cpu_mem_usage=low_cpu_mem_usage)
    torch.testing.assert_close(logits(injected.eval(), images()), logits(model, images()))


def test_adapter_folder_as_a_model(tmp_path):
    build("swin-classifier").save_pretrained(tmp_path / "base")
    model = lora()
    model.save_pretrained(tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": str(tmp_path / "base")}))
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "adapter").eval()
    torch.testing.assert_close(logits(loaded, images()), logits(model, images()), atol=1e-6, rtol=0)


def test_renamed_blocks_are_not_loaded(tmp_path):
    """Names that transformers does not list: a warning, and an adapter that does nothing."""
    lora().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    save_file({key.replace("encoder.layers", "stem.stage"): v for key, v in tensors.items()}, tmp_path / WEIGHTS)
    with pytest.warns(UserWarning, match="Found missing adapter keys"):
        PeftModel.from_pretrained(build("swin-classifier"), tmp_path)


def test_files_are_written_in_place(tmp_path, monkeypatch):
    """What a kill between two files leaves is of two adapters."""
    lora().save_pretrained(tmp_path)
    config = (tmp_path / "adapter_config.json").read_bytes()
    weights = (tmp_path / WEIGHTS).read_bytes()

    def killed(*args, **kwargs) -> None:
        raise KeyboardInterrupt

    other = lora(seed=3)
    other.peft_config["default"].lora_alpha = 64
    monkeypatch.setattr(LoraConfig, "save_pretrained", killed)
    with pytest.raises(KeyboardInterrupt):
        other.save_pretrained(tmp_path)
    assert (tmp_path / WEIGHTS).read_bytes() != weights
    assert (tmp_path / "adapter_config.json").read_bytes() == config


def test_two_threads():
    model = lora()
    expected = logits(model, images())
    found: list[torch.Tensor] = []
    threads = [threading.Thread(target=lambda: found.append(logits(model, images()))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert all(torch.equal(tensor, expected) for tensor in found)


def test_compiled():
    torch.compiler.reset()
    model = lora()
    expected = logits(model, images())
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(logits(compiled, images()), expected, atol=1e-5, rtol=0)


def test_exported():
    model = lora().get_base_model()
    batch = torch.export.Dim("batch", min=1, max=8)
    program = torch.export.export(model, (images(),), dynamic_shapes={"pixel_values": {0: batch}})
    with torch.no_grad():
        torch.testing.assert_close(program.module()(images(3)).logits, model(images(3)).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies(clone):
    model = lora()
    assert torch.equal(logits(clone(model), images()), logits(model, images()))
