"""Semantic segmentation by one linear layer on the patch tokens of a backbone, as DINOv2's paper measures features.

The head of arXiv:2304.07193, section 7.4: a batch norm and one linear layer on the tokens of the last block. Its scores
are as coarse as the patches; they are enlarged to the image. transformers has no such model.

Importing this module makes transformers' auto classes know the model, as `model_type` `linear_segmenter`.
"""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.backbone_utils import load_backbone
from transformers.modeling_outputs import SemanticSegmenterOutput
from transformers.models.auto.configuration_auto import AutoConfig
from transformers.models.auto.modeling_auto import AutoModelForSemanticSegmentation

DEFAULT_BACKBONE = {"model_type": "dinov2", "out_indices": [12]}
"""Settings of the backbone's config where none are given: a DINOv2-base, and the tokens of its last block."""


class LinearSegmenterConfig(PreTrainedConfig):
    """Config of `LinearSegmenterForSemanticSegmentation`.

    Args:
        backbone_config: Of the backbone; its `out_features` are the maps that the layer sees, one beside the other.
            None is `DEFAULT_BACKBONE`.
        ignore_index: Label of the pixels that do not count.
        kwargs: As every config takes them, such as `id2label`.
    """

    model_type = "linear_segmenter"
    sub_configs = {"backbone_config": AutoConfig}  # noqa: RUF012 (the name and form are transformers')

    def __init__(
        self,
        backbone_config: PreTrainedConfig | dict[str, Any] | None = None,
        ignore_index: int = 255,
        **kwargs: Any,
    ) -> None:
        if not isinstance(backbone_config, PreTrainedConfig):
            backbone_config = AutoConfig.for_model(**(backbone_config or DEFAULT_BACKBONE))
        self.backbone_config = backbone_config
        self.ignore_index = ignore_index
        super().__init__(**kwargs)


class LinearSegmenterForSemanticSegmentation(PreTrainedModel):
    """A batch norm and a linear layer on the feature maps of a backbone of transformers."""

    config_class = LinearSegmenterConfig
    main_input_name = "pixel_values"

    def __init__(self, config: LinearSegmenterConfig) -> None:
        super().__init__(config)
        self.backbone = load_backbone(config)
        channels = sum(self.backbone.channels)
        self.decode_head = nn.Sequential(
            nn.BatchNorm2d(channels), nn.Conv2d(channels, config.num_labels, kernel_size=1)
        )
        self.post_init()

    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, **kwargs: Any
    ) -> SemanticSegmenterOutput:
        """Scores the classes of patches.

        Args:
            pixel_values: Shape (B, 3, H, W).
            labels: Classes of pixels, shape (B, H, W). With them there is a loss.
            kwargs: Of the backbone.

        Returns:
            `logits` of shape (B, num_labels, h, w), as large as the finest feature map, and the cross entropy of the
            pixels.
        """
        maps = self.backbone(pixel_values, **kwargs).feature_maps  # each (B, C, h, w)
        size = maps[0].shape[-2:]
        logits = self.decode_head(torch.cat([_resize(map_, size) for map_ in maps], dim=1))
        loss = None
        if labels is not None:
            scores = _resize(logits, labels.shape[-2:])
            loss = nn.functional.cross_entropy(scores, labels, ignore_index=self.config.ignore_index)
        return SemanticSegmenterOutput(loss=loss, logits=logits)


def _resize(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return nn.functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)


AutoConfig.register(LinearSegmenterConfig.model_type, LinearSegmenterConfig)
AutoModelForSemanticSegmentation.register(LinearSegmenterConfig, LinearSegmenterForSemanticSegmentation)
