"""The bottleneck of two linear projections: what Adapter and AdaptFormer are made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from mona_peft.blocks import Grid
from mona_peft.config import ResidualAdapterConfig
from mona_peft.host.block import ResidualAdapter, initialises

MAX_BOTTLENECK_DIM = 2**15
"""A limit that no model reaches; a configuration from elsewhere shall not ask for more memory than there is."""


class Bottleneck(ResidualAdapter):
    """Bottleneck of a token: `delta = scale * Linear(n -> C)(dropout(gelu(Linear(C -> n)(x))))`.

    Args:
        dim: Number of channels C.
        bottleneck_dim: Number of channels n of the bottleneck.
        dropout: Dropout probability before the up projection, in training.
        scale: Constant factor of the output.
    """

    takes_any_order = True

    def __init__(self, dim: int, bottleneck_dim: int = 64, dropout: float = 0.1, scale: float = 1.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.scale = scale
        self.down_weight = nn.Parameter(torch.empty(bottleneck_dim, dim))
        self.down_bias = nn.Parameter(torch.empty(bottleneck_dim))
        self.up_weight = nn.Parameter(torch.empty(dim, bottleneck_dim))
        self.up_bias = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    @initialises
    def reset_parameters(self, init_weights: bool | Literal["paper"] = "paper") -> None:
        """Initialise all parameters.

        Args:
            init_weights: `"paper"`: weights from a normal distribution of standard deviation 0.02 truncated at +-2,
                biases zero, as Mona's authors train the method. `True` sets the up projection to zero besides, so that
                delta is exactly zero; `False` leaves nothing at zero, for tests.
        """
        for weight in (self.down_weight, self.up_weight):
            nn.init.trunc_normal_(weight, std=0.02)
        for bias in (self.down_bias, self.up_bias):
            nn.init.zeros_(bias)
        if init_weights is True:
            nn.init.zeros_(self.up_weight)
        elif init_weights is False:
            for parameter in self.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.02)

    def forward(self, hidden_states: torch.Tensor, grid: Grid | None = None) -> torch.Tensor:
        """Compute delta for tokens of shape (..., C); their grid makes no difference."""
        hidden_states = F.gelu(F.linear(hidden_states, self.down_weight, self.down_bias))
        hidden_states = F.dropout(hidden_states, self.dropout, self.training)
        return F.linear(hidden_states, self.up_weight, self.up_bias) * self.scale

    def extra_repr(self) -> str:
        """Show the settings in `repr`."""
        bottleneck_dim, dim = self.down_weight.shape
        return f"{dim}, bottleneck_dim={bottleneck_dim}, dropout={self.dropout}, scale={self.scale}"


@dataclass
class BottleneckConfig(ResidualAdapterConfig):
    """Fields that methods with a `Bottleneck` share."""

    bottleneck_dim: int = field(default=64, metadata={"help": "Number of channels of the bottleneck."})
    dropout: float = field(default=0.1, metadata={"help": "Dropout probability before the up projection."})

    def __post_init__(self) -> None:
        """Check and normalise the fields."""
        super().__post_init__()
        self._check_integer("bottleneck_dim", minimum=1, maximum=MAX_BOTTLENECK_DIM)
        self._check_probability("dropout")
