"""Adapter: a bottleneck on the output of each branch of a block.

Source: Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019, section 2.1 and figure 2; in the
form in which Mona is compared with it (CVPR 2025): 64 channels, GELU, dropout 0.1.
"""

from __future__ import annotations

from dataclasses import dataclass

from mona_peft.host.placement import OnBranch
from mona_peft.integration.registration import register_method
from mona_peft.methods.bottleneck import Bottleneck, BottleneckConfig


@dataclass
class AdapterConfig(BottleneckConfig):
    """Configuration of Adapter (Houlsby et al., ICML 2019): `a + up(dropout(gelu(down(a))))` on each branch's output a.

    The adapter stands before the residual, and before stochastic depth. `MonaConfig` explains the fields that all
    methods share.

    Args:
        bottleneck_dim: Number of channels of the bottleneck.
        dropout: Dropout probability before the up projection.
        sites: On the output of which branch an adapter stands: `"attention"`, `"mlp"`, or both.
        init_weights: `True`: the up projection is zero and the adapted model starts equal to the base. `"paper"`: both
            projections random, as in the comparison of Mona's authors. `False`: nothing is zero, for tests.

    Raises:
        ValueError: If a value is out of range; the message says what is allowed.
    """

    method = "adapter"
    title = "Adapter"
    placement = OnBranch
    # Not `adapter`, which modules of other models have in their names: PEFT trains whatever contains the prefix.
    child_name = "houlsby"

    def make_adapter(self, dim: int) -> Bottleneck:
        """Build one bottleneck for blocks of `dim` channels."""
        return Bottleneck(dim, self.bottleneck_dim, self.dropout)


AdapterModel = register_method(AdapterConfig)
AdapterLayer = AdapterModel.tuner_layer_cls
