"""Backbones of timm, one row each, as in `tests/backbones.py`; importing this needs timm and torchvision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import timm
import torch
from torch import nn

from tests import naive_blocks as naive
from tests.backbones import Backbone
from tests.backbones.row import CONVOLUTIONS

SWIN = {"img_size": (64, 96), "embed_dim": 16, "depths": (2, 1), "num_heads": (2, 4), "window_size": 4}
VIT = {"embed_dim": 16, "depth": 2, "num_heads": 2, "dynamic_img_size": True, "global_pool": "avg"}
DROP = {"num_classes": 0, "drop_path_rate": 0.3}  # features: the head has no part in this


def swin(name: str, blocks: naive.NaiveBlock) -> Backbone:
    return Backbone(
        f"timm {name}",
        lambda: timm.create_model(name, **SWIN, **DROP, strict_img_size=False),
        blocks,
        (4, 4, 8),
        (name, lambda: timm.create_model(name)),
        image=(64, 96),
        further_images=((96, 64), (64, 64)),
        checkpoints=(),
    )


def vit(name: str, prefix: int, blocks: naive.NaiveBlock, **settings: Any) -> Backbone:
    return Backbone(
        f"timm {name}",
        lambda: timm.create_model(name, **VIT, **DROP, **settings),
        blocks,
        (settings.get("patch_size", 16),) * 2,
        (name, lambda: timm.create_model(name)),
        prefix=prefix,
        checkpoints=(),
    )


def eva_attention(b: nn.Module, x: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    branch = b.attn(b.norm1(x), **kwargs)
    return x + b.drop_path1(branch if b.gamma_1 is None else b.gamma_1 * branch)


def eva_mlp(b: nn.Module, h: torch.Tensor, grid: naive.Grid) -> torch.Tensor:
    branch = b.mlp(b.norm2(h))
    return b.drop_path2(branch if b.gamma_2 is None else b.gamma_2 * branch)


def convnext_branch(b: nn.Module, h: torch.Tensor, grid: naive.Grid) -> torch.Tensor:
    branch = b.mlp(b.norm(b.conv_dw(h).permute(0, 2, 3, 1)))
    return b.drop_path((branch if b.gamma is None else branch * b.gamma).permute(0, 3, 1, 2))


def resnet_block(b: nn.Module, x: torch.Tensor) -> torch.Tensor:
    shortcut = x if b.downsample is None else b.downsample(x)
    out = b.act1(b.bn1(b.conv1(x)))
    out = b.bn2(b.conv2(out))
    if hasattr(b, "bn3"):
        return b.act3(b.bn3(b.conv3(b.act2(out))) + shortcut)
    return b.act2(out + shortcut)


def regnet_block(b: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return b.act3(b.conv3(b.se(b.conv2(b.conv1(x)))) + b.downsample(x))


def convolutional(
    name: str, block: Callable[[nn.Module, torch.Tensor], torch.Tensor], depths: tuple[int, ...], **settings: Any
) -> Backbone:
    return Backbone(
        f"timm {name}",
        lambda: timm.create_model(name, num_classes=0, **settings),
        naive.NaiveBlock(None, None, residual=block, **naive.CHANNELS_FIRST),
        tuple(4 * 2**stage for stage, depth in enumerate(depths) for _ in range(depth)),
        (name, lambda: timm.create_model(name)),
        **CONVOLUTIONS,
    )


MAP = {"finish": lambda b, out, grid: out.unflatten(1, grid)}
NAIVE_SWIN = naive.NaiveBlock(naive.until("norm2"), lambda b, h, grid: b.drop_path2(b.mlp(b.norm2(h))), **MAP)
NAIVE_SWINV2 = naive.NaiveBlock(naive.until("mlp"), lambda b, h, grid: b.drop_path2(b.norm2(b.mlp(h))), **MAP)
NAIVE_VIT = naive.NaiveBlock(
    lambda b, x, *args, **kwargs: x + b.drop_path1(b.ls1(b.attn(b.norm1(x), *args, **kwargs))),
    lambda b, h, grid: b.drop_path2(b.ls2(b.mlp(b.norm2(h)))),
)

TIMM_BACKBONES = {
    "timm-swin": swin("swin_tiny_patch4_window7_224", NAIVE_SWIN),
    "timm-swinv2": swin("swinv2_tiny_window8_256", NAIVE_SWINV2),
    "timm-vit": vit("vit_base_patch16_224", 1, NAIVE_VIT, patch_size=8),
    "timm-dinov2": vit("vit_base_patch14_reg4_dinov2", 5, NAIVE_VIT, patch_size=8, img_size=32),
    "timm-eva02": vit("eva02_tiny_patch14_224", 1, naive.NaiveBlock(eva_attention, eva_mlp), patch_size=8, img_size=32),
    "timm-convnext": replace(
        swin("convnext_tiny", naive.NaiveBlock(None, convnext_branch, **naive.CHANNELS_FIRST)),
        make=lambda: timm.create_model("convnext_tiny", dims=(16, 16, 32, 32), depths=(1, 2, 1, 1), **DROP),
        strides=(4, 8, 8, 16, 32),
    ),
    "timm-resnet-basic": convolutional(
        "resnet18", resnet_block, (1, 1, 1, 1), layers=(1, 1, 1, 1), channels=(16, 16, 32, 32)
    ),
    "timm-resnet": convolutional(
        "resnet50", resnet_block, (1, 1, 1, 1), layers=(1, 1, 1, 1), channels=(16, 16, 32, 32)
    ),
    "timm-regnet": convolutional("regnety_002", regnet_block, (1, 1, 4, 7)),
}
