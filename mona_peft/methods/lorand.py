"""LoRand: a bottleneck whose projections are sums of low-rank products, on the output of each branch of a block.

Source: Yin et al., "1% VS 100%: Parameter-Efficient Low Rank Adapter for Dense Predictions", CVPR 2023, section 3.
Sizes, biases and initialisation are those of the authors' code, where the two projections share nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from mona_peft.blocks import Grid
from mona_peft.config import ResidualAdapterConfig
from mona_peft.host.block import ResidualAdapter, initialises
from mona_peft.host.placement import OnBranch
from mona_peft.integration.registration import register_method

MAX_BRANCHES, MAX_KERNEL_DIM, MAX_REDUCTION = 64, 2**10, 2**10
"""Limits that no model reaches; a configuration from elsewhere shall not ask for more memory than there is."""


class LoRand(ResidualAdapter):
    r"""LoRand of a token: `delta = W_up gelu(W_down x + b_down) + b_up`.

    Either projection is a sum over branches of low-rank products, from C to m = C / reduction channels and back:

        W = sum_b (P_b K_b Q_b)^T,  P_b of shape (channels in, k),  K_b (k, k),  Q_b (k, channels out)

    Args:
        dim: Number of channels C.
        num_branches: Number of branches b of each projection.
        kernel_dim: Rank k of a branch.
        reduction: C / m.
    """

    takes_any_order = True

    def __init__(self, dim: int, num_branches: int = 4, kernel_dim: int = 8, reduction: int = 2) -> None:
        super().__init__()
        self.num_branches, self.kernel_dim = num_branches, kernel_dim
        self.dim, self.bottleneck_dim = dim, max(1, dim // reduction)
        for name, (dim_in, dim_out) in self._projections().items():
            self.register_parameter(f"{name}_p", nn.Parameter(torch.empty(num_branches, dim_in, kernel_dim)))
            self.register_parameter(f"{name}_k", nn.Parameter(torch.empty(num_branches, kernel_dim, kernel_dim)))
            self.register_parameter(f"{name}_q", nn.Parameter(torch.empty(num_branches, kernel_dim, dim_out)))
            self.register_parameter(f"{name}_bias", nn.Parameter(torch.empty(dim_out)))
        self.reset_parameters()

    def _projections(self) -> dict[str, tuple[int, int]]:
        return {"down": (self.dim, self.bottleneck_dim), "up": (self.bottleneck_dim, self.dim)}

    @initialises
    def reset_parameters(self, init_weights: bool | Literal["paper"] = "paper") -> None:
        """Initialise all parameters.

        Args:
            init_weights: `"paper"` is the authors' initialisation: every matrix uniform within 1 / sqrt(its number of
                columns), biases uniform within 1 / sqrt(channels in). `True` sets the last factor and the bias of the
                up projection to zero besides, so that delta is exactly zero; `False` is `"paper"`, where nothing is.
        """
        for name, (dim_in, _) in self._projections().items():
            for factor in "pkq":
                matrices = self.get_parameter(f"{name}_{factor}")
                nn.init.uniform_(matrices, -(matrices.shape[-1] ** -0.5), matrices.shape[-1] ** -0.5)
            nn.init.uniform_(self.get_parameter(f"{name}_bias"), -(dim_in**-0.5), dim_in**-0.5)
        if init_weights is True:
            nn.init.zeros_(self.up_q)
            nn.init.zeros_(self.up_bias)

    def forward(self, hidden_states: torch.Tensor, grid: Grid | None = None) -> torch.Tensor:
        """Compute delta for tokens of shape (..., C); their grid makes no difference."""
        return self._project(F.gelu(self._project(hidden_states, "down")), "up")

    def _project(self, hidden_states: torch.Tensor, name: str) -> torch.Tensor:
        p, k, q = (self.get_parameter(f"{name}_{factor}") for factor in "pkq")
        weight = torch.einsum("bik,bkl,blo->oi", p, k, q)
        return F.linear(hidden_states, weight, self.get_parameter(f"{name}_bias"))

    def extra_repr(self) -> str:
        """Show the settings in `repr`."""
        return (
            f"{self.dim}, bottleneck_dim={self.bottleneck_dim}, num_branches={self.num_branches}, "
            f"kernel_dim={self.kernel_dim}"
        )


@dataclass
class LoRandConfig(ResidualAdapterConfig):
    """Configuration of LoRand (CVPR 2023): `a + lorand(a)` on each branch's output a, before its residual.

    `MonaConfig` explains the fields that all methods share. The defaults are those of the authors' code.

    Args:
        num_branches: Number of low-rank products in each projection.
        kernel_dim: Rank of a product.
        reduction: How many times narrower than the block the bottleneck is.
        sites: On the output of which branch an adapter stands: `"attention"`, `"mlp"`, or both.
        init_weights: `True`: the last factor of the up projection is zero and the adapted model starts equal to the
            base. `"paper"`: the authors' initialisation, where nothing is zero. `False` is the same, for tests.

    Raises:
        ValueError: If a value is out of range; the message says what is allowed.
    """

    num_branches: int = field(default=4, metadata={"help": "Number of low-rank products in each projection."})
    kernel_dim: int = field(default=8, metadata={"help": "Rank of a product."})
    reduction: int = field(default=2, metadata={"help": "How many times narrower than the block the bottleneck is."})

    method = "lorand"
    title = "LoRand"
    placement = OnBranch

    def __post_init__(self) -> None:
        """Check and normalise the fields."""
        super().__post_init__()
        self._check_integer("num_branches", minimum=1, maximum=MAX_BRANCHES)
        self._check_integer("kernel_dim", minimum=1, maximum=MAX_KERNEL_DIM)
        self._check_integer("reduction", minimum=1, maximum=MAX_REDUCTION)

    def make_adapter(self, dim: int) -> LoRand:
        """Build one LoRand for blocks of `dim` channels."""
        return LoRand(dim, self.num_branches, self.kernel_dim, self.reduction)


LoRandModel = register_method(LoRandConfig)
LoRandLayer = LoRandModel.tuner_layer_cls
