"""Small operators into which compilers do not look, for what `torch.compile` would do badly or can't do.

They have no gradient: `compiled` calls them in its own forward and backward pass. They change nothing in place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from mona_peft.functional.depthwise import depthwise_kernel_grad
from mona_peft.functional.dropout import keep_mask, keep_probability
from mona_peft.functional.folding import fold_filters, unfold_filters

LIBRARY = torch.library.Library("mona_peft", "FRAGMENT")
# A captured CUDA graph would repeat one dropout mask for ever. The tag is there from PyTorch 2.9 on.
_TAGS = (torch.Tag.cudagraph_unsafe,) if hasattr(torch.Tag, "cudagraph_unsafe") else ()


def _operator(schema: str, fake: Callable, tags: Sequence[torch.Tag] = ()) -> Callable[[Callable], Callable]:
    """Define an operator of that schema, of shapes as `fake` says, computed by the function that is decorated."""

    def define(compute: Callable) -> Callable:
        # Not by `torch.library.custom_op`, whose wrappers take as long as the smaller of these operators.
        name = schema.partition("(")[0]
        LIBRARY.define(schema, tags=tags)
        LIBRARY.impl(name, compute, "CompositeExplicitAutograd")
        torch.library.register_fake(f"mona_peft::{name}", fake, lib=LIBRARY)
        return getattr(torch.ops.mona_peft, name)

    return define


@_operator("again(Tensor x, Tensor grad) -> Tensor", lambda x, grad: x.new_empty(x.shape))
def again(x: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    """Copy a kept map, in the backward pass.

    What is computed from the copy can't be taken for what the forward pass computed from the map, and be kept instead;
    and as the copy needs the gradient, it can't be made before.
    """
    return x.clone()


@_operator(
    "scaled_mask(Tensor like, float dropout, Tensor seed) -> Tensor",
    lambda like, dropout, seed: like.new_empty(like.shape),
    _TAGS,
)
def scaled_mask(like: torch.Tensor, dropout: float, seed: torch.Tensor) -> torch.Tensor:
    """Draw `keep_mask`, scaled so that its mean is 1."""
    return keep_mask(like, dropout, int(seed)).div_(keep_probability(dropout, like.device))


@_operator(
    "kernel_grad(Tensor tokens, Tensor grad, SymInt height, SymInt width, int size) -> Tensor",
    lambda tokens, grad, height, width, size: tokens.new_empty(tokens.shape[-1], 1, size, size),
)
def kernel_grad(tokens: torch.Tensor, grad: torch.Tensor, height: int, width: int, size: int) -> torch.Tensor:
    """Compute `depthwise_kernel_grad`, whose way depends on the size of the map."""
    return depthwise_kernel_grad(tokens, grad, (height, width), size)


def _fake_filters(
    weights: list[torch.Tensor], biases: list[torch.Tensor], share: float
) -> tuple[torch.Tensor, torch.Tensor]:
    largest = max(weights, key=lambda weight: weight.shape[-1])
    return largest.new_empty(largest.shape), biases[0].new_empty(biases[0].shape)


@_operator("fold_filters(Tensor[] weights, Tensor[] biases, float share) -> (Tensor, Tensor)", _fake_filters)
def folded_filters(
    weights: list[torch.Tensor], biases: list[torch.Tensor], share: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute `fold_filters`: many small operations, which would take long to compile."""
    return fold_filters(weights, biases, share)


@_operator(
    "unfold_filters(Tensor kernel_grad, Tensor bias_grad, int[] sizes, float share) -> Tensor[]",
    lambda kernel_grad, bias_grad, sizes, share: [
        *(kernel_grad.new_empty(*kernel_grad.shape[:2], size, size) for size in sizes),
        *(bias_grad.new_empty(bias_grad.shape) for _ in sizes),
    ],
)
def unfolded_filters(
    kernel_grad: torch.Tensor, bias_grad: torch.Tensor, sizes: list[int], share: float
) -> list[torch.Tensor]:
    """Compute `unfold_filters`."""
    return unfold_filters(kernel_grad, bias_grad, sizes, share)
