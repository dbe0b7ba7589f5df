"""The token map of one block in one model: where its grid comes from, and in which order and layout its tokens lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from mona_peft.blocks.families import anatomy_of
from mona_peft.blocks.grid import GridArguments, GridOfMap, GridOfPatches
from mona_peft.blocks.layout import Grid, Layout, Strides, from_tokens, to_tokens
from mona_peft.blocks.patch_grids import patch_grids_of


@dataclass
class TokenMap:
    """Reads the grid of a block and converts between its hidden states and tokens (B, N, C), row by row.

    Attributes:
        source: Reads (H, W) in each call.
        layout: Layout of the block's hidden states.
        mlp_entry_layout: Their layout where the MLP branch enters.
        strides: Strides of the mask units in which the tokens lie, if they do.
    """

    source: GridArguments | GridOfMap | GridOfPatches
    layout: Layout
    mlp_entry_layout: Layout
    strides: Strides = ()

    def to_tokens(self, hidden_states: torch.Tensor, layout: Layout, grid: Grid) -> torch.Tensor:
        """Turn hidden states in `layout` into tokens of shape (B, N, C)."""
        return to_tokens(hidden_states, layout, grid, self.strides)

    def from_tokens(self, tokens: torch.Tensor, layout: Layout, grid: Grid) -> torch.Tensor:
        """Turn tokens of shape (B, N, C) into `layout`."""
        return from_tokens(tokens, layout, grid, self.strides)


def check_token_map(model: nn.Module, name: str) -> None:
    """Check that the token map of the block called `name` can be read, without changing anything.

    Raises:
        ValueError: If what its anatomy names does not exist in this block or around it.
    """
    block = model.get_submodule(name)
    anatomy = anatomy_of(block)
    if anatomy.grid_arguments:
        GridArguments.of(block, anatomy.grid_arguments)
    if anatomy.patch_projection is not None:
        _patch_projection(model, name, anatomy.patch_projection)
    if anatomy.unroll_schedule is not None:
        _unrolling(model, name, anatomy.unroll_schedule)


def token_map_of(model: nn.Module, name: str) -> TokenMap:
    """Return the token map of the block called `name`; a patch projection that it needs gets its hook.

    Raises:
        ValueError: If what its anatomy names does not exist in this block or around it.
    """
    block = model.get_submodule(name)
    anatomy = anatomy_of(block)
    entry_layout = anatomy.mlp_entry_layout or anatomy.layout
    if anatomy.grid_arguments:
        return TokenMap(GridArguments.of(block, anatomy.grid_arguments), anatomy.layout, entry_layout)
    if anatomy.patch_projection is None:
        return TokenMap(GridOfMap(anatomy.layout), anatomy.layout, entry_layout)
    grids = patch_grids_of(*_patch_projection(model, name, anatomy.patch_projection))
    if anatomy.unroll_schedule is None:
        return TokenMap(GridOfPatches(grids), anatomy.layout, entry_layout)
    pooling, strides = _unrolling(model, name, anatomy.unroll_schedule)
    return TokenMap(GridOfPatches(grids, pooling), anatomy.layout, entry_layout, strides)


def _around(model: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules around the module called `name`, from the inside out."""
    parts = name.split(".") if name else []
    for length in reversed(range(len(parts))):
        around = ".".join(parts[:length])
        yield around, model.get_submodule(around)


def _patch_projection(model: nn.Module, name: str, ending: str) -> tuple[nn.Module, nn.Module]:
    """Return the patch projection of a block, and the nearest module around both."""
    for around, module in _around(model, name):
        found = {child: m for child, m in module.named_modules() if child == ending or child.endswith(f".{ending}")}
        if len(found) > 1:
            raise ValueError(
                f"The anatomy of {name} takes the grid from {ending!r}, but {around or 'the model'} holds several: "
                f"{sorted(found)}. Adapt each backbone by itself, or register the block with a longer ending: "
                "`mona_peft.register_block(..., BlockAnatomy(patch_projection=...))`."
            )
        if found:
            return next(iter(found.values())), module
    convolutions = [child for child, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    raise ValueError(
        f"The anatomy of {name} takes the grid from {ending!r}, but no module of that name is around it. The model's "
        f"convolutions are {convolutions[:8]}. Register the right one: `mona_peft.register_block(..., "
        "BlockAnatomy(patch_projection=...))`."
    )


def _unrolling(model: nn.Module, name: str, attribute: str) -> tuple[tuple[tuple[int, int], ...], Strides]:
    """Return the factors by which the grid was pooled in front of a block's end, and the strides still unrolled."""
    for around, module in _around(model, name):
        schedule = getattr(module, attribute, None)
        if schedule is not None:
            stage = next(int(part) for part in name[len(around) :].split(".") if part.isdigit())
            strides, all_strides = schedule[stage][0], schedule[0][0]
            pooled = all_strides[: len(all_strides) - len(strides)]
            return tuple(map(tuple, pooled)), tuple(map(tuple, strides))
    raise ValueError(
        f"The anatomy of {name} takes the order of its tokens from {attribute!r}, which nothing around has."
    )
