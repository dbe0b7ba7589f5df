"""Mona, the multi-cognitive visual adapter: the module, and its PEFT configuration, layer and model.

Source: Yin et al., "5%>100%: Breaking Performance Shackles of Full Fine-Tuning on Visual Recognition Tasks", CVPR 2025,
section 3; earlier "Adapter is All You Need for Tuning Visual Tasks", arXiv:2311.15010.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import nn

from mona_peft.blocks import Grid, ReorderedGrid, VideoGrid, tokens_of
from mona_peft.config import ResidualAdapterConfig
from mona_peft.functional.dispatch import add_mona_, mona_delta
from mona_peft.functional.folding import can_fold
from mona_peft.functional.formula import FilterReduction, NormPosition, Settings, Weights, mona_over_time
from mona_peft.host.block import ResidualAdapter, initialises
from mona_peft.integration.registration import register_method

NORM_POSITIONS = get_args(NormPosition)
FILTER_REDUCTIONS = get_args(FilterReduction)
NORM_PARAMETERS = ("norm_weight", "norm_bias", "gamma", "gammax")
MAX_BOTTLENECK_DIM, MAX_KERNEL_SIZE = 2**15, 255
"""Limits that no model reaches; a configuration from elsewhere shall not ask for more memory than there is."""


class Mona(ResidualAdapter):
    r"""Multi-cognitive visual adapter of a token map.

    With `x` of shape (B, N, C) and a bottleneck of n channels (paper, section 3.2 and 3.3):

        u = LayerNorm(x) * gamma + x * gammax                    (scaled norm)
        p = Linear(C -> n)(u), seen as (B, n, H, W)
        p = mean_k(depthwise_k(p)) + p,  k in kernel_sizes       (multi-cognitive filters)
        p = conv1x1(p) + p
        delta = Linear(n -> C)(dropout(gelu(p)))

    The adapted map is `x + delta`: the caller adds, or has it added in place by `add_`. Both compute this in fewer and
    larger steps (`mona_peft.functional`), to the same result but for rounding. Tokens before the last H * W (a class
    token, registers) have no place in the grid: they take the linear path and skip the convolutions.

    All parameters lie directly on the module, none in a child, so that their names are the file format of adapters and
    nothing that walks a model by module type (quantisation, `_init_weights`, "all-linear") touches them.

    Args:
        dim: Number of channels C.
        bottleneck_dim: Number of channels n of the bottleneck.
        kernel_sizes: Sizes of the depthwise filters, odd and distinct.
        dropout: Probability with which a channel of a token is dropped before the up projection, in training.
        norm_position: Where the scaled norm stands: on the `"input"` (the paper), on the `"bottleneck"` in front of the
            convolutions, or `"none"`; the latter two are the authors' earlier design versions.
        filter_reduction: `"mean"` of the filters (the paper) or their `"sum"` (an earlier version).
        temporal_kernel_size: Size of a depthwise filter over the frames of a video, `p = time(p) + p` in front of the
            filters of each frame; zero at the start. None: frames are seen one by one. Not of the paper.
    """

    def __init__(
        self,
        dim: int,
        bottleneck_dim: int = 64,
        kernel_sizes: Sequence[int] = (3, 5, 7),
        dropout: float = 0.1,
        norm_position: NormPosition = "input",
        filter_reduction: FilterReduction = "mean",
        temporal_kernel_size: int | None = None,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.bottleneck_dim = bottleneck_dim
        self.kernel_sizes = tuple(kernel_sizes)
        self.dropout = dropout
        self.norm_position = norm_position
        self.filter_reduction = filter_reduction
        self.temporal_kernel_size = temporal_kernel_size

        if norm_position != "none":
            norm_dim = dim if norm_position == "input" else bottleneck_dim
            self.norm_weight = nn.Parameter(torch.empty(norm_dim))
            self.norm_bias = nn.Parameter(torch.empty(norm_dim))
            self.gamma = nn.Parameter(torch.empty(norm_dim))
            self.gammax = nn.Parameter(torch.empty(norm_dim))
        self.down_weight = nn.Parameter(torch.empty(bottleneck_dim, dim))
        self.down_bias = nn.Parameter(torch.empty(bottleneck_dim))
        for size in self.kernel_sizes:
            self.register_parameter(f"dw{size}_weight", nn.Parameter(torch.empty(bottleneck_dim, 1, size, size)))
            self.register_parameter(f"dw{size}_bias", nn.Parameter(torch.empty(bottleneck_dim)))
        if temporal_kernel_size is not None:
            self.time_weight = nn.Parameter(torch.empty(bottleneck_dim, 1, temporal_kernel_size))
        self.pw_weight = nn.Parameter(torch.empty(bottleneck_dim, bottleneck_dim, 1, 1))
        self.pw_bias = nn.Parameter(torch.empty(bottleneck_dim))
        self.up_weight = nn.Parameter(torch.empty(dim, bottleneck_dim))
        self.up_bias = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    @initialises
    def reset_parameters(self, init_weights: bool | Literal["paper"] = "paper") -> None:
        """Initialise all parameters.

        Args:
            init_weights: `"paper"` is the authors' initialisation: projections from a normal distribution of standard
                deviation 0.02, their biases zero, convolutions at PyTorch's default, gamma 1e-6, gammax 1. It shifts
                the input by some per cent already. `True` sets the up projection to zero besides, so that delta is
                exactly zero; `False` leaves nothing at a constant, for tests.
        """
        for name, parameter in self.named_parameters():
            if name.endswith("_bias"):
                nn.init.zeros_(parameter)
        if self.norm_position != "none":
            nn.init.ones_(self.norm_weight)
            nn.init.constant_(self.gamma, 1e-6)
            nn.init.ones_(self.gammax)
        # The authors truncate it at a hundred standard deviations, where no draw lies; looking would double the time.
        nn.init.normal_(self.down_weight, std=0.02)
        nn.init.normal_(self.up_weight, std=0.02)
        for name in [*(f"dw{size}" for size in self.kernel_sizes), "pw"]:
            weight, bias = self.get_parameter(f"{name}_weight"), self.get_parameter(f"{name}_bias")
            # PyTorch's default of a convolution: uniform within 1 / sqrt(fan in), for weight and bias.
            bound = weight[0].numel() ** -0.5
            nn.init.uniform_(weight, -bound, bound)
            nn.init.uniform_(bias, -bound, bound)
        if self.sees_time:
            nn.init.zeros_(self.time_weight)
        if init_weights is True:
            nn.init.zeros_(self.up_weight)
        elif init_weights is False:
            for parameter in self.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.02)

    def forward(
        self, hidden_states: torch.Tensor, grid: Grid | VideoGrid | ReorderedGrid, in_place: bool = False
    ) -> torch.Tensor:
        """Compute what the adapter adds to a token map.

        Args:
            hidden_states: Tokens `x` of shape (B, P + H * W, C): P prefix tokens, then the grid, row by row.
            grid: (H, W); with a filter over time (T, H, W), all of the tokens; or how they lie, if not row by row.
            in_place: Add it to `hidden_states`, which may then be a map (B, C, H, W), channels last in memory. That
                keeps least for the backward pass, which has the input back from the output: neither may be edited in
                place before it has run.

        Returns:
            `delta` of the shape of `hidden_states`; with `in_place` `hidden_states`, to which it has been added.

        Raises:
            ValueError: If there are fewer tokens than the grid has places.
        """
        if isinstance(grid, tuple) and len(grid) == 3:
            delta = mona_over_time(hidden_states, grid, self.weights(), self.settings(), self.time_weight)
            return delta.to(hidden_states.dtype)
        self._check_grid(tokens_of(hidden_states), grid)
        compute = add_mona_ if in_place else mona_delta
        return compute(hidden_states, grid, self.weights(), self.settings())

    takes_any_order = True

    @property
    def sees_time(self) -> bool:
        """Whether it takes the frames of a video together."""
        return self.temporal_kernel_size is not None

    @property
    def adds_in_place(self) -> bool:
        """Whether the host should ask for `in_place`; the rarely used places of the norm gain nothing from it."""
        return not self.sees_time and can_fold(self.settings())

    def _check_grid(self, hidden_states: torch.Tensor, grid: Grid | ReorderedGrid) -> None:
        num_tokens = hidden_states.shape[1]
        if isinstance(grid, ReorderedGrid):
            num_tokens, grid = num_tokens * grid.windows_a_side**2, grid.grid
        num_places = grid[0] * grid[1]
        if num_tokens < num_places:
            raise ValueError(
                f"Mona got {num_tokens} tokens for a grid of {grid[0]} x {grid[1]} = {num_places} places. "
                "Were tokens dropped before the block? Mona needs the whole map."
            )

    def weights(self) -> Weights:
        """Return the parameters as the functions in `mona_peft.functional` take them."""
        return Weights(
            *(self._weight(name) if self.norm_position != "none" else None for name in NORM_PARAMETERS),
            self._weight("down_weight"),
            self._weight("down_bias"),
            tuple([self._weight(f"dw{size}_weight") for size in self.kernel_sizes]),
            tuple([self._weight(f"dw{size}_bias") for size in self.kernel_sizes]),
            self._weight("pw_weight"),
            self._weight("pw_bias"),
            self._weight("up_weight"),
            self._weight("up_bias"),
        )

    def _weight(self, name: str) -> torch.Tensor:
        # As attributes of the module, parameters take ten times as long. Pruned and parametrised ones are nothing else.
        parameter = self._parameters.get(name)
        return getattr(self, name) if parameter is None else parameter

    def settings(self) -> Settings:
        """Return the settings as the functions in `mona_peft.functional` take them."""
        return Settings(self.norm_position, self.filter_reduction, self.dropout if self.training else 0.0)

    def extra_repr(self) -> str:
        """Show the settings in `repr`."""
        return (
            f"{self.dim}, bottleneck_dim={self.bottleneck_dim}, kernel_sizes={self.kernel_sizes}, "
            f"dropout={self.dropout}, norm_position={self.norm_position!r}, filter_reduction={self.filter_reduction!r}"
        )


@dataclass
class MonaConfig(ResidualAdapterConfig):
    """Configuration of Mona, the multi-cognitive visual adapter (CVPR 2025).

    `MonaConfig()` is the paper's Mona in every block of the model's backbone. The defaults of `bottleneck_dim`,
    `kernel_sizes`, `dropout`, `sites`, `norm_position` and `filter_reduction` are the paper's; `init_weights` is not:
    the authors' initialisation changes the model's outputs before the first step, ours does not.

    Args:
        target_modules: Blocks to adapt, by PEFT's rules: a list of names or their endings (`["blocks.0"]`), or a
            regular expression for the whole name. `None` takes every block of the backbone, whatever the names are.
        exclude_modules: Blocks to leave out, by the same rules.
        layers_to_transform: Ordinals of the blocks to adapt among all blocks of the model, from 0; one or a list.
        modules_to_save: Modules besides the adapters that are trained and saved. `"task-head"` stands for all that
            stands outside the backbone (classifier, decode head, ...), resolved to names when the adapter is attached.
            `None` trains adapters alone, and warns when a head stays frozen; `[]` does so without the warning.
        bottleneck_dim: Number of channels of the bottleneck; the paper tries 32, 64 and 128.
        kernel_sizes: Sizes of the depthwise filters, odd and distinct.
        dropout: Dropout probability before the up projection.
        sites: Where in a block an adapter stands: after the residual of `"attention"`, of the `"mlp"`, or both.
        norm_position: Where the scaled norm stands: `"input"`, or as in the authors' earlier design versions
            `"bottleneck"` (in front of the convolutions) or `"none"`.
        filter_reduction: `"mean"` of the filters' outputs or, as in an earlier version, their `"sum"`.
        temporal_kernel_size: Size, odd, of one more depthwise filter, over the frames of a video, in front of the
            others and with a residual; zero at the start. `None`: frames are seen one by one. Not of the paper, and
            only for blocks that see whole videos (VideoMAE, V-JEPA 2). It takes the plain formula's memory and time.
        init_weights: `True`: the up projection is zero and the adapted model starts equal to the base. `"paper"`: the
            authors' initialisation. `False`: nothing is zero, for tests.
        recompute_mlp: Recompute the MLP branches of the adapted blocks in the backward pass instead of keeping the
            inputs of their activation functions, four times as wide as the block. Changes memory and time, no result.
        recompute_attention: Recompute the attention branches too, of blocks that are known to allow it (Swin, ViT,
            DINOv2, DINOv3, CLIP and others of their kind).

    Raises:
        ValueError: If a value is out of range; the message says what is allowed.
    """

    bottleneck_dim: int = field(default=64, metadata={"help": "Number of channels of the bottleneck."})
    kernel_sizes: tuple[int, ...] = field(
        default=(3, 5, 7), metadata={"help": "Sizes of the depthwise filters, odd and distinct."}
    )
    dropout: float = field(default=0.1, metadata={"help": "Dropout probability before the up projection."})
    norm_position: str = field(
        default="input", metadata={"help": "Where the scaled norm stands: 'input', 'bottleneck' or 'none'."}
    )
    filter_reduction: str = field(default="mean", metadata={"help": "'mean' or 'sum' of the filters' outputs."})
    temporal_kernel_size: int | None = field(
        default=None, metadata={"help": "Size, odd, of a depthwise filter over the frames of a video; None: no filter."}
    )

    method = "mona"
    title = "Mona adapter"

    def __post_init__(self) -> None:
        """Check and normalise the fields."""
        super().__post_init__()
        self._check_integer("bottleneck_dim", minimum=1, maximum=MAX_BOTTLENECK_DIM)
        self._check_items("kernel_sizes", int, "whole numbers")
        self.kernel_sizes = (
            (self.kernel_sizes,) if isinstance(self.kernel_sizes, int) else tuple(self.kernel_sizes or ())
        )
        odd = all(0 < size <= MAX_KERNEL_SIZE and size % 2 == 1 for size in self.kernel_sizes)
        if not self.kernel_sizes or not odd or len(set(self.kernel_sizes)) < len(self.kernel_sizes):
            raise ValueError(
                f"kernel_sizes={self.kernel_sizes!r}: give at least one positive odd number and none twice, up to "
                f"{MAX_KERNEL_SIZE}, such as (3, 5, 7). An even filter has no centre and would move the map."
            )
        self._check_probability("dropout")
        self._check_choice("norm_position", NORM_POSITIONS)
        self._check_choice("filter_reduction", FILTER_REDUCTIONS)
        if self.temporal_kernel_size is not None:
            self._check_integer("temporal_kernel_size", minimum=1, maximum=MAX_KERNEL_SIZE)
            if self.temporal_kernel_size % 2 == 0:
                raise ValueError(
                    f"temporal_kernel_size={self.temporal_kernel_size}: give an odd number, such as 3. An even filter "
                    "has no centre and would move the video in time."
                )

    @property
    def needs_frames(self) -> str | None:
        """What asks for blocks that see whole videos."""
        return None if self.temporal_kernel_size is None else f"temporal_kernel_size={self.temporal_kernel_size}"

    def make_adapter(self, dim: int) -> Mona:
        """Build one Mona for blocks of `dim` channels."""
        return Mona(
            dim,
            self.bottleneck_dim,
            self.kernel_sizes,
            self.dropout,
            self.norm_position,
            self.filter_reduction,
            self.temporal_kernel_size,
        )


MonaModel = register_method(MonaConfig)
MonaLayer = MonaModel.tuner_layer_cls
