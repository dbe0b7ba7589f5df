"""The simple feature pyramid of ViTDet around a plain ViT, so that heads for maps of several strides take one.

The pyramid of arXiv:2203.16527, section 3: all its maps are made of the last map of the ViT, by deconvolutions and
pooling. transformers has ViTDet's backbone, not its pyramid. UPerNet, Mask2Former, RetinaNet and the DETR family take
what is here as they take a Swin; to adapters the ViT inside is the backbone, and the pyramid belongs to the head.

Importing this module makes transformers' auto classes know the pyramid, as `model_type` `simple_feature_pyramid`.
"""

import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import AutoBackbone, PreTrainedModel
from transformers.backbone_utils import BackboneConfigMixin, load_backbone
from transformers.modeling_outputs import BackboneOutput
from transformers.models.auto.configuration_auto import AutoConfig
from transformers.models.convnext.modeling_convnext import ConvNextLayerNorm

from mona_peft.tasks.models.around_backbone import AroundBackboneConfig

STAGES = ("stage1", "stage2", "stage3", "stage4")
"""Names of its maps, of strides of a quarter, a half, once and twice the side of a patch: 4, 8, 16 and 32 pixels for
patches of 16."""


class FeaturePyramidConfig(BackboneConfigMixin, AroundBackboneConfig):
    """Config of `FeaturePyramidBackbone`.

    Args:
        backbone_config: Of the plain ViT, whose `out_features` name one map. None is `default_backbone`.
        pyramid_channels: Channels of each map.
        out_features: Which of `STAGES` are given, in their order. None: all of them.
        out_indices: The same by their places in `STAGES`.
        kwargs: As every config takes them.
    """

    model_type = "simple_feature_pyramid"

    def __init__(
        self,
        backbone_config: Any = None,
        pyramid_channels: int = 256,
        out_features: list[str] | None = None,
        out_indices: list[int] | None = None,
        **kwargs: Any,
    ) -> None:
        self.pyramid_channels = pyramid_channels
        self.stage_names = list(STAGES)
        if out_features is None and out_indices is None:
            out_features = list(STAGES)
        self.set_output_features_output_indices(out_features=out_features, out_indices=out_indices)
        kwargs.pop("stage_names", None)
        super().__init__(backbone_config, **kwargs)


class FeaturePyramidBackbone(PreTrainedModel):
    """A plain ViT of transformers, and maps of several strides made of its last one.

    It answers as backbones of transformers do, and is not called one: the backbone, which adapters look for and
    `--gradient_checkpointing` means, is the ViT inside.

    Attributes:
        channels: Channels of each map.
    """

    config_class = FeaturePyramidConfig
    main_input_name = "pixel_values"

    def __init__(self, config: FeaturePyramidConfig) -> None:
        super().__init__(config)
        self.backbone = load_backbone(config)
        width = self.backbone.channels[-1]
        self.levels = nn.ModuleDict(
            {stage: _level(stage, width, config.pyramid_channels) for stage in config.out_features}
        )
        self.channels = [config.pyramid_channels] * len(self.levels)
        self.post_init()

    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> BackboneOutput:
        """Makes the pyramid of a batch of images.

        Args:
            pixel_values: Shape (B, 3, H, W). Images whose sides are no multiples of twice a patch are enlarged to the
                next, since a ViT drops what fills no patch, and the coarsest map what fills no two.
            kwargs: Of the ViT.

        Returns:
            `feature_maps`, finest first, each of shape (B, pyramid_channels, h, w).
        """
        divisor = 2 * self.config.backbone_config.patch_size
        size = [math.ceil(side / divisor) * divisor for side in pixel_values.shape[-2:]]
        if size != list(pixel_values.shape[-2:]):
            pixel_values = nn.functional.interpolate(pixel_values, size=size, mode="bilinear", align_corners=False)
        outputs = self.backbone(pixel_values, **kwargs)
        last = outputs.feature_maps[-1]
        return BackboneOutput(
            feature_maps=tuple(level(last) for level in self.levels.values()),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def forward_with_filtered_kwargs(self, *args: Any, **kwargs: Any) -> BackboneOutput:
        """Does the same without the arguments that the ViT does not take, as backbones of transformers do."""
        known = inspect.signature(self.backbone.forward).parameters
        return self(*args, **{name: value for name, value in kwargs.items() if name in known})


def _level(stage: str, width: int, channels: int) -> nn.Sequential:
    """Returns what makes the map of a stage: to its stride, then a 1x1 and a 3x3 convolution, each with its norm."""
    steps, width = _TO_STRIDE[stage](width)
    return nn.Sequential(
        *steps,
        nn.Conv2d(width, channels, kernel_size=1, bias=False),
        _norm(channels),
        nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False),
        _norm(channels),
    )


def _norm(channels: int) -> nn.Module:
    return ConvNextLayerNorm(channels, eps=1e-6, data_format="channels_first")


def _quarter(width: int) -> tuple[Sequence[nn.Module], int]:
    return [
        nn.ConvTranspose2d(width, width // 2, kernel_size=2, stride=2),
        _norm(width // 2),
        nn.GELU(),
        nn.ConvTranspose2d(width // 2, width // 4, kernel_size=2, stride=2),
    ], width // 4


_TO_STRIDE = {
    "stage1": _quarter,
    "stage2": lambda width: ([nn.ConvTranspose2d(width, width // 2, kernel_size=2, stride=2)], width // 2),
    "stage3": lambda width: ([], width),
    "stage4": lambda width: ([nn.MaxPool2d(kernel_size=2)], width),
}

AutoConfig.register(FeaturePyramidConfig.model_type, FeaturePyramidConfig)
AutoBackbone.register(FeaturePyramidConfig, FeaturePyramidBackbone)
