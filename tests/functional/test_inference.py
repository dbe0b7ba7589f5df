"""Inference: outputs are those of the weights of this very moment, whatever wrote them, and what an exporter sees."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from mona_peft.functional.formula import mona_formula
from tests.functional_reference import random_mona, tokens

GRID = (6, 5)


@torch.no_grad()
def difference(mona, x) -> float:
    """How far the module is from the formula with the same parameters, relative to the largest value."""
    expected = mona_formula(x, GRID, mona.weights(), mona.settings())
    return ((mona(x, GRID) - expected).abs().max() / expected.abs().max()).item()


def replace_parameter(mona):
    mona.up_weight = nn.Parameter(torch.randn_like(mona.up_weight))


@torch.no_grad()
def write(mona):
    mona.dw3_bias.add_(1)


def step(mona):
    mona.train()(tokens(16, GRID), GRID).pow(2).mean().backward()
    torch.optim.SGD(mona.parameters(), lr=0.1).step()
    mona.eval()


def fused_step(mona):
    """In evaluation mode, by an optimiser that does not move version counters; Trainer's default is such a one."""
    mona(tokens(16, GRID), GRID).pow(2).mean().backward()
    torch.optim.AdamW(mona.parameters(), lr=0.1, fused=True).step()


def load(mona):
    mona.load_state_dict({name: torch.randn_like(value) for name, value in mona.state_dict().items()})


def assign(mona):
    mona.load_state_dict({name: torch.randn_like(value) for name, value in mona.state_dict().items()}, assign=True)


def write_data(mona):
    mona.pw_weight.data.add_(1)


def assign_data(mona):
    mona.pw_weight.data = torch.randn_like(mona.pw_weight)


def write_shared_memory(mona):
    """As another process would: through its own tensor over the same memory."""
    mona.share_memory()
    torch.empty(0, dtype=torch.float64).set_(mona.dw5_weight.untyped_storage()).add_(1)


def edit_vector(mona):
    vector = parameters_to_vector(mona.parameters()).detach() + 0.1
    vector_to_parameters(vector, mona.parameters())
    with torch.no_grad():
        mona(tokens(16, GRID), GRID)
    vector.mul_(1.5)


@pytest.mark.parametrize(
    "change",
    [
        replace_parameter,
        write,
        step,
        fused_step,
        load,
        assign,
        write_data,
        assign_data,
        write_shared_memory,
        edit_vector,
    ],
)
def test_follows_every_change_of_the_parameters(change):
    mona, x = random_mona(16).eval(), tokens(16, GRID)
    with torch.no_grad():
        before = mona(x, GRID)
    assert difference(mona, x) < 1e-12
    change(mona)
    with torch.no_grad():
        assert (mona(x, GRID) - before).abs().max() > 1e-3
    assert difference(mona, x) < 1e-12


@torch.no_grad()
def test_functional_call_takes_the_weights_it_is_given():
    """Temporary weights come and go at the same addresses; bit by bit the result is that of a module of its own."""
    mona, x = random_mona(16).eval(), tokens(16, GRID)
    memory = {name: torch.empty_like(parameter) for name, parameter in mona.named_parameters()}
    for factor in (1.0, 1.5, 2.0, 2.5, 3.0):
        # New tensors, of version 0, over the memory of those before.
        weights = {name: torch.empty(0, dtype=x.dtype).set_(old.data) for name, old in memory.items()}
        for name, parameter in mona.named_parameters():
            weights[name].numpy()[...] = (parameter * factor).numpy()
        assert all(weights[name].data_ptr() == memory[name].data_ptr() for name in memory)
        assert {weight._version for weight in weights.values()} == {1}  # of `set_`; the values were written unseen
        ours = functional_call(mona, weights, (x, GRID))
        scaled = copy.deepcopy(mona)
        for parameter in scaled.parameters():
            parameter.mul_(factor)
        assert torch.equal(ours, scaled(x, GRID))
        torch.testing.assert_close(ours, mona_formula(x, GRID, scaled.weights(), scaled.settings()))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda mona: pickle.loads(pickle.dumps(mona))])
def test_copies_have_weights_of_their_own(duplicate):
    mona, x = random_mona(16).eval(), tokens(16, GRID)
    mona(x, GRID)
    other = duplicate(mona)
    write(other)
    assert difference(other, x) < 1e-12
    assert difference(mona, x) < 1e-12


def test_another_precision():
    mona, x = random_mona(16).eval(), tokens(16, GRID)
    with torch.no_grad():
        expected = mona(x, GRID)
        torch.testing.assert_close(mona.float()(x.float(), GRID).double(), expected, rtol=1e-5, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(mona(x.float(), GRID).double(), expected, rtol=0.1, atol=0.1)
        torch.testing.assert_close(mona(x.float(), GRID).double(), expected, rtol=1e-5, atol=1e-5)


def test_parameters_made_in_inference_mode():
    with torch.inference_mode():
        mona, x = random_mona(16).eval(), tokens(16, GRID)
        assert difference(mona, x) < 1e-12
        mona.up_bias.add_(1)
        assert difference(mona, x) < 1e-12


@pytest.mark.parametrize("loaded", [False, True])
def test_exported_graph_holds_the_folded_form(loaded):
    mona, x = random_mona(16).eval(), tokens(16, GRID, prefix=1)
    if loaded:
        load(mona)
    program = torch.export.export(mona, (x, GRID))
    operations = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert operations.count(torch.ops.aten.conv2d.default) == 1
    torch.testing.assert_close(program.module()(x, GRID), mona(x, GRID))
