"""Kernels of the depthwise convolution of token maps, and of the gradient to its filters.

A program works on a tile of ROWS x COLUMNS places of one image, its rows as a tuple of tensors of shape (COLUMNS,
BLOCK_N). For one column of taps it loads each row of the map once and uses it for every row of the tile that it
reaches: a place is loaded K + (K - 1) * K / ROWS times instead of K * K.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _tile(number, height, width, num_tokens, num_prefix_tokens, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return of a tile the first token of its image's grid, in 64 bits, and in the grid its first row and columns."""
    tiles_across = tl.cdiv(width, COLUMNS)
    tiles_down = tl.cdiv(height, ROWS)
    first_token = (number // (tiles_across * tiles_down)).to(tl.int64) * num_tokens + num_prefix_tokens
    top = number // tiles_across % tiles_down * ROWS
    return first_token, top, number % tiles_across * COLUMNS + tl.arange(0, COLUMNS)


@triton.jit
def _load_places(ptr, y, columns, height, width, channels, BOTTLENECK: tl.constexpr):
    """Load places of row y of a map that begins at `ptr`, in single precision; zero outside the map."""
    offsets = (y * width + columns)[:, None] * BOTTLENECK + channels[None, :]
    inside = (columns >= 0) & (columns < width) & (y >= 0) & (y < height)
    mask = inside[:, None] & (channels < BOTTLENECK)[None, :]
    return tl.load(ptr + offsets, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def filter_kernel(
    map_ptr,
    taps_ptr,
    bias_ptr,
    out_ptr,
    height,
    width,
    num_tokens,
    num_prefix_tokens,
    BOTTLENECK: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Convolve the grids of tokens (B, P + H * W, n) with taps (K * K, n); prefix tokens are left out."""
    first_token, top, columns = _tile(tl.program_id(0), height, width, num_tokens, num_prefix_tokens, ROWS, COLUMNS)
    channels = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_channel = channels < BOTTLENECK
    map_ptr += first_token * BOTTLENECK
    out_ptr += first_token * BOTTLENECK
    sums = (tl.zeros([COLUMNS, BLOCK_N], tl.float32),) * ROWS
    for dx in range(K):
        taps = ()
        for dy in tl.static_range(K):
            tap = tl.load(taps_ptr + (dy * K + dx) * BOTTLENECK + channels, mask=is_channel, other=0.0)
            taps = taps + (tap.to(tl.float32)[None, :],)
        for row in tl.static_range(ROWS + K - 1):
            places = _load_places(
                map_ptr, top + row - K // 2, columns + dx - K // 2, height, width, channels, BOTTLENECK
            )
            new_sums = ()
            for out_row in tl.static_range(ROWS):
                if row >= out_row and row < out_row + K:
                    new_sums = new_sums + (sums[out_row] + places * taps[row - out_row],)
                else:
                    new_sums = new_sums + (sums[out_row],)
            sums = new_sums
    bias = 0.0
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + channels, mask=is_channel, other=0.0).to(tl.float32)[None, :]
    for row in tl.static_range(ROWS):
        offsets = ((top + row) * width + columns)[:, None] * BOTTLENECK + channels[None, :]
        inside = (columns < width) & (top + row < height)
        result = (sums[row] + bias).to(out_ptr.dtype.element_ty)
        tl.store(out_ptr + offsets, result, mask=inside[:, None] & is_channel[None, :])


@triton.jit
def filter_grad_kernel(
    map_ptr,
    grad_ptr,
    partial_ptr,
    num_tiles,
    height,
    width,
    num_tokens,
    num_prefix_tokens,
    BOTTLENECK: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Sum the gradient to one column of taps over a share of the tiles; partial sums are (programs, K * K, n)."""
    dx = tl.program_id(1)
    channels = tl.program_id(2) * BLOCK_N + tl.arange(0, BLOCK_N)
    sums = (tl.zeros([COLUMNS, BLOCK_N], tl.float32),) * K
    for number in range(tl.program_id(0), num_tiles, tl.num_programs(0)):
        first_token, top, columns = _tile(number, height, width, num_tokens, num_prefix_tokens, ROWS, COLUMNS)
        image_ptr = map_ptr + first_token * BOTTLENECK
        image_grad_ptr = grad_ptr + first_token * BOTTLENECK
        grads = ()
        for row in tl.static_range(ROWS):
            grad = _load_places(image_grad_ptr, top + row, columns, height, width, channels, BOTTLENECK)
            grads = grads + (grad,)
        for row in tl.static_range(ROWS + K - 1):
            places = _load_places(
                image_ptr, top + row - K // 2, columns + dx - K // 2, height, width, channels, BOTTLENECK
            )
            new_sums = ()
            for dy in tl.static_range(K):
                if row >= dy and row < dy + ROWS:
                    new_sums = new_sums + (sums[dy] + places * grads[row - dy],)
                else:
                    new_sums = new_sums + (sums[dy],)
            sums = new_sums
    for dy in tl.static_range(K):
        offsets = (tl.program_id(0) * K * K + dy * K + dx) * BOTTLENECK + channels
        tl.store(partial_ptr + offsets, tl.sum(sums[dy], 0), mask=channels < BOTTLENECK)
