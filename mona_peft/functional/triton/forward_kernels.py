"""Kernels of the forward pass, over tiles of tokens."""

from __future__ import annotations

import triton
import triton.language as tl

from mona_peft.functional.triton.blocks import gelu, keep_mask, load_row, load_tile, store_tile


@triton.jit
def project_down_kernel(
    x_ptr,
    norm_scale_ptr,
    norm_shift_ptr,
    skip_scale_ptr,
    weight_ptr,
    bias_ptr,
    p_ptr,
    mean_ptr,
    rstd_ptr,
    num_rows,
    EPS: tl.constexpr,
    WIDTH: tl.constexpr,
    BOTTLENECK: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Compute mean and rstd (T), and p = down(scaled norm) (T, n); without a norm where `mean_ptr` is None."""
    rows = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    row_mask = rows < num_rows
    units = tl.arange(0, BLOCK_N)
    if mean_ptr is not None:
        # Mean and squared deviation of each slice by themselves, then joined: exact for badly centred tokens.
        mean = tl.zeros([BLOCK_T], tl.float32)
        squares = tl.zeros([BLOCK_T], tl.float32)
        for start in range(0, WIDTH, BLOCK_C):
            channels = start + tl.arange(0, BLOCK_C)
            x = load_tile(x_ptr, rows, row_mask, channels, WIDTH).to(tl.float32)
            count = tl.minimum(WIDTH - start, BLOCK_C).to(tl.float32)
            share = count / (start + count)
            slice_mean = tl.sum(x, 1) / count
            centred = tl.where((channels < WIDTH)[None, :], x - slice_mean[:, None], 0.0)
            distance = slice_mean - mean
            mean += distance * share
            squares += tl.sum(centred * centred, 1) + distance * distance * share * start
        rstd = tl.rsqrt(squares / WIDTH + EPS)
        tl.store(mean_ptr + rows, mean, mask=row_mask)
        tl.store(rstd_ptr + rows, rstd, mask=row_mask)
    p = tl.zeros([BLOCK_T, BLOCK_N], tl.float32)
    for start in range(0, WIDTH, BLOCK_C):
        channels = start + tl.arange(0, BLOCK_C)
        u = load_tile(x_ptr, rows, row_mask, channels, WIDTH).to(tl.float32)
        if mean_ptr is not None:
            normed = (u - mean[:, None]) * rstd[:, None]
            u = normed * load_row(norm_scale_ptr, channels, WIDTH) + u * load_row(skip_scale_ptr, channels, WIDTH)
            u += load_row(norm_shift_ptr, channels, WIDTH)
        weight = load_tile(weight_ptr, units, units < BOTTLENECK, channels, WIDTH)
        p = tl.dot(u.to(weight.dtype), tl.trans(weight), p, input_precision=PRECISION)
    p += load_row(bias_ptr, units, BOTTLENECK)
    store_tile(p_ptr, p, rows, row_mask, units, BOTTLENECK)


@triton.jit
def mix(
    q_ptr,
    p_ptr,
    weight_ptr,
    bias_ptr,
    rows,
    row_mask,
    in_grid,
    units,
    HAS_PREFIX: tl.constexpr,
    BOTTLENECK: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Return q, the weight of the 1x1 convolution and r: q mixed, or p where a token is not in the grid."""
    q = load_tile(q_ptr, rows, in_grid, units, BOTTLENECK)
    weight = load_tile(weight_ptr, units, units < BOTTLENECK, units, BOTTLENECK)
    r = tl.dot(q, tl.trans(weight), tl.zeros([BLOCK_T, BLOCK_N], tl.float32), input_precision=PRECISION)
    r += load_row(bias_ptr, units, BOTTLENECK)
    if HAS_PREFIX:
        p = load_tile(p_ptr, rows, row_mask, units, BOTTLENECK).to(tl.float32)
        r = tl.where(in_grid[:, None], r, p)
    return q, weight, r


@triton.jit(do_not_specialize=["seed"])
def project_up_kernel(
    x_ptr,
    q_ptr,
    p_ptr,
    mix_weight_ptr,
    mix_bias_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    seed,
    dropout,
    scale,
    num_rows,
    num_tokens,
    num_prefix_tokens,
    DROPOUT: tl.constexpr,
    HAS_PREFIX: tl.constexpr,
    WIDTH: tl.constexpr,
    BOTTLENECK: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Compute delta = up(dropout(gelu(mix(q)))) (T, C), added to x unless `x_ptr` is None; x may be where it goes."""
    rows = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    row_mask = rows < num_rows
    in_grid = row_mask
    if HAS_PREFIX:
        in_grid = row_mask & (rows % num_tokens >= num_prefix_tokens)
    units = tl.arange(0, BLOCK_N)
    q, _, r = mix(
        q_ptr,
        p_ptr,
        mix_weight_ptr,
        mix_bias_ptr,
        rows,
        row_mask,
        in_grid,
        units,
        HAS_PREFIX,
        BOTTLENECK,
        PRECISION,
        BLOCK_T,
        BLOCK_N,
    )
    hidden = gelu(r)
    if DROPOUT:
        hidden = tl.where(keep_mask(rows, seed, dropout, BLOCK_T, BLOCK_N), hidden, 0.0)
    hidden = hidden.to(q.dtype)
    for start in range(0, WIDTH, BLOCK_C):
        channels = start + tl.arange(0, BLOCK_C)
        weight = load_tile(weight_ptr, channels, channels < WIDTH, units, BOTTLENECK)
        delta = (
            tl.dot(hidden, tl.trans(weight), tl.zeros([BLOCK_T, BLOCK_C], tl.float32), input_precision=PRECISION)
            * scale
        )
        delta += load_row(bias_ptr, channels, WIDTH)
        if x_ptr is not None:
            delta += load_tile(x_ptr, rows, row_mask, channels, WIDTH).to(tl.float32)
        store_tile(out_ptr, delta, rows, row_mask, channels, WIDTH)
