"""Residual blocks of vision backbones, as data: which are known, and how to read the token map of each."""

from mona_peft.blocks.anatomy import ATTENTION, MLP, SITES, BlockAnatomy
from mona_peft.blocks.families import KNOWN_BLOCKS, REFUSED_BLOCKS
from mona_peft.blocks.grid import PATCH_GRID
from mona_peft.blocks.layout import Grid, Layout, VideoGrid, from_tokens, is_dense, shaped_like, to_tokens, tokens_of
from mona_peft.blocks.lookup import (
    anatomy_of,
    check_branch,
    is_known_block,
    norm_of,
    refusals,
    register_block,
    stands_in_its_tower,
    width_of,
)
from mona_peft.blocks.order import ReorderedGrid
from mona_peft.blocks.packed import Maps, is_one_map, on_each_map
from mona_peft.blocks.patch_grids import forget_patch_grids
from mona_peft.blocks.token_map import TokenMap, check_token_map, sees_frames, token_map_of

__all__ = [
    "ATTENTION",
    "KNOWN_BLOCKS",
    "MLP",
    "PATCH_GRID",
    "REFUSED_BLOCKS",
    "SITES",
    "BlockAnatomy",
    "Grid",
    "Layout",
    "Maps",
    "ReorderedGrid",
    "TokenMap",
    "VideoGrid",
    "anatomy_of",
    "check_branch",
    "check_token_map",
    "forget_patch_grids",
    "from_tokens",
    "is_dense",
    "is_known_block",
    "is_one_map",
    "norm_of",
    "on_each_map",
    "refusals",
    "register_block",
    "sees_frames",
    "shaped_like",
    "stands_in_its_tower",
    "to_tokens",
    "token_map_of",
    "tokens_of",
    "width_of",
]
