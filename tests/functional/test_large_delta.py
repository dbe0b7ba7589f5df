"""Half precision where delta is much larger than what it is added to: gradients stay as exact as the formula's."""

from __future__ import annotations

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from mona_peft.functional.formula import mona_formula
from scripts.benchmark.gradient_error import Case, gradient_error, scaled_mona
from tests.functional_reference import errors

GRID = (7, 6)
HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])


@pytest.mark.parametrize("ratio", [1, 10, 100])
@pytest.mark.parametrize("norm_position", ["input", "none"])
@pytest.mark.parametrize("adapter_dtype", [torch.float32, None], ids=["adapter in fp32", "adapter in half"])
@HALVES
def test_gradients_are_as_exact_as_the_formulas(dtype, adapter_dtype, norm_position, ratio):
    case = Case(dtype, adapter_dtype or dtype)
    ours, formula = (gradient_error(case, ratio, way, norm_position=norm_position) for way in ("in place", "formula"))
    assert 1e-4 < ours < 2.5 * formula


@HALVES
def test_tokens_of_large_mean(dtype):
    """Their deviation from the mean is what the norm needs, and a rounding of the whole is coarse beside it."""
    ours, formula = (gradient_error(Case(dtype, torch.float32), 0.1, way, mean=60.0) for way in ("in place", "formula"))
    assert ours < 2.5 * formula


@pytest.mark.parametrize(("ratio", "keeps_input"), [(0.1, False), (1, False), (30, True)])
@HALVES
def test_input_is_kept_where_it_has_to_be(dtype, ratio, keeps_input):
    """On ordinary ratios the output stands for it, which costs nothing."""
    mona, x = scaled_mona(16, ratio)
    mona, x = mona.float(), x.to(dtype).requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        output = mona(x + 0, (14, 14), in_place=True)
    maps = [tensor for tensor in kept if tensor.shape == x.shape]
    assert len(maps) == 1
    assert (maps[0].data_ptr() == output.data_ptr()) is not keeps_input
    assert torch.equal(maps[0], x if keeps_input else output)


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("ratio", [1, 100])
def test_under_gradient_checkpointing(ratio, use_reentrant):
    mona, x = scaled_mona(16, ratio)
    mona, x = mona.float(), x.bfloat16()

    def gradients(run):
        leaf = x.clone().requires_grad_()
        run(lambda hidden: mona(hidden * 2, (14, 14), in_place=True), leaf).float().pow(2).mean().backward()
        gradients = {"input": leaf.grad.double()}
        gradients |= {name: parameter.grad.double() for name, parameter in mona.named_parameters()}
        mona.zero_grad()
        return gradients

    plain = gradients(lambda function, leaf: function(leaf))
    again = gradients(lambda function, leaf: checkpoint(function, leaf, use_reentrant=use_reentrant))
    assert max(errors(again, plain).values()) == 0


def test_tokens_that_are_zero():
    mona, x = scaled_mona(16, 100)
    mona = mona.float()
    x = torch.cat([x[:, :20], torch.zeros_like(x[:, 20:42])], dim=1).bfloat16()
    expected = x.float() + mona_formula(x.float(), GRID, mona.weights(), mona.settings())
    hidden = x.clone()
    mona(hidden, GRID, in_place=True).float().square().mean().backward()
    torch.testing.assert_close(hidden.float(), expected, rtol=1e-2, atol=1e-2 * expected.abs().max().item())
    assert all(parameter.grad.isfinite().all() for parameter in mona.parameters())
