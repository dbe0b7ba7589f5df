"""A method in one file, and a backbone in one row, from outside the package."""

from __future__ import annotations

import copy
import importlib.util
import pickle
import sys

import pytest
import torch
from peft import PeftModel, PeftType, get_peft_model
from torch import nn

from mona_peft import BlockAnatomy, MonaConfig, ResidualAdapterConfig, register_block, register_method
from mona_peft.blocks import KNOWN_BLOCKS
from tests.models import build, images, largest_difference, outputs

METHOD = '''
from dataclasses import dataclass

import torch
from torch import nn

from mona_peft import ResidualAdapter, ResidualAdapterConfig, register_method


class Shift(ResidualAdapter):
    """Adds a learnt vector to every token."""

    def __init__(self, dim, scale):
        super().__init__()
        self.scale = scale
        self.shift = nn.Parameter(torch.empty(dim))

    def reset_parameters(self, init_weights):
        nn.init.normal_(self.shift) if init_weights is False else nn.init.zeros_(self.shift)

    def forward(self, hidden_states, grid):
        return (self.scale * self.shift).expand_as(hidden_states)


@dataclass
class ShiftConfig(ResidualAdapterConfig):
    """Configuration of Shift."""

    scale: float = 1.0

    method = "shift"
    title = "Shift"

    def make_adapter(self, dim):
        return Shift(dim, self.scale)


ShiftModel = register_method(ShiftConfig)
'''


@pytest.fixture(scope="module")
def method(tmp_path_factory):
    """A stranger's module with a method of their own."""
    file = tmp_path_factory.mktemp("method") / "shift_method.py"
    file.write_text(METHOD)
    spec = importlib.util.spec_from_file_location("shift_method", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_method_in_one_file(method, tmp_path):
    base = outputs(build("swin-classifier"), images())
    model = get_peft_model(build("swin-classifier"), method.ShiftConfig(scale=2.0, modules_to_save="task-head"))
    assert largest_difference(outputs(model.eval(), images()), base) == 0
    model = get_peft_model(build("swin-classifier"), method.ShiftConfig(init_weights=False, modules_to_save=[])).eval()
    expected = outputs(model, images())
    assert largest_difference(expected, base) > 1e-3
    assert model.peft_config["default"].peft_type == PeftType("SHIFT")

    model.save_pretrained(tmp_path)
    reloaded = PeftModel.from_pretrained(build("swin-classifier"), tmp_path)
    for same in (reloaded, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert largest_difference(outputs(same.eval(), images()), expected) == 0
    assert largest_difference(outputs(model.unload(), images()), base) == 0


def test_registered_twice_is_the_same_tuner(method):
    assert register_method(method.ShiftConfig) is method.ShiftModel


class Nameless(ResidualAdapterConfig):
    """Names no method."""

    method = "No Name"


def test_method_without_a_name():
    with pytest.raises(ValueError, match=r"Nameless\.method='No Name': give a name in lower case"):
        register_method(Nameless)


class StrangersBlock(nn.Module):
    """A block of a backbone that nobody knows, with its norm further inside."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.attend = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim))
        self.norm = nn.LayerNorm(dim)
        self.feed = nn.Linear(dim, dim)

    def forward(self, x, size):
        h = x + self.attend(x)
        return h + self.feed(self.norm(h))


class StrangersBackbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(StrangersBlock(8) for _ in range(2))

    def forward(self, x, size):
        for block in self.blocks:
            x = block(x, size)
        return x


def test_backbone_in_one_row(monkeypatch):
    monkeypatch.setattr("mona_peft.blocks.lookup.KNOWN_BLOCKS", dict(KNOWN_BLOCKS))
    anatomy = BlockAnatomy(mlp_entry="norm", norm="attend.0", grid_arguments=("size",), mlp_branch=("feed",))
    register_block("StrangersBlock", anatomy)
    torch.manual_seed(0)
    model = StrangersBackbone().eval()
    x, size = torch.randn(2, 12, 8), (3, 4)
    before = model(x, size)
    adapted = get_peft_model(model, MonaConfig(bottleneck_dim=4, init_weights=False, modules_to_save=[])).eval()

    expected = x
    for block in model.blocks:
        attention, mlp = (layer["default"] for layer in (block.mona.mona_attn, block.mona.mona_mlp))
        h = expected + block.attend(expected)
        h = h + attention(h, size)
        h = h + block.feed(block.norm(h))
        expected = h + mlp(h, size)
    assert largest_difference([expected], [before]) > 1e-3
    torch.testing.assert_close(adapted(x, size), expected)


def test_adapters_meet_direct_children():
    with pytest.raises(ValueError, match=r"\['mlp.norm'\]: only `norm` may lie further inside"):
        BlockAnatomy(mlp_entry="mlp.norm", norm="norm", grid_arguments=("size",))
