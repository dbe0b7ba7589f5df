"""Where in a block the adapters of a method stand: what they read, and where what they compute is added.

For a block `h = x + a, out = h + m` with the branches `a = attn(norm(x))` and `m = mlp(norm(h))` there are three:

- `AfterResidual`: `h <- h + f1(h)`, `out <- out + f2(out)` (Mona, CoLin);
- `OnBranch`: `a <- a + f1(a)`, `m <- m + f2(m)` (Adapter, LoRand);
- `BesideMlp`: `out <- out + f(h)` (AdaptFormer).

A placement lives for one call of a block. It names the children of the block to be tapped, and how; `host/block.py`
runs the block with them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from mona_peft.blocks import (
    ATTENTION,
    MLP,
    SITES,
    BlockAnatomy,
    Layout,
    Maps,
    anatomy_of,
    from_tokens,
    is_dense,
    is_one_map,
    to_tokens,
)
from mona_peft.host.block import change_first, is_watched, may_be_overwritten

Change = Callable[[torch.Tensor], torch.Tensor]


class _Tap:
    """Stands for a child of a block, for one call of the block."""

    def __init__(self, child: Callable[..., Any], change: Change) -> None:
        self.child = child
        self.change = change
        self.reached = False


class InputTap(_Tap):
    """Changes the hidden states that the child receives."""

    def __call__(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Call the child with the changed hidden states."""
        self.reached = True
        return self.child(self.change(hidden_states), *args, **kwargs)


class OutputTap(_Tap):
    """Changes the hidden states that the child returns, alone or first in a tuple."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the child and change what it returns."""
        self.reached = True
        return change_first(self.child(*args, **kwargs), self.change)


class Placement:
    """The adapters of a block for one call, at one placement.

    Args:
        adapter_layer: The block's child with the adapters.
        grid: (H, W) of the tokens, or where several maps lie.
        adapter_names: Names of the adapters of each sample; without them the active adapters take part.
    """

    sites: tuple[str, ...] = SITES
    """At which halves of a block an adapter may stand in this place."""

    def __init__(self, adapter_layer: nn.Module, grid: Maps, adapter_names: Sequence[str] | None) -> None:
        self.adapter_layer = adapter_layer
        self.adapter_names = adapter_names
        self.anatomy = adapter_layer.anatomy
        self.token_map = adapter_layer.token_map
        self.grid = grid

    @classmethod
    def sites_of(cls, anatomy: BlockAnatomy) -> tuple[str, ...]:
        """Return the sites that a block of this anatomy has in this place."""
        raise NotImplementedError

    @classmethod
    def check(cls, block: nn.Module, sites: Sequence[str]) -> None:
        """Check that a block has what adapters at `sites` need.

        Raises:
            ValueError: If it has not.
        """

    def taps(self) -> dict[str, Callable[[Callable[..., Any]], _Tap]]:
        """Return, by the name of a child of the block, what makes a tap of the child."""
        changes = {self.anatomy.mlp_entry: self.at_mlp_entry, self.anatomy.mlp_exit: self.at_end}
        return {name: partial(InputTap, change=change) for name, change in changes.items() if name is not None}

    def at_mlp_entry(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return what enters the MLP branch in the place of `h`."""
        raise NotImplementedError

    def at_end(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return what leaves the block in the place of `hidden_states`."""
        return hidden_states

    def _add(self, hidden_states: torch.Tensor, delta: torch.Tensor | None, layout: Layout) -> torch.Tensor:
        if delta is None:
            return hidden_states
        grid = self.token_map.grid_at(hidden_states, layout, self.grid)
        return hidden_states + from_tokens(delta, layout, grid)

    def _names(self, hidden_states: torch.Tensor) -> list[str] | None:
        """Return the adapter of each entry of a batch: its entries may be windows, those of a sample together."""
        if self.adapter_names is None:
            return None
        times = hidden_states.shape[0] // max(1, len(self.adapter_names))
        return [name for name in self.adapter_names for _ in range(times)]


class AfterResidual(Placement):
    """After the attention's residual and after the MLP's.

    No child of a block returns `h`, so none can be wrapped. But one receives it: the module where the MLP branch
    enters. Its tap lets the adapter compute `d1 = f1(h)`, hands `h + d1` to the child and remembers `d1`, which is then
    added to the block's output: `(h + d1) + mlp(norm(h + d1))`, exactly the block with `h + d1` in the place of `h`.
    The second adapter follows. A block that goes on behind its MLP residual (ViTDet) is tapped there too, and one with
    a single residual (ConvNeXt) has the second adapter alone. An adapter that can writes `h + d1` into the tensor `h`
    itself: the stock `forward` then goes on with it by itself.
    """

    attention_delta: torch.Tensor | None = None
    """d1, as tokens."""

    @classmethod
    def sites_of(cls, anatomy: BlockAnatomy) -> tuple[str, ...]:
        """Both, or that of the MLP in a block with one residual."""
        return SITES if anatomy.mlp_entry is not None else (MLP,)

    def at_mlp_entry(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return `h + d1`."""
        total, self.attention_delta = self._adapt(hidden_states, self.token_map.mlp_entry_layout, ATTENTION)
        return total

    def at_end(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return the stock block's `h + mlp(norm(h + d1))`, to which d1 is still to be added, with d1 and d2."""
        layout = self.token_map.layout
        hidden_states = self._add(hidden_states, self.attention_delta, layout)
        return self._adapt(hidden_states, layout, MLP)[0]

    def _adapt(
        self, hidden_states: torch.Tensor, layout: Layout, site: str
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the adapted hidden states, and as tokens what `hidden_states` itself still lacks of them, if any."""
        grid = self.token_map.grid_at(hidden_states, layout, self.grid)
        tokens = to_tokens(hidden_states, layout)
        # Only into the very memory that the block goes on with: `tokens` may be a copy of it in another order.
        as_rows = layout is Layout.BHWC and hidden_states.is_contiguous()
        changed = tokens if as_rows else hidden_states
        if (
            (tokens is changed or (layout is Layout.BCHW and is_dense(hidden_states)))
            and is_one_map(grid)
            and self.adapter_names is None
            and self.anatomy.fresh_sums
            and may_be_overwritten(changed)
            and not is_watched(self.adapter_layer)
        ):
            total = self.adapter_layer.add_(changed, grid, site)
            if total is changed:
                return hidden_states, None
            if total is not None:  # while compiling
                return (from_tokens(total, layout, grid) if as_rows else total), None
        delta = self.adapter_layer(tokens, grid, site, adapter_names=self._names(hidden_states))
        return self._add(hidden_states, delta, layout), delta


class OnBranch(Placement):
    """On the output of the attention branch and of the MLP branch, each before its residual and stochastic depth.

    The adapters work on each token by itself, so it does not matter that those of the attention branch may still lie in
    windows. In SwinV2 the branch ends with its norm, and the adapter follows it: it reads, and adds to, what the
    residual adds.
    """

    @classmethod
    def sites_of(cls, anatomy: BlockAnatomy) -> tuple[str, ...]:
        """Return the sites of the branches that are known."""
        return tuple(cls._ends(anatomy))

    @classmethod
    def _ends(cls, anatomy: BlockAnatomy) -> dict[str, str]:
        """Return the last child of each known branch, by site."""
        ends = {ATTENTION: anatomy.attention_branch, MLP: anatomy.mlp_branch[-1] if anatomy.mlp_branch else None}
        return {site: end for site, end in ends.items() if end is not None}

    @classmethod
    def check(cls, block: nn.Module, sites: Sequence[str]) -> None:
        """Check that both branches are known, as far as `sites` needs them.

        Raises:
            ValueError: If one is not, or ends with a child that does not exist.
        """
        ends = cls._ends(anatomy_of(block))
        missing = [site for site in sites if not isinstance(getattr(block, ends.get(site, ""), None), nn.Module)]
        if missing:
            children = [child for child, _ in block.named_children()]
            raise ValueError(
                f"This method adapts the output of the attention branch and of the MLP branch, and of "
                f"{type(block).__name__} it is not known where {' and '.join(missing)} ends (its submodules are "
                f"{children}). Register the block with the names of these submodules: `mona_peft.register_block(..., "
                "BlockAnatomy(attention_branch=..., mlp_branch=(...)))`."
            )

    def taps(self) -> dict[str, Callable[[Callable[..., Any]], _Tap]]:
        """Change what the last child of each branch returns."""
        return {
            end: partial(OutputTap, change=partial(self._adapted, site=site))
            for site, end in self._ends(self.anatomy).items()
        }

    def _adapted(self, hidden_states: torch.Tensor, site: str) -> torch.Tensor:
        """Return `a + f(a)`, for tokens of shape (B, ..., C), or (B * windows, ..., C)."""
        delta = self.adapter_layer(hidden_states, None, site, adapter_names=self._names(hidden_states))
        return hidden_states if delta is None else hidden_states + delta


class BesideMlp(Placement):
    """Parallel to the MLP branch: reads `h` in front of the norm, adds to the block's output."""

    sites = (MLP,)

    @classmethod
    def sites_of(cls, anatomy: BlockAnatomy) -> tuple[str, ...]:
        """That of the MLP, if there is an MLP branch of its own."""
        return (MLP,) if anatomy.mlp_entry is not None else ()

    def at_mlp_entry(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return `h` as it is, and remember `f(h)`."""
        layout = self.token_map.mlp_entry_layout
        grid = self.token_map.grid_at(hidden_states, layout, self.grid)
        tokens = to_tokens(hidden_states, layout)
        self.delta = self.adapter_layer(tokens, grid, MLP, adapter_names=self._names(hidden_states))
        return hidden_states

    def at_end(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return the block's output with `f(h)` added."""
        return self._add(hidden_states, self.delta, self.token_map.layout)
