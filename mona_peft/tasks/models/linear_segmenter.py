"""Semantic segmentation by one linear layer on the patch tokens of a backbone, as DINOv2's paper measures features.

The head of arXiv:2304.07193, section 7.4: a batch norm and one linear layer on the tokens of the last block. Its scores
are as coarse as the patches; they are enlarged to the image. transformers has no such model.

Importing this module makes transformers' auto classes know the model, as `model_type` `linear_segmenter`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers.models.auto.configuration_auto import AutoConfig
from transformers.models.auto.modeling_auto import AutoModelForSemanticSegmentation

from mona_peft.tasks.models.around_backbone import AroundBackboneConfig, BackboneSegmenter, resize


class LinearSegmenterConfig(AroundBackboneConfig):
    """Config of `LinearSegmenterForSemanticSegmentation`.

    Args:
        backbone_config: Of the backbone; its `out_features` are the maps that the layer sees, one beside the other.
            None is `default_backbone`.
        ignore_index: Label of the pixels that do not count.
        kwargs: As every config takes them, such as `id2label`.
    """

    model_type = "linear_segmenter"

    def __init__(self, backbone_config: Any = None, ignore_index: int = 255, **kwargs: Any) -> None:
        self.ignore_index = ignore_index
        super().__init__(backbone_config, **kwargs)


class LinearSegmenterForSemanticSegmentation(BackboneSegmenter):
    """A batch norm and a linear layer on the feature maps of a backbone of transformers."""

    config_class = LinearSegmenterConfig

    def __init__(self, config: LinearSegmenterConfig) -> None:
        super().__init__(config)
        channels = sum(self.backbone.channels)
        self.decode_head = nn.Sequential(
            nn.BatchNorm2d(channels), nn.Conv2d(channels, config.num_labels, kernel_size=1)
        )
        self.post_init()

    def score(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Scores the classes of patches, in maps as large as the first of the feature maps."""
        size = maps[0].shape[-2:]
        return self.decode_head(torch.cat([resize(map_, size) for map_ in maps], dim=1))


AutoConfig.register(LinearSegmenterConfig.model_type, LinearSegmenterConfig)
AutoModelForSemanticSegmentation.register(LinearSegmenterConfig, LinearSegmenterForSemanticSegmentation)
