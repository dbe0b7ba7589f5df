"""The token map of one block in one model: where its grid comes from, and in which order and layout its tokens lie."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import nn

from mona_peft.blocks.grid import GridArguments, GridOfMap, GridOfPatches, GridsOfCall
from mona_peft.blocks.layout import Layout, grid_of_map
from mona_peft.blocks.lookup import anatomy_of, modules_around, modules_beside_blocks
from mona_peft.blocks.order import ReorderedGrid, Strides
from mona_peft.blocks.packed import Maps, packed_calls_of, position_of
from mona_peft.blocks.patch_grids import patch_grids_of


@dataclass
class TokenMap:
    """Reads the grid of a block, and says how its tokens lie.

    Attributes:
        source: Reads (H, W) in each call.
        layout: Layout of the block's hidden states.
        mlp_entry_layout: Their layout where the MLP branch enters.
        strides: Strides of the mask units in which the tokens lie, if they do.
        windows_a_side: Number of windows along each side of an image, if each is a sample of its own.
    """

    source: GridArguments | GridOfMap | GridOfPatches | GridsOfCall
    layout: Layout
    mlp_entry_layout: Layout
    strides: Strides = ()
    windows_a_side: int = 1

    def batch_size(self, hidden_states: torch.Tensor) -> int:
        """Return the number of images whose hidden states these are.

        Raises:
            ValueError: If they are of differing sizes, packed or padded: the active adapters take part in all of them.
        """
        if isinstance(self.source, GridsOfCall):
            raise ValueError(
                "adapter_names: images of differing sizes are packed or padded here, and the same adapters take part "
                "in all of them. Leave adapter_names out, and choose the adapter with set_adapter."
            )
        return hidden_states.shape[0] // self.windows_a_side**2

    def grid_at(self, hidden_states: torch.Tensor, layout: Layout, grid: Maps) -> Maps:
        """Return the grid of hidden states inside or behind a block with the grid `grid`: maps may have been pooled."""
        if layout not in (Layout.BNC, Layout.NC):
            return grid_of_map(hidden_states, layout)
        if self.strides or self.windows_a_side > 1:
            return ReorderedGrid(grid, self.strides, self.windows_a_side)
        return grid


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
    if anatomy.sizes_argument is not None:
        _told_of_sizes(model, name, anatomy.sizes_argument)
    if anatomy.windows_a_side is not None:
        _value(block, name, anatomy.windows_a_side)
    if anatomy.unroll_schedule is not None:
        _unrolling(model, name, anatomy.unroll_schedule)
    if anatomy.samples_first is not None and not _attribute_around(model, name, anatomy.samples_first)[1]:
        raise ValueError(
            f"The tokens of {name} lie in front of the samples, (N, B, C): no module around it has "
            f"{anatomy.samples_first}=True. Adapters need (B, N, C), which open_clip has from 2.26 on."
        )


def sees_frames(model: nn.Module, name: str) -> bool:
    """Whether the tokens of the block called `name` are those of whole videos, frame after frame."""
    ending = anatomy_of(model.get_submodule(name)).patch_projection
    return ending is not None and isinstance(_patch_projection(model, name, ending)[0], nn.Conv3d)


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
    if anatomy.sizes_argument is not None:
        calls = packed_calls_of(_told_of_sizes(model, name, anatomy.sizes_argument), anatomy.sizes_argument)
        return TokenMap(GridsOfCall(calls), anatomy.layout, entry_layout)
    if anatomy.patch_projection is None:
        return TokenMap(GridOfMap(anatomy.layout), anatomy.layout, entry_layout)
    grids = patch_grids_of(*_patch_projection(model, name, anatomy.patch_projection))
    if anatomy.windows_a_side is not None:
        side = _value(block, name, anatomy.windows_a_side)
        source = GridOfPatches(grids, windows=side**2)
        return TokenMap(source, anatomy.layout, entry_layout, windows_a_side=side)
    if anatomy.unroll_schedule is None:
        return TokenMap(GridOfPatches(grids), anatomy.layout, entry_layout)
    pooling, strides = _unrolling(model, name, anatomy.unroll_schedule)
    return TokenMap(GridOfPatches(grids, pooling), anatomy.layout, entry_layout, strides)


def _patch_projection(model: nn.Module, name: str, ending: str) -> tuple[nn.Module, nn.Module]:
    """Return the patch projection of a block, and the nearest module around both."""
    for around, module in modules_around(model, name):
        # By module: one that has several names is one.
        found = {m: child for child, m in modules_beside_blocks(module) if f".{child}".endswith(f".{ending}")}
        if len(found) > 1:
            raise ValueError(
                f"The anatomy of {name} takes the grid from {ending!r}, but {around or 'the model'} holds several: "
                f"{sorted(found.values())}. Adapt each backbone by itself, or register the block with a longer ending: "
                "`mona_peft.register_block(..., BlockAnatomy(patch_projection=...))`."
            )
        if found:
            return next(iter(found)), module
    convolutions = [child for child, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    raise ValueError(
        f"The anatomy of {name} takes the grid from {ending!r}, but no module of that name is around it, outside of "
        f"blocks. The model's convolutions are {convolutions[:8]}. Register the right one: "
        "`mona_peft.register_block(..., BlockAnatomy(patch_projection=...))`."
    )


def _told_of_sizes(model: nn.Module, name: str, argument: str) -> nn.Module:
    """Return the nearest module around a block whose `forward` has an argument."""
    for _, module in modules_around(model, name):
        if position_of(module, argument) is not None:
            return module
    raise ValueError(
        f"The anatomy of {name} takes the sizes of images from the argument {argument!r}, which no module around has. "
        "Register the right one: `mona_peft.register_block(..., BlockAnatomy(sizes_argument=...))`."
    )


def _value(block: nn.Module, name: str, path: str) -> int:
    """Return the number that a block's anatomy takes from an attribute of the block, or of something in it."""
    try:
        return attrgetter(path)(block)
    except AttributeError:
        raise ValueError(f"The anatomy of {name} takes a number from {path!r}, which the block has not.") from None


def _attribute_around(model: nn.Module, name: str, attribute: str) -> tuple[str, Any]:
    """Return the nearest module around a block that has an attribute, by name, and the attribute; None without one."""
    for around, module in modules_around(model, name):
        if getattr(module, attribute, None) is not None:
            return around, getattr(module, attribute)
    return "", None


def _unrolling(model: nn.Module, name: str, attribute: str) -> tuple[tuple[tuple[int, int], ...], Strides]:
    """Return the factors by which the grid was pooled in front of a block's end, and the strides still unrolled."""
    around, schedule = _attribute_around(model, name, attribute)
    if schedule is None:
        raise ValueError(
            f"The anatomy of {name} takes the order of its tokens from {attribute!r}, which nothing around has."
        )
    stage = next(int(part) for part in name[len(around) :].split(".") if part.isdigit())
    strides, all_strides = schedule[stage][0], schedule[0][0]
    pooled = all_strides[: len(all_strides) - len(strides)]
    return tuple(map(tuple, pooled)), tuple(map(tuple, strides))
