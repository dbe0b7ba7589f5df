"""A frozen backbone in int8 (weights alone, by torchao): loads, trains, saves, loads."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn

from mona_peft import MonaConfig
from tests.models import build, images
from tests.test_several_adapters import logits

pytestmark = pytest.mark.quantization


def quantized(name: str) -> nn.Module:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    model = build(name)
    backbone = model.backbone if name == "upernet" else model.base_model
    quantize_(backbone, Int8WeightOnlyConfig())
    assert any(
        "int8" in type(parameter.data).__name__.lower() or "Affine" in type(parameter.data).__name__
        for parameter in backbone.parameters()
    )
    return model


@pytest.mark.parametrize("name", ["swin-classifier", "swinv2-classifier", "upernet"])
def test_trains_saves_and_loads(name, tmp_path):
    base, exact = logits(quantized(name), images()), logits(build(name), images())
    assert 0 < (base - exact).abs().max() < 0.1
    model = get_peft_model(quantized(name), MonaConfig(dropout=0.0, modules_to_save="task-head")).train()
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
    model.save_pretrained(tmp_path)
    reloaded = PeftModel.from_pretrained(quantized(name), tmp_path).eval()
    torch.testing.assert_close(logits(reloaded, images()), expected, atol=1e-5, rtol=0)
