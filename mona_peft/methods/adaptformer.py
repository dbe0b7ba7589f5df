"""AdaptFormer: a scaled bottleneck beside the MLP of a block.

Source: Chen et al., "AdaptFormer: Adapting Vision Transformers for Scalable Visual Recognition", NeurIPS 2022, section
3.2, equations 2 and 3; in the form in which Mona is compared with it (CVPR 2025): GELU in the place of ReLU, and `h`
before the norm as its input.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mona_peft.blocks import MLP
from mona_peft.host.placement import BesideMlp
from mona_peft.integration.registration import register_method
from mona_peft.methods.bottleneck import Bottleneck, BottleneckConfig


@dataclass
class AdaptFormerConfig(BottleneckConfig):
    """Configuration of AdaptFormer: `out = h + mlp(norm(h)) + scale * up(dropout(gelu(down(h))))`.

    Stochastic depth does not touch the bottleneck. `MonaConfig` explains the fields that all methods share.

    Args:
        bottleneck_dim: Number of channels of the bottleneck.
        dropout: Dropout probability before the up projection.
        scale: Constant factor of the bottleneck's output.
        sites: There is one, `"mlp"`.
        init_weights: `True`: the up projection is zero and the adapted model starts equal to the base, as in the
            AdaptFormer paper. `"paper"`: both projections random, as in the comparison of Mona's authors. `False`:
            nothing is zero, for tests.

    Raises:
        ValueError: If a value is out of range; the message says what is allowed.
    """

    sites: tuple[str, ...] = field(default=(MLP,), metadata={"help": "There is one: 'mlp'."})
    scale: float = field(default=0.1, metadata={"help": "Constant factor of the bottleneck's output."})

    method = "adaptformer"
    title = "AdaptFormer"
    placement = BesideMlp

    def __post_init__(self) -> None:
        """Check and normalise the fields."""
        super().__post_init__()
        self._check_finite("scale")

    def make_adapter(self, dim: int) -> Bottleneck:
        """Build one bottleneck for blocks of `dim` channels."""
        return Bottleneck(dim, self.bottleneck_dim, self.dropout, self.scale)


AdaptFormerModel = register_method(AdaptFormerConfig)
AdaptFormerLayer = AdaptFormerModel.tuner_layer_cls
