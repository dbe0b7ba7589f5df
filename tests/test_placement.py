"""Where the adapters stand: against a naive block put together in the test from the block's own submodules."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import get_peft_model
from torch import nn
from transformers import DonutSwinConfig, MaskFormerSwinConfig, SwinBackbone, SwinConfig, Swinv2Config
from transformers.models.donut.modeling_donut_swin import DonutSwinLayer
from transformers.models.maskformer.modeling_maskformer_swin import MaskFormerSwinLayer
from transformers.models.swin.modeling_swin import SwinLayer
from transformers.models.swinv2.modeling_swinv2 import Swinv2Layer

from mona_peft import MonaConfig
from tests.models import FEATURES, TWO_STAGES, build, images, outputs

NOISE = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
DIM, GRID = 16, (6, 10)  # not a multiple of the window of 4: padded inside; not square
ARGUMENTS = {"dim": DIM, "input_resolution": (16, 16), "num_heads": 2, "shift_size": 2}


def mlp_before_norm(block: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    normed = block.layernorm_after(hidden)
    mlp = block.mlp(normed) if hasattr(block, "mlp") else block.output(block.intermediate(normed))
    return block.dropout(mlp) if hasattr(block, "mlp") and hasattr(block, "dropout") else mlp


def norm_after_mlp(block: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    return block.drop_path(block.layernorm_after(block.output(block.intermediate(hidden))))


BLOCKS = {
    "swin": (lambda: SwinLayer(SwinConfig(**TWO_STAGES, **NOISE), drop_path_rate=0.3, **ARGUMENTS), mlp_before_norm),
    "swinv2": (
        lambda: Swinv2Layer(Swinv2Config(**TWO_STAGES, **NOISE), drop_path_rate=0.3, **ARGUMENTS),
        norm_after_mlp,
    ),
    "maskformer-swin": (
        lambda: MaskFormerSwinLayer(MaskFormerSwinConfig(**TWO_STAGES, **NOISE), drop_path_rate=0.3, **ARGUMENTS),
        mlp_before_norm,
    ),
    "donut-swin": (
        lambda: DonutSwinLayer(DonutSwinConfig(**TWO_STAGES, **NOISE), drop_path_rate=0.3, **ARGUMENTS),
        mlp_before_norm,
    ),
}
MLP_ENTRY = {"swinv2": "intermediate"}


class _Stop(Exception):
    pass


def attention_half(block: nn.Module, name: str, x: torch.Tensor) -> torch.Tensor:
    """The tensor after the attention residual: what enters the MLP branch of the stock block."""

    def stop(module, args):
        raise _Stop(args[0])

    handle = block.get_submodule(MLP_ENTRY.get(name, "layernorm_after")).register_forward_pre_hook(stop)
    try:
        block(x, GRID)
    except _Stop as stopped:
        return stopped.args[0]
    finally:
        handle.remove()
    raise AssertionError("the MLP branch was not reached")


def naive_block(block: nn.Module, mlp, name: str, mona: nn.Module, x: torch.Tensor, sites) -> torch.Tensor:
    hidden = attention_half(block, name, x)
    if "attention" in sites:
        hidden = hidden + mona.mona_attn["default"](hidden, GRID)
    hidden = hidden + mlp(block, hidden)
    if "mlp" in sites:
        hidden = hidden + mona.mona_mlp["default"](hidden, GRID)
    return hidden


@pytest.mark.parametrize("sites", [("attention", "mlp"), ("attention",), ("mlp",)], ids="-".join)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", BLOCKS)
def test_block_equals_naive_block(name, training, sites):
    make_block, mlp = BLOCKS[name]
    stock = make_block().requires_grad_(False).train(training)
    holder = get_peft_model(
        nn.ModuleDict({"block": copy.deepcopy(stock)}), MonaConfig(init_weights=False, sites=sites)
    ).train(training)
    adapted = holder.base_model.model["block"]
    x = torch.randn(2, GRID[0] * GRID[1], DIM)

    x_ours, x_naive = x.clone().requires_grad_(), x.clone().requires_grad_()
    torch.manual_seed(3)
    ours = adapted(x_ours, GRID)[0]
    torch.manual_seed(3)
    naive = naive_block(stock, mlp, name, adapted.mona, x_naive, sites)
    torch.testing.assert_close(ours, naive, atol=1e-5, rtol=0)

    plain = stock.eval()(x, GRID)[0]
    assert (plain - adapted.eval()(x, GRID)[0]).abs().max() > 1e-3, "the adapter must change the output"

    cotangent = torch.randn_like(ours)
    parameters = list(adapted.mona.parameters())
    ours_gradients = torch.autograd.grad((ours * cotangent).sum(), [x_ours, *parameters])
    naive_gradients = torch.autograd.grad((naive * cotangent).sum(), [x_naive, *parameters])
    for a, b in zip(ours_gradients, naive_gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
        assert torch.count_nonzero(a) > 0


@pytest.mark.parametrize("name", ["swin-backbone", "swinv2-backbone", "maskformer-swin"])
def test_feature_maps_hold_what_follows_the_second_mona(name):
    model = get_peft_model(build(name), MonaConfig(init_weights=False)).eval()
    last_blocks = [stage.blocks[-1] for stage in encoder_of(model).layers]
    seen = []
    for block in last_blocks:
        block.register_forward_hook(lambda module, args, out: seen.append(out[0]))
    with torch.no_grad():
        feature_maps = model(images()).feature_maps
    norms = output_norms(model.base_model.model)
    assert len(feature_maps) == len(seen) == 2
    for feature_map, tokens, norm in zip(feature_maps, seen, norms, strict=True):
        expected = norm(tokens).transpose(1, 2).reshape(feature_map.shape)
        torch.testing.assert_close(feature_map, expected, atol=1e-5, rtol=0)


def output_norms(backbone: nn.Module) -> list[nn.Module]:
    norms = getattr(backbone, "hidden_states_norms", None)
    if norms is None:  # SwinV2 has none
        return [nn.Identity(), nn.Identity()]
    return list(norms.values() if isinstance(norms, nn.ModuleDict) else norms)


def encoder_of(model: nn.Module) -> nn.Module:
    return next(module for name, module in model.named_modules() if name.endswith(".encoder"))


@pytest.mark.parametrize("name", ["swin", "swinv2", "donut-swin"])
def test_hidden_states_hold_what_follows_the_second_mona(name):
    """What the very last Mona adds shows in the last hidden state and in no earlier one."""
    model = get_peft_model(build(name), MonaConfig(init_weights=False)).eval()
    with torch.no_grad():
        before = model(images(), output_hidden_states=True)
        last_block = encoder_of(model).layers[-1].blocks[-1]
        last_block.mona.mona_mlp["default"].up_bias.add_(1.0)
        after = model(images(), output_hidden_states=True)
    torch.testing.assert_close(
        after.hidden_states[-1] - before.hidden_states[-1], torch.ones_like(after.hidden_states[-1]), atol=1e-5, rtol=0
    )
    for a, b in zip(before.hidden_states[:-1], after.hidden_states[:-1], strict=True):
        assert torch.equal(a, b)


def test_non_square_images_of_several_sizes_in_any_order():
    """What one image size leaves behind must not reach the next."""
    torch.manual_seed(0)
    model = get_peft_model(SwinBackbone(SwinConfig(**TWO_STAGES, **FEATURES)), MonaConfig(init_weights=False)).eval()
    sizes = [(64, 96), (96, 64), (52, 64)]
    alone = [outputs(copy.deepcopy(model), images(1, *size)) for size in sizes]
    for order in ([0, 1, 2], [2, 1, 0]):
        for index in order:
            for a, b in zip(outputs(model, images(1, *sizes[index])), alone[index], strict=True):
                torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
