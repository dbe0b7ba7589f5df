"""Half precision bases and autocast."""

from __future__ import annotations

import pytest
import torch
from peft import get_peft_model

from mona_peft import MonaConfig
from tests.models import build, images

HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])


def last_hidden_state(model, pixel_values):
    with torch.no_grad():
        return model(pixel_values).last_hidden_state


def relative_error(output, exact):
    return ((output.float() - exact).norm() / exact.norm()).item()


@HALVES
@pytest.mark.parametrize("name", ["swin", "swinv2"])
def test_half_precision_base(name, dtype):
    """Little is lost on top of what the base loses by itself, and the adapters stay in float32."""
    rounding = relative_error(
        last_hidden_state(build(name).to(dtype), images().to(dtype)), last_hidden_state(build(name), images())
    )
    exact = get_peft_model(build(name), MonaConfig(init_weights=False)).eval()
    model = get_peft_model(build(name).to(dtype), MonaConfig(init_weights=False)).eval()
    weights = {key: value for key, value in exact.state_dict().items() if ".mona_" in key}
    model.load_state_dict(weights, strict=False)
    adapters = [model.get_parameter(key) for key in weights]
    assert all(parameter.dtype == torch.float32 for parameter in adapters)

    output = last_hidden_state(model, images().to(dtype))
    assert output.dtype == dtype
    assert 0 < relative_error(output, last_hidden_state(exact, images())) < 2 * rounding
    model.train()(images().to(dtype)).last_hidden_state.float().pow(2).mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in adapters)


@HALVES
def test_autocast(dtype):
    model = get_peft_model(build("swin"), MonaConfig(init_weights=False)).eval()
    exact = last_hidden_state(model, images())
    with torch.autocast("cpu", dtype):
        output = last_hidden_state(model, images())
        model.train()(images()).last_hidden_state.float().pow(2).mean().backward()
    assert 0 < relative_error(output, exact) < (0.05 if dtype == torch.bfloat16 else 0.01)
    for key, parameter in model.named_parameters():
        if ".mona_" in key:
            assert parameter.grad.isfinite().all(), key


def test_double_precision():
    model = get_peft_model(build("swin").double(), MonaConfig(init_weights=False))
    assert model.train()(images().double()).last_hidden_state.dtype == torch.float64


def test_adapters_in_the_dtype_of_the_base_on_request():
    model = get_peft_model(build("swin").bfloat16(), MonaConfig(init_weights=False), autocast_adapter_dtype=False)
    assert all(p.dtype == torch.bfloat16 for p in model.parameters())
    assert last_hidden_state(model.eval(), images().bfloat16()).isfinite().all()


@pytest.mark.parametrize("name", ["swin", "swinv2"])
def test_dropout_acts_in_training_alone(name):
    model = get_peft_model(build(name), MonaConfig(init_weights=False, dropout=0.5))
    assert not any(module.training for module in model.base_model.model.modules()), "an evaluated model stays so"
    assert torch.equal(last_hidden_state(model, images()), last_hidden_state(model, images()))
    model.train()
    for module in model.modules():
        if "Drop" in type(module).__name__:
            module.eval()  # the backbone's own noise
    assert not torch.equal(last_hidden_state(model, images()), last_hidden_state(model, images()))
