"""The places beside Mona's: on the output of each branch, and parallel to the MLP. Each against a naive block."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from peft import get_peft_model
from torch import nn
from transformers import ConvNextConfig, ConvNextModel

from mona_peft import AdapterConfig, AdaptFormerConfig, LoRandConfig, register_block
from mona_peft.blocks import KNOWN_BLOCKS, SITES, anatomy_of
from mona_peft.host.placement import OnBranch
from mona_peft.integration.selection import known_blocks
from tests.backbones import BACKBONES, image
from tests.backbones import build as build_backbone
from tests.models import build, images, outputs
from tests.test_backbones import adapted_blocks, calls, first
from tests.test_placement import BLOCKS, DIM, GRID, attention_half
from tests.tiny_configs import CONVNEXT


def adapted(stock: nn.Module, config) -> nn.Module:
    holder = nn.ModuleDict({"block": copy.deepcopy(stock)})
    return get_peft_model(holder, config).eval().base_model.model["block"]


def on_branch(stock: nn.Module, name: str, layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """`h = x + a + f1(a)`, `out = h + m + f2(m)`."""
    branch = attention_half(stock, name, x) - x
    for adapter in layer.houlsby_attn.values():
        branch = branch + adapter(branch)
    hidden = x + branch
    branch = BLOCKS[name][1](stock, hidden)
    for adapter in layer.houlsby_mlp.values():
        branch = branch + adapter(branch)
    return hidden + branch


def beside_mlp(stock: nn.Module, name: str, layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """`out = h + m + f(h)`."""
    hidden = attention_half(stock, name, x)
    return hidden + BLOCKS[name][1](stock, hidden) + layer.adaptformer_mlp["default"](hidden)


@pytest.mark.parametrize(
    ("config", "naive"),
    [
        (AdapterConfig(init_weights=False), on_branch),
        (AdapterConfig(init_weights=False, sites="attention"), on_branch),
        (AdapterConfig(init_weights=False, sites="mlp", recompute_mlp=True, recompute_attention=True), on_branch),
        (AdaptFormerConfig(init_weights=False), beside_mlp),
    ],
    ids=["adapter", "adapter-attention", "adapter-mlp", "adaptformer"],
)
@pytest.mark.parametrize("name", BLOCKS)
def test_block_equals_naive_block(name, config, naive):
    """The map is padded to windows inside the block, and the windows are shifted."""
    stock = BLOCKS[name][0]().requires_grad_(False).eval()
    block = adapted(stock, config)
    layer = getattr(block, block.child_name)
    x = torch.randn(2, GRID[0] * GRID[1], DIM, requires_grad=True)
    ours, theirs = block(x, GRID)[0], naive(stock, name, layer, x)
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)
    assert (ours - stock(x, GRID)[0]).abs().max() > 1e-3, "the adapter must change the output"

    cotangent, inputs = torch.randn_like(ours), [x, *layer.parameters()]
    gradients = (torch.autograd.grad((output * cotangent).sum(), inputs) for output in (ours, theirs))
    for our, their in zip(*gradients, strict=True):
        torch.testing.assert_close(our, their, atol=2e-5, rtol=1e-4)
        assert torch.count_nonzero(our) > 0


class Dropped(nn.Module):
    """Stochastic depth that drops the branch of every sample."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 0


def test_stochastic_depth_drops_the_adapter_of_a_branch_but_not_the_one_beside():
    stock = BLOCKS["swinv2"][0]().eval()  # where both branches have it
    stock.drop_path = Dropped()
    x = torch.randn(2, GRID[0] * GRID[1], DIM)
    assert torch.equal(adapted(stock, LoRandConfig(init_weights=False))(x, GRID)[0], x)
    block = adapted(stock, AdaptFormerConfig(init_weights=False))
    torch.testing.assert_close(block(x, GRID)[0], x + block.adaptformer.adaptformer_mlp["default"](x))


@pytest.mark.parametrize("config_cls", [AdapterConfig, AdaptFormerConfig, LoRandConfig])
@pytest.mark.parametrize("name", ["swin-classifier", "swinv2-classifier"])
def test_an_adapter_for_each_sample(name, config_cls):
    """Adapters on the attention's output see windows, of which each image has several."""
    model = build(name)
    torch.manual_seed(1)
    model = get_peft_model(model, config_cls(init_weights=False, modules_to_save=[]))
    model.add_adapter("other", config_cls(init_weights=False, modules_to_save=[]))
    model.eval()
    batch = images(3)
    with torch.no_grad():
        mixed = model(batch, adapter_names=["other", "__base__", "default"]).logits
        with model.disable_adapter():
            base = model(batch).logits
        model.set_adapter("default")
        default = model(batch).logits
        model.set_adapter("other")
        other = model(batch).logits
    assert (default - other).abs().max() > 1e-4
    assert (default - base).abs().max() > 1e-4
    torch.testing.assert_close(mixed, torch.stack([other[0], base[1], default[2]]), atol=1e-6, rtol=1e-5)
    with pytest.raises(ValueError, match="should be the same as the number of inputs, but got 2 and 3"):
        model(batch, adapter_names=["other", "default"])


def test_a_family_whose_branches_are_not_known_is_refused_until_they_are(monkeypatch):
    row = BACKBONES["focalnet"]
    model, pixel_values = row.make().eval(), image(row.image)
    before = outputs(model, pixel_values)
    with pytest.raises(
        ValueError, match=r"of FocalNetLayer it is not known where attention and mlp ends.*register_block"
    ):
        get_peft_model(model, AdapterConfig())
    for ours, theirs in zip(outputs(model, pixel_values), before, strict=True):
        assert torch.equal(ours, theirs)

    anatomy = KNOWN_BLOCKS["FocalNetLayer"]
    monkeypatch.setitem(KNOWN_BLOCKS, "FocalNetLayer", anatomy)  # puts the row back afterwards
    register_block("FocalNetLayer", replace(anatomy, attention_branch="modulation", mlp_branch=("norm2", "mlp")))
    adapted_model = get_peft_model(model, AdapterConfig(init_weights=False)).eval()
    assert max((a - b).abs().max() for a, b in zip(outputs(adapted_model, pixel_values), before, strict=True)) > 1e-3


@pytest.mark.parametrize("config", [AdapterConfig(), AdaptFormerConfig()], ids=["adapter", "adaptformer"])
def test_a_block_with_one_residual_has_no_place(config):
    with pytest.raises(ValueError, match=r"not known where|one residual each, .* are none"):
        get_peft_model(ConvNextModel(ConvNextConfig(**CONVNEXT)), config)


FAMILIES = [name for name, row in BACKBONES.items() if row.naive.attention is not None]


def has_known_branches(name: str) -> bool:
    model = build_backbone(name)
    return all(OnBranch.sites_of(anatomy_of(model.get_submodule(block))) == SITES for block in known_blocks(model))


BRANCHES_KNOWN = [name for name in FAMILIES if has_known_branches(name)]


def block_calls(name: str, config_cls: type) -> Iterator[tuple]:
    """Each adapted block of a backbone, its grid, and the arguments with which it is called for an image."""
    row = BACKBONES[name]
    model = get_peft_model(build_backbone(name), config_cls(init_weights=False, modules_to_save=[])).eval()
    for block, grid, call in zip(
        adapted_blocks(model), row.grids(row.image), calls(model, row, row.image), strict=True
    ):
        yield block, grid, *call


@pytest.mark.parametrize("name", FAMILIES)
def test_beside_the_mlp_in_every_family(name):
    row = BACKBONES[name]
    for block, grid, x, args, kwargs in block_calls(name, AdaptFormerConfig):
        hidden = row.naive.attention(block, x, *args, **kwargs)
        delta = block.adaptformer.adaptformer_mlp["default"](row.naive.tokens(hidden, grid, block))
        out = hidden + row.naive.mlp(block, hidden, grid) + row.naive.untokens(delta, grid, block)
        ours = first(block(x, *args, **kwargs))
        torch.testing.assert_close(ours, row.naive.finish(block, out, grid), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", BRANCHES_KNOWN)
def test_on_the_branches_in_every_family_where_they_are_known(name):
    row = BACKBONES[name]
    for block, grid, x, args, kwargs in block_calls(name, AdapterConfig):
        branch = row.naive.attention(block, x, *args, **kwargs) - x
        hidden = x + branch + block.houlsby.houlsby_attn["default"](branch)
        branch = row.naive.mlp(block, hidden, grid)
        ours = first(block(x, *args, **kwargs))
        expected = hidden + branch + block.houlsby.houlsby_mlp["default"](branch)
        torch.testing.assert_close(ours, expected, atol=2e-5, rtol=1e-5)


def test_families_with_known_branches():
    assert BRANCHES_KNOWN[:4] == ["swin", "swinv2", "maskformer-swin", "donut-swin"]
    assert {"vit", "deit", "ijepa", "dinov2", "dinov3-vit", "clip", "siglip"} <= set(BRANCHES_KNOWN)
