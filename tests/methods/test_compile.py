"""Blocks with rivals' adapters compile as one graph, to the same outputs and gradients."""

import pytest
import torch
from peft import get_peft_model

from mona_peft import AdapterConfig, BitFitConfig, CoLinConfig
from tests.models import build


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(AdapterConfig(init_weights=False, dropout=0.0), marks=pytest.mark.slow),
        CoLinConfig(init_weights=False, bottleneck_dim=20, rank=8),
        pytest.param(BitFitConfig(), marks=pytest.mark.slow),
    ],
    ids=lambda config: config.method,
)
def test_compiles_without_a_graph_break(config):
    model = get_peft_model(build("swin"), config).train()
    for module in model.modules():
        if "Drop" in type(module).__name__:
            module.eval()
    block = model.base_model.model.encoder.layers[1].blocks[0]
    hidden = torch.randn(2, 64, 32, requires_grad=True)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    ours, expected = compiled(hidden, (8, 8))[0], block(hidden, (8, 8))[0]
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    inputs = [hidden, *(parameter for parameter in block.parameters() if parameter.requires_grad)]
    ours, expected = (torch.autograd.grad(output.pow(2).sum(), inputs) for output in (ours, expected))
    for our, their in zip(ours, expected, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-4, atol=1e-4)
