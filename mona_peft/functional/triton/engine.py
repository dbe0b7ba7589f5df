"""The autograd function's two halves by Triton's kernels, which keep what the plain ones keep."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton

from mona_peft.blocks import Grid
from mona_peft.functional import steps
from mona_peft.functional.fast import Call, Engine
from mona_peft.functional.folding import FoldedWeights
from mona_peft.functional.formula import LAYER_NORM_EPS
from mona_peft.functional.triton.backward_kernels import input_grad_kernel, through_up_kernel, weight_grads_kernel
from mona_peft.functional.triton.filter_kernels import filter_grad_kernel, filter_kernel
from mona_peft.functional.triton.forward_kernels import project_down_kernel, project_up_kernel
from mona_peft.functional.triton.launches import Tokens, filter_options, sharing_programs, tile, token_options


def forward(
    x: torch.Tensor, call: Call, w: FoldedWeights
) -> tuple[torch.Tensor, torch.Tensor, steps.Statistics | None]:
    """Return the result (B, N, C), p (B, N, n) and the statistics (B * N, 1)."""
    w = _contiguous(w)
    tokens = _tokens(x, call.grid, w)
    source = x.contiguous()
    result = x if call.in_place else torch.empty_like(source)
    p = x.new_empty(*x.shape[:2], tokens.bottleneck, dtype=tokens.dtype)
    statistics = None
    if w.norm_scale is not None:
        statistics = tuple(x.new_empty(tokens.num_rows, 1, dtype=torch.float32) for _ in range(2))
    with torch.cuda.device_of(x):
        project_down_kernel[_over_rows(project_down_kernel, tokens)](
            source,
            w.norm_scale,
            w.norm_shift,
            w.skip_scale,
            w.down_weight,
            w.down_bias,
            p,
            *(statistics or (None, None)),
            tokens.num_rows,
            EPS=LAYER_NORM_EPS,
            **token_options(project_down_kernel, tokens),
        )
        q = filter_tokens(p, call.grid, w.kernel, w.kernel_bias)
        project_up_kernel[_over_rows(project_up_kernel, tokens)](
            source if call.in_place else None,
            q,
            p,
            w.mix_weight,
            w.mix_bias,
            w.up_weight,
            w.up_bias,
            result,
            *_dropout(call),
            *tokens.positions,
            DROPOUT=call.dropout > 0,
            HAS_PREFIX=tokens.num_prefix_tokens > 0,
            **token_options(project_up_kernel, tokens),
        )
    return result, p, statistics


class _Maps(NamedTuple):
    """What the kernels of the wide weights and of the input read.

    Attributes:
        grad: Gradient to the result, (B, N, C).
        kept: y or x, likewise.
        hidden: What the up projection took, (B, N, n), not scaled.
        p_grad: Gradient to p, likewise.
        mean: (B * N, 1), or None where there is no norm.
        rstd: Likewise.
    """

    grad: torch.Tensor
    kept: torch.Tensor
    hidden: torch.Tensor
    p_grad: torch.Tensor
    mean: torch.Tensor | None
    rstd: torch.Tensor | None


class Backward:
    """One backward pass; see the plain one's, whose interface it has."""

    def __init__(self, call: Call, w: FoldedWeights, needs: FoldedWeights, needs_x: bool) -> None:
        self.call, self.w, self.needs, self.needs_x = call, _contiguous(w), needs, needs_x
        self.grads: dict[str, torch.Tensor | None] = dict.fromkeys(FoldedWeights._fields)

    def __call__(
        self, grad: torch.Tensor, kept: torch.Tensor, p: torch.Tensor, statistics: steps.Statistics | None
    ) -> torch.Tensor | None:
        """Return the gradient to the input, (B, N, C)."""
        self.tokens = _tokens(grad, self.call.grid, self.w)
        with torch.cuda.device_of(grad):
            hidden, q_grad, p_grad = self._through_up(grad, p)
            if self.needs.kernel:
                kernel_grad = filter_grad(p, q_grad, self.call.grid, self.w.kernel.shape[-1])
                self.grads["kernel"] = kernel_grad.to(self.w.kernel.dtype)
            filter_tokens(q_grad, self.call.grid, self.w.kernel.flip(-1, -2), None, out=p_grad)
            if self.needs.down_bias:
                sums = p_grad.flatten(0, 1).sum(0, dtype=torch.float32)
                self.grads["down_bias"] = sums.to(self.w.down_bias.dtype)
            maps = _Maps(grad, kept, hidden, p_grad, *(statistics or (None, None)))
            self._weight_grads(maps)
            return self._input_grad(maps) if self.needs_x else None

    def _through_up(self, grad: torch.Tensor, p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return hidden, the gradient to q, and one to p in which only the prefix is written; each (B, N, n)."""
        tokens, w = self.tokens, self.w
        q = filter_tokens(p, self.call.grid, w.kernel, w.kernel_bias)
        hidden, q_grad, p_grad = (torch.empty_like(p) for _ in range(3))
        programs = sharing_programs(*_over_rows(through_up_kernel, tokens), p.device)
        bias_shape = (tokens.bottleneck,)
        partial = _Partial(
            {"mix_weight": (tokens.bottleneck, tokens.bottleneck), "mix_bias": bias_shape, "kernel_bias": bias_shape},
            programs,
            p.device,
        )
        through_up_kernel[(programs,)](
            grad,
            q,
            p,
            w.mix_weight,
            w.mix_bias,
            w.up_weight,
            hidden,
            q_grad,
            p_grad,
            *partial.arguments("mix_weight", "mix_bias", "kernel_bias"),
            *_dropout(self.call),
            *tokens.positions,
            DROPOUT=self.call.dropout > 0,
            HAS_PREFIX=tokens.num_prefix_tokens > 0,
            **token_options(through_up_kernel, tokens),
        )
        self._take(partial)
        return hidden, q_grad, p_grad

    def _weight_grads(self, maps: _Maps) -> None:
        tokens, w, needs = self.tokens, self.w, self.needs
        matrix, vector = (tokens.width, tokens.bottleneck), (tokens.width,)
        shapes: dict[str, tuple[int, ...]] = {}
        if needs.up_weight or needs.up_bias:
            shapes |= {"up_weight": matrix, "up_bias": vector}
        if needs.down_weight:
            shapes |= {"down_weight": matrix[::-1]}
        if needs.norm_scale or needs.norm_shift or needs.skip_scale:
            shapes |= {"norm_scale": vector, "norm_shift": vector, "skip_scale": vector}
        if not shapes:
            return
        slices = triton.cdiv(tokens.width, tile(weight_grads_kernel, tokens).channels)
        programs = sharing_programs(*_over_rows(weight_grads_kernel, tokens), tokens.device, slices)
        partial = _Partial(shapes, programs, tokens.device)
        weight_grads_kernel[(programs, slices)](
            *maps,
            w.norm_scale,
            w.norm_shift,
            w.skip_scale,
            w.down_weight,
            w.up_weight,
            w.up_bias,
            *partial.arguments("up_weight", "up_bias", "down_weight", "norm_scale", "norm_shift", "skip_scale"),
            self.call.scale,
            tokens.num_rows,
            IN_PLACE=self.call.in_place,
            **token_options(weight_grads_kernel, tokens),
        )
        self._take(partial)

    def _input_grad(self, maps: _Maps) -> torch.Tensor:
        tokens, w = self.tokens, self.w
        x_grad = torch.empty_like(maps.grad)
        input_grad_kernel[_over_rows(input_grad_kernel, tokens)](
            *maps,
            w.norm_scale,
            w.skip_scale,
            w.down_weight,
            w.up_weight,
            w.up_bias,
            x_grad,
            self.call.scale,
            tokens.num_rows,
            IN_PLACE=self.call.in_place,
            **token_options(input_grad_kernel, tokens),
        )
        return x_grad

    def _take(self, partial: _Partial) -> None:
        for name, total in partial.totals().items():
            if getattr(self.needs, name):
                self.grads[name] = total.to(getattr(self.w, name).dtype)


class _Partial:
    """Sums of each program over its share of the tokens, a row a program, so that one reduction serves all weights.

    Args:
        shapes: Of the sums, by name.
        programs: How many programs there are.
        device: Where.
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]], programs: int, device: torch.device) -> None:
        self.shapes = shapes
        # Each begins at a multiple of 16 bytes.
        self.sizes = [triton.cdiv(torch.Size(shape).numel(), 4) * 4 for shape in shapes.values()]
        self.rows = torch.empty(programs, sum(self.sizes), device=device)

    def arguments(self, *names: str) -> tuple[torch.Tensor | int | None, ...]:
        """Return what the kernel needs: where each sum begins, None for those not asked for, and the stride of rows."""
        columns = dict(zip(self.shapes, self.rows.split(self.sizes, dim=1), strict=True))
        return *(columns.get(name) for name in names), self.rows.stride(0)

    def totals(self) -> dict[str, torch.Tensor]:
        """Return the sums over all programs."""
        parts = self.rows.sum(0).split(self.sizes)
        return {
            name: part[: torch.Size(shape).numel()].view(shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }


def filter_tokens(
    tokens: torch.Tensor,
    grid: Grid,
    kernel: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Convolve the grids of tokens (B, P + H * W, n) with one filter a channel, (n, 1, k, k); leave the prefix out."""
    out = torch.empty_like(tokens) if out is None else out
    options = filter_options(tokens.shape[2], kernel.shape[-1], grid[1])
    channel_blocks = triton.cdiv(tokens.shape[2], options["BLOCK_N"])
    filter_kernel[(_num_tiles(tokens, grid, options), channel_blocks)](
        tokens, _taps(kernel), bias, out, *grid, tokens.shape[1], tokens.shape[1] - grid[0] * grid[1], **options
    )
    return out


def filter_grad(tokens: torch.Tensor, grad: torch.Tensor, grid: Grid, size: int) -> torch.Tensor:
    """Return the gradient of `filter_tokens` to its kernel, in single precision."""
    channels = tokens.shape[2]
    options = filter_options(channels, size, grid[1])
    channel_blocks = triton.cdiv(channels, options["BLOCK_N"])
    num_tiles = _num_tiles(tokens, grid, options)
    programs = sharing_programs(num_tiles, tokens.device, channel_blocks)
    partial = torch.empty(programs, size * size, channels, device=tokens.device)
    filter_grad_kernel[(programs, size, channel_blocks)](
        tokens, grad, partial, num_tiles, *grid, tokens.shape[1], tokens.shape[1] - grid[0] * grid[1], **options
    )
    return partial.sum(0).t().reshape(channels, 1, size, size)


def _taps(kernel: torch.Tensor) -> torch.Tensor:
    """See filters (n, 1, k, k) as taps (k * k, n)."""
    return kernel.flatten(1).t().contiguous()


def _num_tiles(tokens: torch.Tensor, grid: Grid, options: dict) -> int:
    return len(tokens) * triton.cdiv(grid[0], options["ROWS"]) * triton.cdiv(grid[1], options["COLUMNS"])


def _tokens(x: torch.Tensor, grid: Grid, w: FoldedWeights) -> Tokens:
    batch_size, num_tokens, width = x.shape
    num_prefix_tokens = num_tokens - grid[0] * grid[1]
    bottleneck, dtype = len(w.down_weight), w.down_weight.dtype
    return Tokens(batch_size * num_tokens, num_tokens, num_prefix_tokens, width, bottleneck, dtype, x.device)


def _over_rows(kernel: object, tokens: Tokens) -> tuple[int]:
    return (triton.cdiv(tokens.num_rows, tile(kernel, tokens).tokens),)


def _dropout(call: Call) -> tuple[int, float, float]:
    """Return seed, probability as the scale has it, and scale."""
    return call.seed, 1 - 1 / call.scale, call.scale


def _contiguous(w: FoldedWeights) -> FoldedWeights:
    return FoldedWeights(*(None if tensor is None else tensor.contiguous() for tensor in w))


ENGINE = Engine(forward, Backward)
