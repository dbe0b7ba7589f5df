"""How the kernels are launched: tiles, warps, precision, and how many programs share a sum."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton

from mona_peft.functional.triton.backward_kernels import input_grad_kernel, through_up_kernel, weight_grads_kernel
from mona_peft.functional.triton.forward_kernels import project_down_kernel, project_up_kernel

Options = dict[str, Any]


class Tile(NamedTuple):
    """Tokens and channels of a tile, warps of a program, stages of its pipeline."""

    tokens: int
    channels: int
    warps: int
    stages: int


HALF_TILES = {
    project_down_kernel: Tile(64, 64, 4, 3),
    project_up_kernel: Tile(64, 64, 4, 2),
    through_up_kernel: Tile(32, 64, 8, 2),
    weight_grads_kernel: Tile(32, 64, 4, 2),
    input_grad_kernel: Tile(64, 64, 8, 2),
}
"""Of each kernel over tokens, where products are of half precision."""

SINGLE_TILES = {
    project_down_kernel: Tile(32, 32, 4, 2),
    project_up_kernel: Tile(32, 32, 4, 2),
    through_up_kernel: Tile(32, 32, 8, 2),
    weight_grads_kernel: Tile(16, 32, 8, 1),
    input_grad_kernel: Tile(32, 32, 4, 2),
}
"""Where they are of single precision. Tiles are as large as registers allow: `scripts.benchmark.triton_kernels`."""

FILTER_ROWS = 7
"""Rows of a tile of the depthwise convolution: divides the maps of images of 224 and 448 pixels."""

PROGRAMS_PER_PROCESSOR = 2
"""Programs that share a sum over all tokens, for each multiprocessor of the device."""


class Tokens(NamedTuple):
    """Shape and dtype of what a call works on.

    Attributes:
        num_rows: Tokens of all images.
        num_tokens: Tokens of one image, prefix tokens included.
        num_prefix_tokens: Those of them that stand before the grid.
        width: Channels C.
        bottleneck: Channels n.
        dtype: Of the matrix products.
        device: Where.
    """

    num_rows: int
    num_tokens: int
    num_prefix_tokens: int
    width: int
    bottleneck: int
    dtype: torch.dtype
    device: torch.device

    @property
    def positions(self) -> tuple[int, int, int]:
        """What tells a kernel where in an image a token stands."""
        return self.num_rows, self.num_tokens, self.num_prefix_tokens


def tile(kernel: Any, tokens: Tokens) -> Tile:
    """Return the tile of a kernel over tokens: a shorter one where the bottleneck is broad."""
    if tokens.dtype == torch.float32:
        return SINGLE_TILES[kernel]
    found = HALF_TILES[kernel]
    return found if tokens.bottleneck <= 64 else Tile(found.tokens // 2, found.channels, 8, 1)


def token_options(kernel: Any, tokens: Tokens) -> Options:
    """Return the constants that all kernels over tokens share, and how to launch them."""
    size = tile(kernel, tokens)
    single = tokens.dtype == torch.float32
    return {
        "WIDTH": tokens.width,
        "BOTTLENECK": tokens.bottleneck,
        # As PyTorch's own products do; it concerns those of single precision alone.
        "PRECISION": "tf32" if single and torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee",
        "BLOCK_T": size.tokens,
        "BLOCK_C": size.channels,
        "BLOCK_N": max(16, triton.next_power_of_2(tokens.bottleneck)),
        "num_warps": size.warps,
        "num_stages": size.stages,
    }


def filter_options(bottleneck: int, kernel_size: int, width: int) -> Options:
    """Return the constants of the kernels over places of a map `width` wide, and how to launch them."""
    columns = min((8, 16), key=lambda count: (-(-width // count) * count, -count))
    block_n = min(64, max(16, triton.next_power_of_2(bottleneck)))
    return {
        "BOTTLENECK": bottleneck,
        "K": kernel_size,
        "ROWS": FILTER_ROWS,
        "COLUMNS": columns,
        "BLOCK_N": block_n,
        "num_warps": max(1, columns * block_n // 256),  # eight numbers a thread
    }


def sharing_programs(num_tiles: int, device: torch.device, slices: int = 1) -> int:
    """Return how many programs should share the tiles of each of `slices` sums."""
    processors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
    return max(1, min(num_tiles, PROGRAMS_PER_PROCESSOR * processors // slices))
