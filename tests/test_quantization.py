"""A frozen backbone of low precision, its weights alone: int8 by torchao, 8-bit and NF4 by bitsandbytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import BitsAndBytesConfig

from mona_peft import MonaConfig
from tests.models import HEADS, build, images
from tests.test_several_adapters import logits

pytestmark = pytest.mark.quantization


def assert_trains_saves_and_loads(quantized: Callable[[], nn.Module], exact: nn.Module, folder: Path) -> None:
    base = logits(quantized(), images())
    assert 0 < (base - logits(exact, images())).abs().max() < 0.1
    model = get_peft_model(quantized(), MonaConfig(dropout=0.0, modules_to_save="task-head"))
    torch.testing.assert_close(logits(model.eval(), images()), base, atol=1e-5, rtol=0)
    model.train()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert all(type(parameter) is nn.Parameter and parameter.dtype is torch.float32 for parameter in trainable)
    optimizer = torch.optim.AdamW(trainable, lr=3e-3)
    losses = []
    for _ in range(8):
        loss = (model(images()).logits - 1).pow(2).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    expected = logits(model.eval(), images())
    assert (expected - base).abs().max() > 1e-2
    model.save_pretrained(folder)
    reloaded = PeftModel.from_pretrained(quantized(), folder).eval()
    torch.testing.assert_close(logits(reloaded, images()), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["swin-classifier", "swinv2-classifier", "upernet"])
def test_int8_of_torchao(name, tmp_path):
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    def quantized() -> nn.Module:
        model = build(name)
        backbone = model.backbone if name == "upernet" else model.base_model
        quantize_(backbone, Int8WeightOnlyConfig())
        assert any(
            "int8" in type(parameter.data).__name__.lower() or "Affine" in type(parameter.data).__name__
            for parameter in backbone.parameters()
        )
        return model

    assert_trains_saves_and_loads(quantized, build(name), tmp_path)


@pytest.mark.parametrize(
    "settings",
    [{"load_in_8bit": True}, {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}],
    ids=["8-bit", "nf4"],
)
@pytest.mark.parametrize("name", ["swin-classifier", "swinv2-classifier", "upernet"])
def test_bitsandbytes(name, settings, tmp_path):
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    exact = build(name)
    exact.save_pretrained(tmp_path / "base")
    # SwinV2's small networks of positions have inputs of more dimensions than these layers take. The list serves both
    # precisions, whatever its name says.
    small = [key for key, _ in exact.named_modules() if "continuous_position_bias_mlp." in key]
    config = BitsAndBytesConfig(**settings, llm_int8_skip_modules=[*HEADS[name], *small])

    def quantized() -> nn.Module:
        model = type(exact).from_pretrained(tmp_path / "base", quantization_config=config, device_map="cpu").eval()
        layers = [module for module in model.modules() if isinstance(module, (Linear4bit, Linear8bitLt))]
        assert layers
        for layer in layers:
            # Where the CPU can, it packs weights at the first evaluation, and then has no gradients.
            layer.support_avx512bf16_for_cpu = False
        return model

    assert_trains_saves_and_loads(quantized, exact, tmp_path / "adapter")
