"""CoLin: a bottleneck with one depthwise filter, whose projections share a low-rank pair among diagonal branches.

Source: Yin et al., "1%>100%: High-Efficiency Visual Adapter with Complex Linear Projection Optimization",
arXiv:2602.10513, and the authors' code (github.com/DongshuoYin/CoLin), which has the sizes, the gate and the
initialisation in full.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

from mona_peft.blocks import Grid
from mona_peft.config import ResidualAdapterConfig
from mona_peft.host.block import ResidualAdapter, initialises
from mona_peft.host.placement import AfterResidual
from mona_peft.integration.registration import register_method

MAX_DIM, MAX_BRANCHES, MAX_KERNEL_SIZE = 2**15, 64, 255
"""Limits that no model reaches; a configuration from elsewhere shall not ask for more memory than there is."""


class CoLin(ResidualAdapter):
    r"""CoLin of a token map x of shape (B, N, C), with a bottleneck of n channels and rank r.

        p = A_down D B_down x + b_down,  D = sum_b diag(g_b)       (one pair A, B shared by all branches b)
        p = s * depthwise(p) + (1 - s) * p,  s = sigmoid(gate)     (p seen as (B, n, H, W); gate starts at 0)
        delta = A_up D B_up gelu(p) + b_up                         (the diagonals D are those of the down projection)

    In training, every backward pass adds the gradient of the orthogonality loss

        L = weight * branches * sum_M ||M^T M - I||_F^2,  M in {A_down, B_down^T, A_up, B_up^T}

    to that of the task, so any training loop has it without knowing of it. It is not part of the loss that the loop
    reports, and neither divided by gradient accumulation nor multiplied by a gradient scaler; `orthogonality_loss`
    returns its value.

    Args:
        dim: Number of channels C.
        bottleneck_dim: Number of channels n of the bottleneck.
        rank: Rank r, at most the smaller of C and n.
        num_branches: Number of diagonals.
        kernel_size: Size of the depthwise filter, odd.
        orthogonality_weight: Weight of the orthogonality loss.
    """

    def __init__(
        self,
        dim: int,
        bottleneck_dim: int = 100,
        rank: int = 28,
        num_branches: int = 4,
        kernel_size: int = 3,
        orthogonality_weight: float = 0.5,
    ) -> None:
        super().__init__()
        if rank > min(dim, bottleneck_dim):
            raise ValueError(
                f"rank={rank}: a projection between {dim} and {bottleneck_dim} channels has a rank of at most "
                f"{min(dim, bottleneck_dim)}. Give a smaller rank."
            )
        self.dim, self.bottleneck_dim, self.rank = dim, bottleneck_dim, rank
        self.kernel_size = kernel_size
        self.orthogonality_weight = orthogonality_weight
        # Columns of the left and rows of the right factor are what is to be orthonormal; both are stored as columns.
        self.down_left = nn.Parameter(torch.empty(bottleneck_dim, rank))
        self.down_right = nn.Parameter(torch.empty(dim, rank))
        self.down_bias = nn.Parameter(torch.empty(bottleneck_dim))
        self.diagonals = nn.Parameter(torch.empty(num_branches, rank))
        self.dw_weight = nn.Parameter(torch.empty(bottleneck_dim, 1, kernel_size, kernel_size))
        self.dw_bias = nn.Parameter(torch.empty(bottleneck_dim))
        self.gate = nn.Parameter(torch.empty(bottleneck_dim))
        self.up_left = nn.Parameter(torch.empty(dim, rank))
        self.up_right = nn.Parameter(torch.empty(bottleneck_dim, rank))
        self.up_bias = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    @initialises
    def reset_parameters(self, init_weights: bool | Literal["paper"] = "paper") -> None:
        """Initialise all parameters.

        Args:
            init_weights: `"paper"` is the authors' initialisation: for each branch a matrix with PyTorch's default of a
                linear layer is decomposed into singular vectors and values, which become the diagonals; the shared pair
                is the mean of the branches' singular vectors. Biases and filter at PyTorch's default, gate zero. `True`
                sets the left factor and the bias of the up projection to zero besides, so that delta is exactly zero;
                `False` leaves nothing at zero, for tests.
        """
        for name, dim_in in (("down", self.dim), ("up", self.bottleneck_dim)):
            left, right, diagonals = self._decomposed(*self._factors(name))
            for parameter, value in zip(self._factors(name), (left, right), strict=True):
                parameter.copy_(value)
            self.diagonals.copy_(diagonals)
            nn.init.uniform_(self.get_parameter(f"{name}_bias"), -(dim_in**-0.5), dim_in**-0.5)
        bound = self.kernel_size**-1
        nn.init.uniform_(self.dw_weight, -bound, bound)
        nn.init.uniform_(self.dw_bias, -bound, bound)
        nn.init.zeros_(self.gate)
        if init_weights is True:
            nn.init.zeros_(self.up_left)
            nn.init.zeros_(self.up_bias)
        elif init_weights is False:
            nn.init.normal_(self.gate)

    def _factors(self, name: str) -> tuple[nn.Parameter, nn.Parameter]:
        return self.get_parameter(f"{name}_left"), self.get_parameter(f"{name}_right")

    def _decomposed(self, left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the means over branches of the singular vectors, and the singular values of each branch."""
        if left.device.type == "meta":
            return left, right, self.diagonals
        shape = (len(self.diagonals), left.shape[0], right.shape[0])
        matrices = torch.empty(shape, device=left.device).uniform_(-(shape[2] ** -0.5), shape[2] ** -0.5)
        u, s, vh = torch.linalg.svd(matrices, full_matrices=False)
        return u[..., : self.rank].mean(0), vh[:, : self.rank].mean(0).T, s[:, : self.rank]

    def forward(self, hidden_states: torch.Tensor, grid: Grid) -> torch.Tensor:
        """Compute what the adapter adds to a token map.

        Args:
            hidden_states: Tokens of shape (B, P + H * W, C): P prefix tokens, which skip the filter, then the grid.
            grid: (H, W).
        """
        tokens = F.linear(hidden_states, self._weight("down"), self.down_bias)
        num_prefix = tokens.shape[1] - grid[0] * grid[1]
        prefix, places = tokens[:, :num_prefix], tokens[:, num_prefix:]
        maps = places.transpose(1, 2).unflatten(2, grid)
        filtered = F.conv2d(maps, self.dw_weight, self.dw_bias, padding=self.kernel_size // 2, groups=maps.shape[1])
        share = torch.sigmoid(self.gate)
        places = share * filtered.flatten(2).transpose(1, 2) + (1 - share) * places
        tokens = torch.cat([prefix, places], dim=1) if num_prefix else places
        return F.linear(F.gelu(tokens), self._weight("up"), self.up_bias)

    def _weight(self, name: str) -> torch.Tensor:
        left, right = self._factors(name)
        if self.training and torch.is_grad_enabled() and self.orthogonality_weight:
            strength = self.orthogonality_weight * len(self.diagonals)
            left, right = (_Orthonormalising.apply(factor, strength) for factor in (left, right))
        return (left * self.diagonals.sum(0)) @ right.T

    def orthogonality_loss(self) -> torch.Tensor:
        """Return the orthogonality loss L, a scalar."""
        factors = (*self._factors("down"), *self._factors("up"))
        return self.orthogonality_weight * len(self.diagonals) * sum(map(_distance_from_orthonormal, factors))

    def extra_repr(self) -> str:
        """Show the settings in `repr`."""
        return (
            f"{self.dim}, bottleneck_dim={self.bottleneck_dim}, rank={self.rank}, num_branches={len(self.diagonals)}, "
            f"kernel_size={self.kernel_size}, orthogonality_weight={self.orthogonality_weight}"
        )


def _distance_from_orthonormal(columns: torch.Tensor) -> torch.Tensor:
    """||M^T M - I||_F^2."""
    return (columns.T @ columns - torch.eye(columns.shape[1], device=columns.device)).square().sum()


class _Orthonormalising(torch.autograd.Function):
    """The identity, whose backward pass adds the gradient of `strength * ||M^T M - I||_F^2`."""

    @staticmethod
    def forward(ctx: Any, matrix: torch.Tensor, strength: float) -> torch.Tensor:
        ctx.save_for_backward(matrix)
        ctx.strength = strength
        return matrix.view_as(matrix)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        (matrix,) = ctx.saved_tensors
        return grad + 4 * ctx.strength * (matrix @ (matrix.T @ matrix) - matrix), None


@dataclass
class CoLinConfig(ResidualAdapterConfig):
    """Configuration of CoLin (2026): `h + colin(h)` after each residual, where Mona stands too.

    `MonaConfig` explains the fields that all methods share. The defaults are those of the authors' code.

    Args:
        bottleneck_dim: Number of channels of the bottleneck.
        rank: Rank of the projections.
        num_branches: Number of diagonals.
        kernel_size: Size of the depthwise filter, odd.
        orthogonality_weight: Weight of the orthogonality loss, whose gradient every backward pass in training adds to
            that of the task (see `CoLin`); 0 leaves it out.
        sites: After which residual an adapter stands: `"attention"`, `"mlp"`, or both.
        init_weights: `True`: as the authors', but for the left factor of the up projection, which is zero, so that the
            adapted model starts equal to the base. `"paper"`: the authors' initialisation from singular vectors.
            `False`: nothing is zero, for tests.

    Raises:
        ValueError: If a value is out of range; the message says what is allowed.
    """

    bottleneck_dim: int = field(default=100, metadata={"help": "Number of channels of the bottleneck."})
    rank: int = field(default=28, metadata={"help": "Rank of the projections."})
    num_branches: int = field(default=4, metadata={"help": "Number of diagonals."})
    kernel_size: int = field(default=3, metadata={"help": "Size of the depthwise filter, odd."})
    orthogonality_weight: float = field(default=0.5, metadata={"help": "Weight of the orthogonality loss."})

    method = "colin"
    title = "CoLin"
    placement = AfterResidual

    def __post_init__(self) -> None:
        """Check and normalise the fields."""
        super().__post_init__()
        for name in ("bottleneck_dim", "rank"):
            self._check_integer(name, minimum=1, maximum=MAX_DIM)
        self._check_integer("num_branches", minimum=1, maximum=MAX_BRANCHES)
        self._check_integer("kernel_size", minimum=1, maximum=MAX_KERNEL_SIZE)
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={self.kernel_size}: give an odd number; an even filter would move the map.")
        self._check_finite("orthogonality_weight")

    def make_adapter(self, dim: int) -> CoLin:
        """Build one CoLin for blocks of `dim` channels.

        Raises:
            ValueError: If `rank` is larger than `dim`.
        """
        sizes = (self.bottleneck_dim, self.rank, self.num_branches, self.kernel_size)
        return CoLin(dim, *sizes, self.orthogonality_weight)


CoLinModel = register_method(CoLinConfig)
CoLinLayer = CoLinModel.tuner_layer_cls
