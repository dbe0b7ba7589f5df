"""What the kernels share: tiles of matrices, products, GELU and the dropout mask."""

from __future__ import annotations

import triton
import triton.language as tl

PHILOX_ROUNDS = tl.constexpr(7)
"""The fewest with which Philox passes all tests of randomness (Salmon et al., 2011, section 5)."""


@triton.jit
def load_tile(ptr, rows, row_mask, columns, WIDTH: tl.constexpr):
    """Load a tile of a row-major matrix of WIDTH columns; zero where there is none."""
    offsets = rows.to(tl.int64)[:, None] * WIDTH + columns[None, :]
    return tl.load(ptr + offsets, mask=row_mask[:, None] & (columns < WIDTH)[None, :], other=0.0)


@triton.jit
def store_tile(ptr, tile, rows, row_mask, columns, WIDTH: tl.constexpr):
    """Store a tile into a row-major matrix of WIDTH columns."""
    offsets = rows.to(tl.int64)[:, None] * WIDTH + columns[None, :]
    tl.store(ptr + offsets, tile.to(ptr.dtype.element_ty), mask=row_mask[:, None] & (columns < WIDTH)[None, :])


@triton.jit
def load_row(ptr, columns, WIDTH: tl.constexpr):
    """Load a part of a vector in single precision, as a row; zero where there is none."""
    return tl.load(ptr + columns, mask=columns < WIDTH, other=0.0).to(tl.float32)[None, :]


@triton.jit
def gelu(x):
    """GELU, exact."""
    return 0.5 * x * (1 + tl.erf(x * 0.7071067811865476))


@triton.jit
def gelu_slope(x):
    """Derivative of GELU."""
    return 0.5 * (1 + tl.erf(x * 0.7071067811865476)) + x * 0.3989422804014327 * tl.exp(-0.5 * x * x)


@triton.jit
def keep_mask(rows, seed, dropout, BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr):
    """Draw which channels of the tokens `rows` are kept: the same in every kernel, whatever its tiles are.

    Philox gives four numbers at a time, which serve four channels side by side.
    """
    fours = tl.arange(0, BLOCK_N // 4)[None, :] + tl.zeros([BLOCK_T, 1], tl.int32)
    zero = tl.zeros([BLOCK_T, BLOCK_N // 4], tl.int32)
    draws = tl.philox(seed, rows[:, None] + zero, fours, zero, zero, PHILOX_ROUNDS)
    bits = tl.join(tl.join(draws[0], draws[1]), tl.join(draws[2], draws[3]))
    uniform = (tl.reshape(bits, [BLOCK_T, BLOCK_N]) >> 8).to(tl.float32) * (1 / 16777216)
    return uniform >= dropout
