"""Adapters that add to a block's hidden states in place: only where nobody else sees it."""

from __future__ import annotations

import pytest
import torch
from peft import get_peft_model

from mona_peft import MonaConfig
from mona_peft.host.block import may_be_overwritten
from scripts.benchmark.models import FormulaMona
from tests.models import BACKBONES, build, images, largest_difference, outputs


def test_what_may_be_overwritten():
    x = torch.randn(2, 6, 4, requires_grad=True)
    assert may_be_overwritten(x + 1)
    assert may_be_overwritten((x + 1).unflatten(1, (2, 3)).flatten(1, 2))
    assert not may_be_overwritten(x)
    assert not may_be_overwritten(x.exp()), "exp keeps its result"
    assert not may_be_overwritten((x + 1)[:, 1:])
    assert not may_be_overwritten((x + 1).transpose(1, 2))
    assert not may_be_overwritten((x + 1)[:0])


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("training", [True, False])
def test_equals_a_host_that_adds_deltas(name, training):
    """In place or not, outputs, recorded hidden states and gradients are the same."""
    torch.manual_seed(2)
    config = MonaConfig(init_weights=False, dropout=0.0)
    model = get_peft_model(build(name), config).double().train(training)
    for module in model.modules():
        if "Drop" in type(module).__name__:
            module.eval()
    pixel_values = images().double()
    ours = outputs(model, pixel_values, output_hidden_states=True)
    ours_grads = _gradients(model, pixel_values)
    for module in model.modules():
        if type(module).__name__ == "Mona":
            module.__class__ = FormulaMona
    theirs = outputs(model, pixel_values, output_hidden_states=True)
    assert largest_difference(ours, theirs) < 1e-10
    for our, their in zip(ours_grads, _gradients(model, pixel_values), strict=True):
        torch.testing.assert_close(our, their, rtol=1e-7, atol=1e-9)
    assert torch.equal(pixel_values, images().double())


def _gradients(model, pixel_values) -> list[torch.Tensor]:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    values = model(pixel_values).to_tuple()
    tensors = [t for value in values for t in (value if isinstance(value, tuple) else (value,)) if t is not None]
    torch.manual_seed(4)
    return torch.autograd.grad(sum((tensor * torch.randn_like(tensor)).sum() for tensor in tensors), parameters)


def test_compiles_without_a_graph_break():
    model = get_peft_model(build("swin"), MonaConfig(init_weights=False, dropout=0.0)).train()
    block = model.base_model.model.encoder.layers[1].blocks[1]
    hidden = torch.randn(2, 64, 32, requires_grad=True)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    ours, expected = compiled(hidden, (8, 8))[0], block(hidden, (8, 8))[0]
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    ours, expected = (torch.autograd.grad(output.pow(2).sum(), hidden)[0] for output in (ours, expected))
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
