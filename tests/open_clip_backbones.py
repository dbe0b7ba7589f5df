"""Vision towers of open_clip, one row each, as in `tests/backbones.py`; importing this needs open_clip."""

from __future__ import annotations

from typing import Any

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer
from torch import nn

from tests import naive_blocks as naive
from tests.backbones import Backbone
from tests.backbones.row import CONVOLUTIONS

SIZES = {"image_size": (24, 40), "patch_size": 8, "width": 16, "layers": 2, "heads": 2, "mlp_ratio": 2.0}


def attention(b: nn.Module, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    normed = b.ln_1(x)
    return x + b.ls_1(b.attn(normed, normed, normed, need_weights=False)[0])


def custom_attention(b: nn.Module, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return x + b.ls_1(b.ln_attn(b.attn(b.ln_1(x))))


def mlp(b: nn.Module, h: torch.Tensor, grid: naive.Grid) -> torch.Tensor:
    return b.ls_2(b.mlp(b.ln_2(h)))


def resnet_block(b: nn.Module, x: torch.Tensor) -> torch.Tensor:
    hidden = b.act2(b.bn2(b.conv2(b.act1(b.bn1(b.conv1(x))))))
    shortcut = x if b.downsample is None else b.downsample(x)
    return torch.relu(b.bn3(b.conv3(b.avgpool(hidden))) + shortcut)


def resnet() -> nn.Module:
    model = ModifiedResNet((1, 2, 1, 1), 8, 2, 64, width=16)
    for name, parameter in model.named_parameters():
        if name.endswith("bn3.weight"):  # zero at first, so that a block hands on its shortcut alone
            nn.init.ones_(parameter)
    return model


def tower(name: str, blocks: naive.NaiveBlock, **settings: Any) -> Backbone:
    return Backbone(
        f"open_clip {name}",
        lambda: VisionTransformer(**SIZES, output_dim=8, output_tokens=True, **settings),
        blocks,
        (8, 8),
        (name, lambda: VisionTransformer(224, 16, 768, 12, 12, 4.0)),
        prefix=1,
        further_images=(),  # its position embedding is that of one size
        checkpoints=(),
    )


OPEN_CLIP_BACKBONES = {
    "open-clip": tower("ViT", naive.NaiveBlock(attention, mlp)),
    "open-clip-layer-scale": tower("ViT with layer scale", naive.NaiveBlock(attention, mlp), ls_init_value=0.5),
    "open-clip-custom": tower(
        "ViT of custom blocks",
        naive.NaiveBlock(custom_attention, mlp),
        ls_init_value=0.5,
        qk_norm=True,
        scale_heads=True,
        scale_attn_inner=True,
        scale_attn=True,
        scale_fc=True,
        no_ln_pre=True,
        pool_type="avg",
    ),
    "open-clip-resnet": Backbone(
        "open_clip ResNet",
        resnet,
        naive.NaiveBlock(None, None, residual=resnet_block, **naive.CHANNELS_FIRST),
        (4, 8, 8, 16, 32),
        ("RN50", lambda: ModifiedResNet((3, 4, 6, 3), 1024, 32, 224)),
        **CONVOLUTIONS | {"image": (64, 64), "further_images": ()},  # its pooling attention takes one size
    ),
}
