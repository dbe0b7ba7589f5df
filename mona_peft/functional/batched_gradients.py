"""Gradients that come as a batch, by `torch.autograd.grad(..., is_grads_batched=True)`.

PyTorch then calls the backward pass once, under its older `vmap`, which can't follow most of what it does there. It
runs once for each gradient instead, with that `vmap` left for the time.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter

import torch

Gradients = tuple[torch.Tensor | None, ...]


# None of these names is public. If one is gone, PyTorch's own message says that the backward pass can't be followed.
_PRIVATE_NAMES = attrgetter(
    "_C._functorch.is_legacy_batchedtensor",
    "_C._vmapmode_decrement_nesting",
    "_C._vmapmode_increment_nesting",
    "_remove_batch_dim",
    "_add_batch_dim",
)


def for_each_gradient(backward: Callable[[torch.Tensor], Gradients], grad: torch.Tensor) -> Gradients:
    """Call `backward` with a gradient, or with each of a batch, and return what it returns, as a batch again."""
    try:
        is_batched, leave_vmap, enter_vmap, remove_batch_dim, add_batch_dim = _PRIVATE_NAMES(torch)
    except AttributeError:
        return backward(grad)
    if not is_batched(grad):
        return backward(grad)
    level = leave_vmap() + 1
    try:
        gradients = remove_batch_dim(grad, level, 0, 0)
        results = [for_each_gradient(backward, gradient) for gradient in gradients]
    finally:
        enter_vmap()
    return tuple(
        None if parts[0] is None else add_batch_dim(torch.stack(parts), 0, level)
        for parts in zip(*results, strict=True)
    )
