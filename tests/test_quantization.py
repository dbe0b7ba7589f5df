"""A frozen backbone of low precision, its weights alone: int8 by torchao, 8-bit and NF4 by bitsandbytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import BitsAndBytesConfig, SwinConfig, SwinForImageClassification

from mona_peft import MonaConfig
from tests.models import HEADS, TWO_STAGES, build, images
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


def assert_works_with_bitsandbytes(exact: nn.Module, settings: dict, kept: list[str], folder: Path) -> None:
    import bitsandbytes

    exact.save_pretrained(folder / "base")
    # The one list serves both precisions, whatever its name says.
    config = BitsAndBytesConfig(**settings, llm_int8_skip_modules=kept)

    def quantized() -> nn.Module:
        model = type(exact).from_pretrained(folder / "base", quantization_config=config, device_map="cpu").eval()
        layers = (bitsandbytes.nn.Linear8bitLt, bitsandbytes.nn.Linear4bit)
        assert any(isinstance(module, layers) for module in model.modules())
        return model

    assert_trains_saves_and_loads(quantized, exact, folder / "adapter")


@pytest.mark.parametrize("name", ["swin-classifier", "swinv2-classifier", "upernet"])
def test_8_bit_of_bitsandbytes(name, tmp_path):
    model = build(name)
    # SwinV2's small networks of positions have inputs of more dimensions than these layers take.
    small = [key for key, _ in model.named_modules() if "continuous_position_bias_mlp." in key]
    assert_works_with_bitsandbytes(model, {"load_in_8bit": True}, [*HEADS[name], *small], tmp_path)


def test_nf4_of_bitsandbytes(tmp_path):
    torch.manual_seed(0)
    # Its kernels for a CPU want widths in multiples of 64.
    model = SwinForImageClassification(SwinConfig(**TWO_STAGES | {"embed_dim": 64})).eval()
    settings = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    assert_works_with_bitsandbytes(model, settings, ["classifier"], tmp_path)
