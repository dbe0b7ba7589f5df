"""Kernels of the backward pass, over tiles of tokens.

Gradients of weights are sums over all tokens. Each program sums a share of them and writes it down by itself; what adds
the shares up always does so in the same order, so that the same input has the same gradient. A partial result is the
first of a matrix of which each program has a row, `partial_stride` numbers long.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mona_peft.functional.triton.blocks import gelu, gelu_slope, keep_mask, load_row, load_tile, store_tile
from mona_peft.functional.triton.forward_kernels import mix


@triton.jit(do_not_specialize=["seed"])
def through_up_kernel(
    grad_ptr,
    q_ptr,
    p_ptr,
    mix_weight_ptr,
    mix_bias_ptr,
    up_weight_ptr,
    hidden_ptr,
    q_grad_ptr,
    p_grad_ptr,
    mix_weight_grad_ptr,
    mix_bias_grad_ptr,
    q_sum_ptr,
    partial_stride,
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
    """From the gradient to delta (T, C) to that to q (T, n), for prefix tokens to that to p; writes hidden again.

    Partial sums: the gradients of the 1x1 convolution, and the sum of q's.
    """
    units = tl.arange(0, BLOCK_N)
    mix_weight_grad = tl.zeros([BLOCK_N, BLOCK_N], tl.float32)
    mix_bias_grad = tl.zeros([BLOCK_N], tl.float32)
    q_sum = tl.zeros([BLOCK_N], tl.float32)
    for first in range(tl.program_id(0) * BLOCK_T, num_rows, tl.num_programs(0) * BLOCK_T):
        rows = first + tl.arange(0, BLOCK_T)
        row_mask = rows < num_rows
        in_grid = row_mask
        if HAS_PREFIX:
            in_grid = row_mask & (rows % num_tokens >= num_prefix_tokens)
        hidden_grad = tl.zeros([BLOCK_T, BLOCK_N], tl.float32)
        for start in range(0, WIDTH, BLOCK_C):
            channels = start + tl.arange(0, BLOCK_C)
            weight = load_tile(up_weight_ptr, channels, channels < WIDTH, units, BOTTLENECK)
            grad = load_tile(grad_ptr, rows, row_mask, channels, WIDTH)
            hidden_grad = tl.dot(grad.to(weight.dtype), weight, hidden_grad, input_precision=PRECISION)
        q, mix_weight, r = mix(
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
        r_grad = hidden_grad * scale * gelu_slope(r)
        if DROPOUT:
            keep = keep_mask(rows, seed, dropout, BLOCK_T, BLOCK_N)
            hidden = tl.where(keep, hidden, 0.0)
            r_grad = tl.where(keep, r_grad, 0.0)
        store_tile(hidden_ptr, hidden, rows, row_mask, units, BOTTLENECK)
        if HAS_PREFIX:
            store_tile(p_grad_ptr, r_grad, rows, row_mask & (rows % num_tokens < num_prefix_tokens), units, BOTTLENECK)
            r_grad = tl.where(in_grid[:, None], r_grad, 0.0)
        mix_bias_grad += tl.sum(r_grad, 0)
        r_grad = r_grad.to(q.dtype)
        mix_weight_grad = tl.dot(tl.trans(r_grad), q, mix_weight_grad, input_precision=PRECISION)
        q_grad = tl.dot(r_grad, mix_weight, tl.zeros([BLOCK_T, BLOCK_N], tl.float32), input_precision=PRECISION)
        q_sum += tl.sum(q_grad, 0)
        store_tile(q_grad_ptr, q_grad, rows, in_grid, units, BOTTLENECK)
    start = tl.program_id(0) * partial_stride
    is_unit = units < BOTTLENECK
    store_tile(mix_weight_grad_ptr + start, mix_weight_grad, units, is_unit, units, BOTTLENECK)
    tl.store(mix_bias_grad_ptr + start + units, mix_bias_grad, mask=is_unit)
    tl.store(q_sum_ptr + start + units, q_sum, mask=is_unit)


@triton.jit
def load_input(
    kept_ptr,
    hidden,
    up_weight,
    up_bias_ptr,
    scale,
    rows,
    row_mask,
    channels,
    IN_PLACE: tl.constexpr,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Load x in single precision; from y, if that was written in its place, by taking delta off again."""
    kept = load_tile(kept_ptr, rows, row_mask, channels, WIDTH)
    x = kept.to(tl.float32)
    if IN_PLACE:
        delta = (
            tl.dot(hidden, tl.trans(up_weight), tl.zeros([BLOCK_T, BLOCK_C], tl.float32), input_precision=PRECISION)
            * scale
        )
        # Rounded as x was: in half precision that hits upon x itself, unless y is of another order of magnitude.
        x = (x - (delta + load_row(up_bias_ptr, channels, WIDTH))).to(kept.dtype).to(tl.float32)
    return x


@triton.jit
def weight_grads_kernel(
    grad_ptr,
    kept_ptr,
    hidden_ptr,
    p_grad_ptr,
    mean_ptr,
    rstd_ptr,
    norm_scale_ptr,
    norm_shift_ptr,
    skip_scale_ptr,
    down_weight_ptr,
    up_weight_ptr,
    up_bias_ptr,
    up_weight_grad_ptr,
    up_bias_grad_ptr,
    down_weight_grad_ptr,
    norm_scale_grad_ptr,
    norm_shift_grad_ptr,
    skip_scale_grad_ptr,
    partial_stride,
    scale,
    num_rows,
    IN_PLACE: tl.constexpr,
    WIDTH: tl.constexpr,
    BOTTLENECK: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Partial sums of the gradients of all weights C wide, for a slice of channels; those that are not None."""
    channels = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    is_channel = channels < WIDTH
    units = tl.arange(0, BLOCK_N)
    is_unit = units < BOTTLENECK
    up_weight = load_tile(up_weight_ptr, channels, is_channel, units, BOTTLENECK)
    up_weight_grad = tl.zeros([BLOCK_C, BLOCK_N], tl.float32)
    up_bias_grad = tl.zeros([BLOCK_C], tl.float32)
    down_weight_grad = tl.zeros([BLOCK_N, BLOCK_C], tl.float32)
    norm_scale_grad = tl.zeros([BLOCK_C], tl.float32)
    norm_shift_grad = tl.zeros([BLOCK_C], tl.float32)
    skip_scale_grad = tl.zeros([BLOCK_C], tl.float32)
    for first in range(tl.program_id(0) * BLOCK_T, num_rows, tl.num_programs(0) * BLOCK_T):
        rows = first + tl.arange(0, BLOCK_T)
        row_mask = rows < num_rows
        hidden = load_tile(hidden_ptr, rows, row_mask, units, BOTTLENECK)
        if up_weight_grad_ptr is not None:
            grad = load_tile(grad_ptr, rows, row_mask, channels, WIDTH)
            up_bias_grad += tl.sum(grad.to(tl.float32), 0)
            up_weight_grad = tl.dot(tl.trans(grad.to(hidden.dtype)), hidden, up_weight_grad, input_precision=PRECISION)
        if down_weight_grad_ptr is not None or norm_scale_grad_ptr is not None:
            p_grad = load_tile(p_grad_ptr, rows, row_mask, units, BOTTLENECK)
            x = load_input(
                kept_ptr,
                hidden,
                up_weight,
                up_bias_ptr,
                scale,
                rows,
                row_mask,
                channels,
                IN_PLACE,
                WIDTH,
                PRECISION,
                BLOCK_T,
                BLOCK_C,
            )
            u = x
            if mean_ptr is not None:
                mean = tl.load(mean_ptr + rows, mask=row_mask, other=0.0)[:, None]
                normed = (x - mean) * tl.load(rstd_ptr + rows, mask=row_mask, other=0.0)[:, None]
                u = normed * load_row(norm_scale_ptr, channels, WIDTH) + x * load_row(skip_scale_ptr, channels, WIDTH)
                u += load_row(norm_shift_ptr, channels, WIDTH)
            if down_weight_grad_ptr is not None:
                down_weight_grad = tl.dot(
                    tl.trans(p_grad), u.to(p_grad.dtype), down_weight_grad, input_precision=PRECISION
                )
            if norm_scale_grad_ptr is not None:
                down_weight = load_tile(down_weight_ptr, units, is_unit, channels, WIDTH)
                u_grad = tl.dot(
                    p_grad, down_weight, tl.zeros([BLOCK_T, BLOCK_C], tl.float32), input_precision=PRECISION
                )
                norm_scale_grad += tl.sum(u_grad * normed, 0)
                norm_shift_grad += tl.sum(u_grad, 0)
                skip_scale_grad += tl.sum(u_grad * x, 0)
    start = tl.program_id(0) * partial_stride
    if up_weight_grad_ptr is not None:
        store_tile(up_weight_grad_ptr + start, up_weight_grad * scale, channels, is_channel, units, BOTTLENECK)
        tl.store(up_bias_grad_ptr + start + channels, up_bias_grad, mask=is_channel)
    if down_weight_grad_ptr is not None:
        store_tile(down_weight_grad_ptr + start, down_weight_grad, units, is_unit, channels, WIDTH)
    if norm_scale_grad_ptr is not None:
        tl.store(norm_scale_grad_ptr + start + channels, norm_scale_grad, mask=is_channel)
        tl.store(norm_shift_grad_ptr + start + channels, norm_shift_grad, mask=is_channel)
        tl.store(skip_scale_grad_ptr + start + channels, skip_scale_grad, mask=is_channel)


@triton.jit
def input_grad_kernel(
    grad_ptr,
    kept_ptr,
    hidden_ptr,
    p_grad_ptr,
    mean_ptr,
    rstd_ptr,
    norm_scale_ptr,
    skip_scale_ptr,
    down_weight_ptr,
    up_weight_ptr,
    up_bias_ptr,
    x_grad_ptr,
    scale,
    num_rows,
    IN_PLACE: tl.constexpr,
    WIDTH: tl.constexpr,
    BOTTLENECK: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """From the gradient to p to that to x (T, C), through down projection and scaled norm; with that to y, if in place.

    The norm's backward pass needs two means over a token's channels: a first pass computes them, a second the result.
    """
    rows = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    row_mask = rows < num_rows
    units = tl.arange(0, BLOCK_N)
    is_unit = units < BOTTLENECK
    p_grad = load_tile(p_grad_ptr, rows, row_mask, units, BOTTLENECK)
    if mean_ptr is not None:
        hidden = load_tile(hidden_ptr, rows, row_mask, units, BOTTLENECK)
        mean = tl.load(mean_ptr + rows, mask=row_mask, other=0.0)[:, None]
        rstd = tl.load(rstd_ptr + rows, mask=row_mask, other=0.0)[:, None]
        mean_grad = tl.zeros([BLOCK_T], tl.float32)
        mean_product = tl.zeros([BLOCK_T], tl.float32)
        for start in range(0, WIDTH, BLOCK_C):
            channels = start + tl.arange(0, BLOCK_C)
            up_weight = load_tile(up_weight_ptr, channels, channels < WIDTH, units, BOTTLENECK)
            x = load_input(
                kept_ptr,
                hidden,
                up_weight,
                up_bias_ptr,
                scale,
                rows,
                row_mask,
                channels,
                IN_PLACE,
                WIDTH,
                PRECISION,
                BLOCK_T,
                BLOCK_C,
            )
            weight = load_tile(down_weight_ptr, units, is_unit, channels, WIDTH)
            normed_grad = tl.dot(p_grad, weight, tl.zeros([BLOCK_T, BLOCK_C], tl.float32), input_precision=PRECISION)
            normed_grad *= load_row(norm_scale_ptr, channels, WIDTH)
            mean_grad += tl.sum(normed_grad, 1)
            mean_product += tl.sum(normed_grad * (x - mean) * rstd, 1)
        mean_grad /= WIDTH
        mean_product /= WIDTH
    for start in range(0, WIDTH, BLOCK_C):
        channels = start + tl.arange(0, BLOCK_C)
        weight = load_tile(down_weight_ptr, units, is_unit, channels, WIDTH)
        x_grad = tl.dot(p_grad, weight, tl.zeros([BLOCK_T, BLOCK_C], tl.float32), input_precision=PRECISION)
        if mean_ptr is not None:
            up_weight = load_tile(up_weight_ptr, channels, channels < WIDTH, units, BOTTLENECK)
            x = load_input(
                kept_ptr,
                hidden,
                up_weight,
                up_bias_ptr,
                scale,
                rows,
                row_mask,
                channels,
                IN_PLACE,
                WIDTH,
                PRECISION,
                BLOCK_T,
                BLOCK_C,
            )
            centred_grad = x_grad * load_row(norm_scale_ptr, channels, WIDTH) - mean_grad[:, None]
            centred_grad = (centred_grad - (x - mean) * rstd * mean_product[:, None]) * rstd
            x_grad = centred_grad + x_grad * load_row(skip_scale_ptr, channels, WIDTH)
        if IN_PLACE:
            x_grad += load_tile(grad_ptr, rows, row_mask, channels, WIDTH).to(tl.float32)
        store_tile(x_grad_ptr, x_grad, rows, row_mask, channels, WIDTH)
