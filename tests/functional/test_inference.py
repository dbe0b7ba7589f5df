"""Folded weights at inference: made once, never stale, and what an exporter sees."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

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


def load(mona):
    mona.load_state_dict({name: torch.randn_like(value) for name, value in mona.state_dict().items()})


def assign(mona):
    mona.load_state_dict({name: torch.randn_like(value) for name, value in mona.state_dict().items()}, assign=True)


def write_unseen(mona):
    mona.pw_weight.data.add_(1)
    mona.eval()


@pytest.mark.parametrize("change", [replace_parameter, write, step, load, assign, write_unseen])
def test_follows_every_change_of_the_parameters(change):
    mona, x = random_mona(16).eval(), tokens(16, GRID)
    before = mona(x, GRID)
    assert difference(mona, x) < 1e-12
    change(mona)
    assert (mona(x, GRID) - before).abs().max() > 1e-3
    assert difference(mona, x) < 1e-12


def test_is_folded_once(monkeypatch):
    mona, x = random_mona(16).eval(), tokens(16, GRID)
    with torch.no_grad():
        expected = mona(x, GRID)
        monkeypatch.setattr("mona_peft.functional.inference.fold_for_inference", None)
        assert torch.equal(mona(x, GRID), expected)
    with torch.inference_mode():
        assert torch.equal(mona(x, GRID), expected)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda mona: pickle.loads(pickle.dumps(mona))])
def test_copies_have_folded_weights_of_their_own(duplicate):
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
