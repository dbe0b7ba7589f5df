"""Adapted blocks written down plainly, from the submodules of the stock block: what the adapted block must equal."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.models.hiera.modeling_hiera import unroll

Grid = tuple[int, int]


@dataclass(frozen=True)
class NaiveBlock:
    """The two halves of a block.

    Attributes:
        attention: `(block, x, *args, **kwargs) -> x + attention branch`, as tokens (B, N, C) or maps (B, H, W, C); None
            for a block with one residual.
        mlp: `(block, h, grid) -> MLP branch of h`, or of a block with one residual that residual's branch.
        finish: `(block, out, grid) -> ` what the block returns.
        tokens: `(tokens or map, grid, block) -> ` tokens (B, N, C) row by row.
        untokens: Undoes `tokens`.
        residual: `(block, x) -> ` what a block with one residual makes of it, where nothing but Mona follows.
    """

    attention: Callable[..., torch.Tensor] | None
    mlp: Callable[[nn.Module, torch.Tensor, Grid], torch.Tensor] | None
    finish: Callable[[nn.Module, torch.Tensor, Grid], torch.Tensor] = lambda block, out, grid: out
    tokens: Callable[[torch.Tensor, Grid, nn.Module], torch.Tensor] = lambda hidden, grid, block: hidden
    untokens: Callable[[torch.Tensor, Grid, nn.Module], torch.Tensor] = lambda tokens, grid, block: tokens
    residual: Callable[[nn.Module, torch.Tensor], torch.Tensor] | None = None

    def __call__(
        self, block: nn.Module, adapters: nn.Module, grid: Grid, x: torch.Tensor, args: tuple, kwargs: dict
    ) -> torch.Tensor:
        """Run the block with the adapters of the child `mona` of an adapted block, where it has them."""
        hidden = x
        if self.attention is not None:
            hidden = self.attention(block, x, *args, **kwargs)
            hidden = self.adapt(adapters.mona_attn, hidden, grid, block)
        hidden = hidden + self.mlp(block, hidden, grid) if self.residual is None else self.residual(block, hidden)
        return self.finish(block, self.adapt(adapters.mona_mlp, hidden, grid, block), grid)

    def adapt(self, adapter: nn.ModuleDict, hidden: torch.Tensor, grid: Grid, block: nn.Module) -> torch.Tensor:
        """`y = x + delta` at one site, if there is an adapter."""
        for mona in adapter.values():
            hidden = hidden + self.untokens(mona(self.tokens(hidden, grid, block), grid), grid, block)
        return hidden


def first(outputs: Any) -> torch.Tensor:
    return outputs[0] if isinstance(outputs, tuple) else outputs


class _Stop(Exception):
    pass


def until(entry: str) -> Callable[..., torch.Tensor]:
    """The attention half of a block with windows: what enters its submodule `entry` when the stock block runs."""

    def attention(block: nn.Module, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        def stop(module, inputs):
            raise _Stop(inputs[0])

        stock_class = getattr(block, "stock_class", type(block))
        handle = block.get_submodule(entry).register_forward_pre_hook(stop)
        try:
            stock_class.forward(block, x, *args, **kwargs)
        except _Stop as stopped:
            return stopped.args[0]
        finally:
            handle.remove()
        raise AssertionError(f"{entry} was not reached")

    return attention


def swin_mlp(b, h, grid):
    normed = b.layernorm_after(h)
    mlp = b.mlp(normed) if hasattr(b, "mlp") else b.output(b.intermediate(normed))
    return b.dropout(mlp) if hasattr(b, "mlp") and hasattr(b, "dropout") else mlp


def beit_attention(b, x, interpolate_pos_encoding=False, resolution=None, attention_mask=None, **kwargs):
    bias = None
    if b.relative_position_bias is not None:
        window = tuple(side // b.patch_size for side in resolution)
        bias = b.relative_position_bias(window, interpolate_pos_encoding, dim_size=x.shape[1])
    branch = b.dropout(first(b.attention(b.layernorm_before(x), attention_mask=bias)))
    return x + b.drop_path(b.lambda_1 * branch)


def data2vec_attention(b, x, **kwargs):
    return x + b.drop_path(b.lambda_1 * first(b.attention(b.layernorm_before(x), **kwargs)))


def pvt_attention(b, x, height, width, output_attentions=False):
    return x + b.drop_path(first(b.attention(b.layer_norm_1(x), height, width)))


def focalnet_attention(b, x, grid):
    normed = x if b.use_post_layernorm else b.norm1(x)
    branch = b.modulation(normed.unflatten(1, grid)).flatten(1, 2)
    return x + b.drop_path(b.gamma_1 * (b.norm1(branch) if b.use_post_layernorm else branch))


def focalnet_mlp(b, h, grid):
    return b.drop_path(b.gamma_2 * (b.norm2(b.mlp(h)) if b.use_post_layernorm else b.mlp(b.norm2(h))))


def hiera_attention(b, x, *args, **kwargs):
    normed = b.layernorm_before(x)
    if hasattr(b, "proj"):
        x = b.proj(normed).unflatten(1, (b.query_stride, -1)).amax(1)
    return x + b.drop_path(first(b.attn(normed)))


def hiera_order(block: nn.Module, grid: Grid) -> torch.Tensor:
    """Where the tokens of a map lie in the order of Hiera's mask units, by transformers' own function.

    The first of four stages, 8 channels wide, works on tokens that were unrolled three times, the last on none.
    """
    unrollings = 3 - (block.hidden_size_output // 8).bit_length() + 1
    places = torch.arange(grid[0] * grid[1]).reshape(1, -1, 1)
    return unroll(places, grid, (1, 1), [(2, 2)] * unrollings).flatten()


def hiera_tokens(hidden, grid, block):
    return hidden[:, hiera_order(block, grid).argsort()]


def hiera_untokens(tokens, grid, block):
    return tokens[:, hiera_order(block, grid)]


def vitdet_finish(b, out, grid):
    out = out.permute(0, 3, 1, 2)
    return b.residual(out) if hasattr(b, "residual") else out


def convnext_branch(b, h, grid):
    branch = b.pwconv1(b.layernorm(b.dwconv(h).permute(0, 2, 3, 1)))
    branch = b.act(branch)
    branch = b.pwconv2(b.grn(branch) if hasattr(b, "grn") else branch)
    scale = getattr(b, "layer_scale_parameter", None)
    return b.drop_path((branch if scale is None else scale * branch).permute(0, 3, 1, 2))


def dinov3_convnext_branch(b, h, grid):
    branch = b.pointwise_conv1(b.layer_norm(b.depthwise_conv(h).permute(0, 2, 3, 1)))
    return b.drop_path((b.pointwise_conv2(b.activation_fn(branch)) * b.gamma).permute(0, 3, 1, 2))


def pixio_branch(b, branch):
    return b.drop_path(b.dropout(branch))


def windows(hidden, grid, side):
    """The windows of images (B * side^2, P + N / side^2, C), one by one: their prefix tokens and their maps."""
    height, width = grid[0] // side, grid[1] // side
    for y in range(side):
        for x in range(side):
            window = hidden[y * side + x :: side**2]
            num_prefix = window.shape[1] - height * width
            rows, columns = slice(y * height, (y + 1) * height), slice(x * width, (x + 1) * width)
            yield window[:, :num_prefix], window[:, num_prefix:].unflatten(1, (height, width)), rows, columns


def joined(hidden, grid, side):
    """Tokens of whole images (B, side^2 * P + N, C)."""
    whole = hidden.new_empty(hidden.shape[0] // side**2, *grid, hidden.shape[2])
    prefixes = []
    for prefix, place, rows, columns in windows(hidden, grid, side):
        whole[:, rows, columns] = place
        prefixes.append(prefix)
    return torch.cat([*prefixes, whole.flatten(1, 2)], dim=1)


def split(tokens, grid, side):
    """Undoes `joined`."""
    num_grid = grid[0] * grid[1]
    prefixes, whole = tokens[:, :-num_grid].chunk(side**2, dim=1), tokens[:, -num_grid:].unflatten(1, grid)
    empty = tokens.new_empty(tokens.shape[0] * side**2, num_grid // side**2, 1)
    places = [whole[:, rows, columns].flatten(1, 2) for *_, rows, columns in windows(empty, grid, side)]
    if tokens.shape[1] > num_grid:
        places = [torch.cat(pair, dim=1) for pair in zip(prefixes, places, strict=True)]
    return torch.stack(places, dim=1).flatten(0, 1)


def hgnet_residual(b, x):
    outputs = [x]
    for layer in b.layers:
        outputs.append(layer(outputs[-1]))
    out = b.aggregation(torch.cat(outputs, dim=1))
    return b.drop_path(out) + x if b.residual else out


CHANNELS_LAST = {"tokens": lambda m, grid, b: m.flatten(1, 2), "untokens": lambda t, grid, b: t.unflatten(1, grid)}
CHANNELS_FIRST = {
    "tokens": lambda m, grid, b: m.flatten(2).transpose(1, 2),
    "untokens": lambda t, grid, b: t.transpose(1, 2).unflatten(2, grid),
}

SWIN = NaiveBlock(until("layernorm_after"), swin_mlp)
SWINV2 = NaiveBlock(
    until("intermediate"), lambda b, h, grid: b.drop_path(b.layernorm_after(b.output(b.intermediate(h))))
)
VIT = NaiveBlock(
    lambda b, x, *args, **kwargs: x + b.dropout(first(b.attention(b.layernorm_before(x), *args, **kwargs))),
    lambda b, h, grid: b.dropout(b.mlp(b.layernorm_after(h))),
)
BEIT = NaiveBlock(beit_attention, lambda b, h, grid: b.drop_path(b.lambda_2 * b.dropout(b.mlp(b.layernorm_after(h)))))
DATA2VEC = NaiveBlock(
    data2vec_attention,
    lambda b, h, grid: b.drop_path(b.lambda_2 * b.output(b.intermediate(b.layernorm_after(h)))),
)
DPT = NaiveBlock(
    lambda b, x, *args, **kwargs: x + first(b.attention(b.layernorm_before(x))),
    lambda b, h, grid: b.output.dropout(b.output.dense(b.intermediate(b.layernorm_after(h)))),
)
DINO = NaiveBlock(
    lambda b, x, *args, **kwargs: x + b.drop_path(b.layer_scale1(first(b.attention(b.norm1(x), *args, **kwargs)))),
    lambda b, h, grid: b.drop_path(b.layer_scale2(b.mlp(b.norm2(h)))),
)
CLIP = NaiveBlock(
    lambda b, x, *args, **kwargs: x + first(b.self_attn(b.layer_norm1(x), *args, **kwargs)),
    lambda b, h, grid: b.mlp(b.layer_norm2(h)),
)
SEGFORMER = NaiveBlock(
    lambda b, x, height, width, **kwargs: (
        x + b.drop_path(b.hidden_dropout(first(b.attention(b.layernorm_before(x), height, width))))
    ),
    lambda b, h, grid: b.drop_path(b.mlp(b.layernorm_after(h), *grid)),
)
PVT = NaiveBlock(pvt_attention, lambda b, h, grid: b.drop_path(b.mlp(b.layer_norm_2(h))))
PVT_V2 = NaiveBlock(pvt_attention, lambda b, h, grid: b.drop_path(b.mlp(b.layer_norm_2(h), *grid)))
SAM = NaiveBlock(until("layer_norm2"), lambda b, h, grid: b.mlp(b.layer_norm2(h)), **CHANNELS_LAST)
VITDET = NaiveBlock(
    until("norm2"), lambda b, h, grid: b.drop_path(b.mlp(b.norm2(h))), finish=vitdet_finish, **CHANNELS_LAST
)
FOCALNET = NaiveBlock(focalnet_attention, focalnet_mlp)
HIERA = NaiveBlock(
    hiera_attention,
    lambda b, h, grid: b.drop_path(b.mlp(b.layernorm_after(h))),
    tokens=hiera_tokens,
    untokens=hiera_untokens,
)
CONVNEXT = NaiveBlock(None, convnext_branch, **CHANNELS_FIRST)
DINOV3_CONVNEXT = NaiveBlock(None, dinov3_convnext_branch, **CHANNELS_FIRST)
VITPOSE = NaiveBlock(
    lambda b, x, dataset_index=None, **kwargs: x + b.attention(b.layernorm_before(x), **kwargs),
    lambda b, h, grid: b.mlp(b.layernorm_after(h)),
)
PIXIO = NaiveBlock(
    lambda b, x, *args, **kwargs: x + pixio_branch(b, first(b.attention(b.layernorm_before(x), *args, **kwargs))),
    lambda b, h, grid: pixio_branch(b, b.mlp(b.layernorm_after(h))),
)
INTERNVL = NaiveBlock(
    lambda b, x: x + b.lambda_1 * first(b.attention(b.layernorm_before(x))),
    lambda b, h, grid: b.lambda_2 * b.dropout(b.mlp(b.layernorm_after(h))),
)
AIMV2 = NaiveBlock(
    lambda b, x, *args, **kwargs: x + first(b.attention(b.rms_norm1(x), *args, **kwargs)),
    lambda b, h, grid: b.ffn(b.rms_norm2(h)),
)
RF_DETR = NaiveBlock(
    until("norm2"),
    lambda b, h, grid: b.drop_path(b.layer_scale2(b.mlp(b.norm2(h)))),
    tokens=lambda hidden, grid, b: joined(hidden, grid, b.num_windows),
    untokens=lambda tokens, grid, b: split(tokens, grid, b.num_windows),
)
LW_DETR = NaiveBlock(
    until("layernorm_after"),
    lambda b, h, grid: b.gamma_2 * b.intermediate(b.layernorm_after(h)),
    tokens=lambda hidden, grid, b: joined(hidden, grid, math.isqrt(b.num_windows)),
    untokens=lambda tokens, grid, b: split(tokens, grid, math.isqrt(b.num_windows)),
)
SAM3 = NaiveBlock(until("layer_norm2"), lambda b, h, grid: b.dropout(b.mlp(b.layer_norm2(h))), **CHANNELS_LAST)
RESNET = NaiveBlock(None, None, residual=lambda b, x: b.activation(b.shortcut(x) + b.layer(x)), **CHANNELS_FIRST)
HGNET_V2 = NaiveBlock(None, None, residual=hgnet_residual, **CHANNELS_FIRST)
