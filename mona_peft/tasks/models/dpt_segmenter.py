"""Semantic segmentation by DPT's head (arXiv:2103.13413) on a plain ViT that was pre-trained by itself.

DPT's neck brings the maps of four blocks to four strides and fuses them, the coarsest first. transformers' own
segmenter has a ViT of its own alone, and takes square images; its neck takes maps of any backbone and shape.

Importing this module makes transformers' auto classes know the model, as `model_type` `dpt_segmenter`.
"""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import DPTConfig
from transformers.models.auto.configuration_auto import AutoConfig
from transformers.models.auto.modeling_auto import AutoModelForSemanticSegmentation
from transformers.models.dpt.modeling_dpt import DPTNeck, DPTSemanticSegmentationHead

from mona_peft.tasks.models.around_backbone import BackboneSegmenter


class DPTSegmenterConfig(DPTConfig):
    """Config of `DPTSegmenterForSemanticSegmentation`: DPT's, with the `backbone_config` of a plain ViT."""

    model_type = "dpt_segmenter"
    attribute_map = {"ignore_index": "semantic_loss_ignore_index"}  # noqa: RUF012 (the name and form are transformers')


class DPTSegmenterForSemanticSegmentation(BackboneSegmenter):
    """DPT's neck and head on the maps of four blocks of a plain ViT. The class token plays no part.

    Raises:
        ValueError: The neck is to read the class token.
    """

    config_class = DPTSegmenterConfig

    def __init__(self, config: DPTSegmenterConfig) -> None:
        super().__init__(config)
        if config.readout_type != "ignore":
            raise ValueError(
                f"readout_type={config.readout_type!r}: the class token plays no part here; give 'ignore'."
            )
        self.neck = DPTNeck(config)
        self.decode_head = DPTSemanticSegmentationHead(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Initialises convolutions as the authors of DPT do, by PyTorch's default, which follows their width.

        transformers draws all with a deviation of 0.02. In a neck as narrow as that of a ViT-S (64 channels) each
        fusion then keeps a sixth of what comes from deeper blocks, and classes are hardly learnt.
        """
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            module.reset_parameters()
        else:
            super()._init_weights(module)

    def score(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Scores the classes, shape (B, num_labels, h, w), by four maps of shape (B, C, H, W)."""
        height, width = maps[0].shape[-2:]
        # The neck wants a class token in front, which `ignore` drops.
        tokens = [nn.functional.pad(map_.flatten(2).transpose(1, 2), (0, 0, 1, 0)) for map_ in maps]
        return self.decode_head(self.neck(tokens, height, width))


AutoConfig.register(DPTSegmenterConfig.model_type, DPTSegmenterConfig)
AutoModelForSemanticSegmentation.register(DPTSegmenterConfig, DPTSegmenterForSemanticSegmentation)
