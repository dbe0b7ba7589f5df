"""BitFit beside parametrisations of the user's own, which stay."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import get_peft_model
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from mona_peft import BitFitConfig
from tests.models import build, images


def first_linear(model: nn.Module) -> nn.Linear:
    return next(module for module in model.encoder.modules() if isinstance(module, nn.Linear))


@torch.no_grad()
def output(model: nn.Module) -> torch.Tensor:
    return model.eval()(images(1)).last_hidden_state


@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, parametrizations.spectral_norm])
@pytest.mark.parametrize("before", [True, False])
def test_unload_takes_off_its_own_alone(wrap, before):
    base = build("swin")
    linear = first_linear(base)
    if before:
        wrap(linear)
    model = get_peft_model(base, BitFitConfig(modules_to_save=[])).eval()
    if not before:
        wrap(linear)
    expected = output(base)
    duplicate = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bitfit_" in name:
                parameter.add_(1)
    assert (output(model) - expected).abs().max() > 0.1
    unloaded = model.unload()
    torch.testing.assert_close(output(unloaded), expected)
    assert parametrize.is_parametrized(linear, "weight")
    assert type(linear.bias) is nn.Parameter
    assert not parametrize.is_parametrized(linear, "bias")
    torch.testing.assert_close(output(duplicate), expected)


def test_merge_keeps_them_too():
    base = build("swin")
    parametrizations.weight_norm(first_linear(base))
    model = get_peft_model(base, BitFitConfig(modules_to_save=[]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bitfit_" in name:
                parameter.add_(0.1)
    expected = output(model)
    merged = model.merge_and_unload()
    torch.testing.assert_close(output(merged), expected)
    assert parametrize.is_parametrized(first_linear(merged), "weight")


def test_bias_that_is_parametrised_already():
    base = build("swin")
    parametrize.register_parametrization(first_linear(base), "bias", nn.Tanh())
    with pytest.raises(ValueError, match=r"bias is parametrised .* already"):
        get_peft_model(base, BitFitConfig(modules_to_save=[]))
    assert isinstance(first_linear(base).parametrizations.bias[0], nn.Tanh)
