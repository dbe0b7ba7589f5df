"""The layer that holds all adapters of one block."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from mona_peft.blocks import SITES, Maps, ReorderedGrid, TokenMap, anatomy_of, norm_of, on_each_map, width_of
from mona_peft.config import ResidualAdapterConfig
from mona_peft.host.block import is_watched
from mona_peft.host.per_sample import rows_by_adapter

MERGE_MESSAGE = (
    "These adapters are not linear (a GELU stands between their projections), so they cannot be merged into the "
    "backbone's weights. Save them with save_pretrained() and load them onto the backbone, or call unload() to get the "
    "backbone back without them."
)


class FreeTunerLayer(nn.Module, BaseTunerLayer):
    """A tuner layer that wraps no module; PEFT looks for one, and for its weight and bias."""

    other_param_names = ()

    def __init__(self) -> None:
        super().__init__()
        self._disable_adapters = False
        self._active_adapter: str | list[str] = []
        self.merged_adapters: list[str] = []

    def get_base_layer(self) -> nn.Module:
        """Return the layer itself: it stands beside what it adapts."""
        return self

    @property
    def weight(self) -> None:
        """No weight is adapted, so there is none to show."""
        return None

    @property
    def bias(self) -> None:
        """No bias of its own, so there is none to show."""
        return None


class ResidualAdapterLayer(FreeTunerLayer):
    """The adapters of one block, by site and adapter name.

    It is a child of the block and holds all adapter state of it, so that the block itself is no tuner layer: PEFT takes
    everything on a tuner layer for adapter weights.

    Args:
        block: The block, known to `mona_peft.blocks`.
        token_map: Reads the grid and the tokens of the block.

    Attributes:
        dim: Width C of the block; `in_features` and `out_features` are the same.
        anatomy: The block's anatomy.
        recomputed: Sites whose branches an adapter asks to be recomputed, by its name.
        adapter_weights: Factor of each active adapter's output; an adapter that is not named has 1.
        trained_heads: The heads of the whole model that PEFT trains and saves.
    """

    config_cls: type[ResidualAdapterConfig]
    """Configuration of the method."""

    # What PEFT deletes of an adapter besides its modules.
    other_param_names = ("recomputed", "adapter_weights")

    def __init__(self, block: nn.Module, token_map: TokenMap) -> None:
        super().__init__()
        self.dim = width_of(block)
        self.in_features = self.out_features = self.dim
        self.anatomy = anatomy_of(block)
        self.token_map = token_map
        for name in self.adapter_layer_names:
            setattr(self, name, nn.ModuleDict())
        self.adapter_weights: dict[str, float] = {}
        self.recomputed: dict[str, tuple[str, ...]] = {}
        self.trained_heads: list[nn.Module] = []
        self.train(block.training)

    def update_layer(self, adapter_name: str, config: ResidualAdapterConfig, block: nn.Module) -> None:
        """Add the adapters called `adapter_name` at the sites that `config` names, on the device of `block`."""
        self.recomputed[adapter_name] = config.recomputed
        for site in config.sites_in(self.anatomy):
            adapter = _new_adapter(config, self.dim, *_device_and_dtype(block)).train(block.training)
            self._adapters_by_site()[site][adapter_name] = adapter

    @classmethod
    def child_of(cls, site: str) -> str:
        """Return the name of the layer's child with the adapters at a site."""
        return dict(zip(SITES, cls.adapter_layer_names, strict=True))[site]

    def _adapters_by_site(self) -> dict[str, nn.ModuleDict]:
        return {site: getattr(self, name) for site, name in zip(SITES, self.adapter_layer_names, strict=True)}

    def set_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Make adapters active, as `BaseTunerLayer.set_adapter` does; others than now have the weight 1."""
        before = set(self.active_adapters)
        super().set_adapter(*args, **kwargs)
        # PEFT calls this with the same names whenever an adapter is added, loaded or switched on again.
        if set(self.active_adapters) != before:
            self.adapter_weights = {}

    def enable_adapters(self, enabled: bool) -> None:
        """Switch the adapters, and the trained heads with them, on or off."""
        super().enable_adapters(enabled)
        # transformers' enable_adapters() forgets the heads, which its disable_adapters() switches off.
        for head in self.trained_heads:
            head.enable_adapters(enabled)

    def is_active(self, adapter_names: Sequence[str] | None = None) -> bool:
        """Whether any adapter of this block takes part in the forward pass.

        Args:
            adapter_names: Names of the adapters of each sample, which have to fit the batch, whatever they are;
                without them the active adapters count.
        """
        if self.disable_adapters:
            return False
        if adapter_names is not None:
            return True
        return any(name in adapters for name in self.active_adapters for adapters in self._adapters_by_site().values())

    def recomputed_sites(self) -> list[str]:
        """Return the sites whose branches an active adapter asks to be recomputed in the backward pass."""
        return [site for site in SITES if any(site in self.recomputed.get(name, ()) for name in self.active_adapters)]

    def forward(
        self,
        hidden_states: torch.Tensor,
        grid: Maps | None,
        site: str,
        adapter_names: Sequence[str] | None = None,
    ) -> torch.Tensor | None:
        """Compute the weighted sum of what the active adapters add at a site.

        Args:
            hidden_states: Tokens of shape (B, N, C); adapters that need no grid take any shape (B, ..., C).
            grid: (H, W), or where one map or several lie; None for adapters that need no grid.
            site: One of `SITES`.
            adapter_names: B names: each sample gets its own adapter alone, whichever are active.

        Returns:
            Tensor of the shape and dtype of `hidden_states`, or None if no adapter takes part at the site.

        Raises:
            ValueError: If there are not B names.
        """
        adapters = self._adapters_by_site()[site]
        if adapter_names is not None:
            return self._delta_per_sample(adapters, hidden_states, grid, adapter_names)
        names = [name for name in self.active_adapters if name in adapters]
        delta = None
        for name in names:
            output = self._delta(adapters[name], hidden_states, grid)
            if name in self.adapter_weights:
                output = output * self.adapter_weights[name]
            delta = output if delta is None else delta + output
        return delta

    def add_(self, hidden_states: torch.Tensor, grid: Maps | None, site: str) -> torch.Tensor | None:
        """Add what the active adapter adds at a site to `hidden_states` in place, which needs less memory.

        Args:
            hidden_states: Tokens of shape (B, N, C), or a map (B, C, H, W), channels last in memory.
            grid: (H, W), or how the tokens of an image lie.
            site: One of `SITES`.

        Returns:
            The sum, to go on with; None if nothing was done, as there isn't one adapter alone that can do it.
        """
        adapters = self._adapters_by_site()[site]
        names = [name for name in self.active_adapters if name in adapters]
        only = adapters[names[0]] if len(names) == 1 and not self.adapter_weights else None
        if only is None or not only.adds_in_place or is_watched(only):
            return None
        if isinstance(grid, ReorderedGrid) and not only.takes_any_order:
            return None
        return only(hidden_states, grid, in_place=True)

    def _delta_per_sample(
        self, adapters: nn.ModuleDict, hidden_states: torch.Tensor, grid: Maps | None, adapter_names: Sequence[str]
    ) -> torch.Tensor:
        delta = torch.zeros_like(hidden_states)
        for name, rows in rows_by_adapter(adapter_names, hidden_states.shape[0]).items():
            if name in adapters:
                delta[rows] = self._delta(adapters[name], hidden_states[rows], grid)
        return delta

    def _delta(self, adapter: nn.Module, hidden_states: torch.Tensor, grid: Maps | None) -> torch.Tensor:
        inputs = self._cast_input_dtype(hidden_states, next(adapter.parameters()).dtype)
        if grid is None:
            outputs = adapter(inputs, None)
        else:
            outputs = on_each_map(adapter, inputs, grid, adapter.sees_time, adapter.takes_any_order)
        return outputs.to(hidden_states.dtype)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refuse: see `ResidualAdapterModel.merge_and_unload`."""
        raise NotImplementedError(MERGE_MESSAGE)

    def unmerge(self) -> None:
        """Refuse: nothing can have been merged."""
        raise NotImplementedError(MERGE_MESSAGE)


_blanks: ContextVar[dict[Any, nn.Module] | None] = ContextVar("_blanks", default=None)
"""Where weights follow: an adapter without weights for each width, device and type."""


@contextmanager
def weights_follow() -> Iterator[None]:
    """Leave out the initialisation of adapters that are attached within: their weights are loaded right after.

    Until then these are not numbers, so that one which were forgotten could not pass for trained.
    """
    token = _blanks.set({})
    try:
        yield
    finally:
        _blanks.reset(token)


def _new_adapter(config: ResidualAdapterConfig, dim: int, device: torch.device | None, dtype: torch.dtype) -> nn.Module:
    blanks, key = _blanks.get(), (dim, device, dtype)
    if blanks is None or key not in blanks:
        adapter = config.make_adapter(dim)
        adapter.reset_parameters(config.init_weights)
        if next(adapter.parameters()).device.type != "meta":
            adapter = adapter.to(device, dtype)
        if blanks is None:
            return adapter
        for parameter in filter(torch.is_floating_point, adapter.parameters()):
            nn.init.constant_(parameter, torch.nan)
        blanks[key] = adapter
    return copy.deepcopy(blanks[key])


def _device_and_dtype(block: nn.Module) -> tuple[torch.device | None, torch.dtype]:
    """Return where a block computes, and in which type; no device where its weights are nowhere yet."""
    norm = norm_of(block)
    if norm.weight.device.type != "meta":
        return norm.weight.device, norm.weight.dtype
    # accelerate's offloading leaves weights on the meta device between calls; its hook knows where they are used.
    return getattr(getattr(norm, "_hf_hook", None), "execution_device", None), norm.weight.dtype
