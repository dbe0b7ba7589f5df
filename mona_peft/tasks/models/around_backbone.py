"""What models that are built here around a backbone of transformers share: how configs begin, and segmenters' loss."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.backbone_utils import load_backbone
from transformers.modeling_outputs import SemanticSegmenterOutput
from transformers.models.auto.configuration_auto import AutoConfig


class AroundBackboneConfig(PreTrainedConfig):
    """Config of a model around a backbone.

    Args:
        backbone_config: Of the backbone. None is `default_backbone`.
        kwargs: As every config takes them, such as `id2label`.
    """

    sub_configs = {"backbone_config": AutoConfig}  # noqa: RUF012 (the name and form are transformers')
    default_backbone: ClassVar[dict[str, Any]] = {"model_type": "dinov2", "out_indices": [12]}
    """Settings of the backbone's config where none are given: a DINOv2-base, and the map of its last block."""

    def __init__(self, backbone_config: PreTrainedConfig | dict[str, Any] | None = None, **kwargs: Any) -> None:
        if not isinstance(backbone_config, PreTrainedConfig):
            backbone_config = AutoConfig.for_model(**(backbone_config or self.default_backbone))
        self.backbone_config = backbone_config
        super().__init__(**kwargs)


class BackboneSegmenter(PreTrainedModel):
    """A backbone of transformers, and a head that scores the classes of places by its feature maps."""

    main_input_name = "pixel_values"

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        self.backbone = load_backbone(config)

    def score(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Scores the classes, shape (B, num_labels, h, w), by feature maps of shape (B, C, H, W)."""
        raise NotImplementedError

    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, **kwargs: Any
    ) -> SemanticSegmenterOutput:
        """Scores the classes of places.

        Args:
            pixel_values: Shape (B, 3, H, W).
            labels: Classes of pixels, shape (B, H, W). With them there is a loss.
            kwargs: Of the backbone.

        Returns:
            `logits` of shape (B, num_labels, h, w), and the cross entropy of the pixels.
        """
        logits = self.score(self.backbone(pixel_values, **kwargs).feature_maps)
        loss = None
        if labels is not None:
            scores = resize(logits, labels.shape[-2:])
            loss = nn.functional.cross_entropy(scores, labels, ignore_index=self.config.ignore_index)
        return SemanticSegmenterOutput(loss=loss, logits=logits)


def resize(maps: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Enlarges or shrinks maps (B, C, H, W) to a size."""
    return nn.functional.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
