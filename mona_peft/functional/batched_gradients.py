"""Gradients that come as a batch, by `torch.autograd.grad(..., is_grads_batched=True)`.

PyTorch then calls the backward pass once, under its older `vmap`, which can't follow most of what it does there. It
runs once for each gradient instead, with that `vmap` left for the time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

Gradients = tuple[torch.Tensor | None, ...]


def for_each_gradient(backward: Callable[[torch.Tensor], Gradients], grad: torch.Tensor) -> Gradients:
    """Call `backward` with a gradient, or with each of a batch, and return what it returns, as a batch again."""
    if not _is_batched(grad):
        return backward(grad)
    level = torch._C._vmapmode_decrement_nesting() + 1
    try:
        gradients = torch._remove_batch_dim(grad, level, 0, 0)
        results = [for_each_gradient(backward, gradient) for gradient in gradients]
    finally:
        torch._C._vmapmode_increment_nesting()
    return tuple(
        None if parts[0] is None else torch._add_batch_dim(torch.stack(parts), 0, level)
        for parts in zip(*results, strict=True)
    )


def _is_batched(grad: torch.Tensor) -> bool:
    # None of these names is public. Without them PyTorch's own message says that the backward pass can't be followed.
    functorch = getattr(torch._C, "_functorch", None)
    return getattr(functorch, "is_legacy_batchedtensor", lambda _: False)(grad)
