"""The same Mona with fewer, larger operations: parameters that act one after the other are folded into one.

Folding is differentiable PyTorch, so the gradient of a folded weight finds its way to the parameters by itself.

It is done anew at every call. Folded weights that were kept would have to follow every change of the parameters, and
neither addresses nor version counters tell of all of them: fused optimisers, shared memory and `parameter.data` write
unseen. It costs a CPU about 50 microseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import torch
import torch.nn.functional as F

from mona_peft.functional.formula import Settings, Weights

HALF_DTYPES = (torch.bfloat16, torch.float16)


class FoldedWeights(NamedTuple):
    """Weights of the folded Mona.

        u = LayerNorm(x; norm_scale, norm_shift) + x * skip_scale
        p = down(u)
        r = mix(depthwise(p; kernel))
        delta = up(dropout(gelu(r)))

    Attributes:
        norm_scale: (C), weight of the LayerNorm times gamma; None, as the next two, where there is no norm.
        norm_shift: (C), its bias times gamma.
        skip_scale: (C), gammax.
        down_weight: (n, C).
        down_bias: (n).
        kernel: (n, 1, k, k), all filters and their residual in one, k the largest kernel size.
        kernel_bias: (n).
        mix_weight: (n, n), the 1x1 convolution and its residual.
        mix_bias: (n).
        up_weight: (C, n).
        up_bias: (C).
    """

    norm_scale: torch.Tensor | None
    norm_shift: torch.Tensor | None
    skip_scale: torch.Tensor | None
    down_weight: torch.Tensor
    down_bias: torch.Tensor
    kernel: torch.Tensor
    kernel_bias: torch.Tensor
    mix_weight: torch.Tensor
    mix_bias: torch.Tensor
    up_weight: torch.Tensor
    up_bias: torch.Tensor


def can_fold(settings: Settings) -> bool:
    """Whether the folded form exists: the scaled norm stands in front of the adapter, or nowhere."""
    return settings.norm_position != "bottleneck"


def fold_filters(
    weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor], share: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fold depthwise filters (n, 1, k, k) and the residual around them into one, and their biases (n) likewise.

    Args:
        weights: The filters.
        biases: Their biases.
        share: By which each is multiplied.
    """
    size = max(weight.shape[-1] for weight in weights)
    identity_tap = weights[0].new_ones(1, 1, 1, 1)
    # Gradients of the filters share no memory, though one sum is scaled: padding gives each but the largest its own.
    filters = reduce(torch.add, [_centred(weight, size) for weight in weights])
    # Scaled before they are summed: else each bias would be given the same tensor as its gradient, and `.grad` that
    # share their memory are wrong as soon as a second backward pass adds to them.
    return filters * share + _centred(identity_tap, size), torch.stack(tuple(biases)).mul(share).sum(0)


def unfold_filters(
    kernel_grad: torch.Tensor, bias_grad: torch.Tensor, sizes: Sequence[int], share: float
) -> list[torch.Tensor]:
    """Return the gradients of filters of these sizes, then of their biases, from those of `fold_filters`' results."""
    margins = ((kernel_grad.shape[-1] - size) // 2 for size in sizes)
    inner = [slice(margin, kernel_grad.shape[-1] - margin) for margin in margins]
    return [
        *(kernel_grad[..., part, part].mul(share).contiguous() for part in inner),
        *(bias_grad * share for _ in sizes),
    ]


def fold(w: Weights, settings: Settings, dtype: torch.dtype | None = None) -> FoldedWeights:
    """Fold parameters, differentiably.

    Args:
        w: The parameters.
        settings: The settings.
        dtype: What the matrix products and convolutions run in, where it is not the parameters' own. The norm runs in
            theirs, and never in half precision: sums over all tokens are its gradients.
    """
    filters = fold_filters(w.filter_weights, w.filter_biases, filter_share(settings, len(w.filter_weights)))
    matrices = (w.down_weight, w.down_bias, *filters, fold_mix(w.pw_weight), w.pw_bias, w.up_weight, w.up_bias)
    return FoldedWeights(*fold_norm(w, settings), *cast(matrices, dtype))


def fold_norm(w: Weights, settings: Settings) -> tuple[torch.Tensor | None, ...]:
    """Return scale, shift and the scale of the raw input, each (C) and never in half precision; None without a norm."""
    if settings.norm_position != "input":
        return None, None, None
    weight, bias, gamma, gammax = (_at_least_single(tensor) for tensor in w[:4])
    return weight * gamma, bias * gamma, gammax


def fold_mix(pw_weight: torch.Tensor) -> torch.Tensor:
    """Fold the 1x1 convolution (n, n, 1, 1) and the residual around it into a matrix."""
    return pw_weight.flatten(1) + torch.eye(len(pw_weight), dtype=pw_weight.dtype, device=pw_weight.device)


def filter_share(settings: Settings, count: int) -> float:
    """Return by which each of so many filters is multiplied."""
    return 1 / count if settings.filter_reduction == "mean" else 1.0


def cast(tensors: Sequence[torch.Tensor], dtype: torch.dtype | None) -> Sequence[torch.Tensor]:
    """Return tensors of a dtype; as they are, if it is None."""
    return tensors if dtype is None else [tensor.to(dtype) for tensor in tensors]


def _at_least_single(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype in HALF_DTYPES else tensor


def _centred(kernel: torch.Tensor, size: int) -> torch.Tensor:
    """Pad a kernel of shape (..., k, k) with zeros to (..., size, size)."""
    return F.pad(kernel, [(size - kernel.shape[-1]) // 2] * 4) if kernel.shape[-1] < size else kernel
