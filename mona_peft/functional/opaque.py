"""Three operators into which compilers do not look, of what lies between Mona's projections.

Fusing that with what stands around gains little, and a compiler takes long over its many small operations. The
operators have no gradient: `compiled` calls them in its own forward and backward pass. They change nothing in place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from mona_peft.functional import steps
from mona_peft.functional.dropout import keep_mask, keep_probability
from mona_peft.functional.fast import PLAIN, Backward, Call
from mona_peft.functional.folding import FoldedWeights, cast, fold_filters, fold_mix, unfold_filters

LIBRARY = torch.library.Library("mona_peft", "FRAGMENT")
# A captured CUDA graph would repeat one dropout mask for ever. The tag is there from PyTorch 2.9 on.
_TAGS = (torch.Tag.cudagraph_unsafe,) if hasattr(torch.Tag, "cudagraph_unsafe") else ()


def _operator(schema: str, fake: Callable, tags: Sequence[torch.Tag] = ()) -> Callable[[Callable], Callable]:
    """Define an operator of that schema, of shapes as `fake` says, computed by the function that is decorated."""

    def define(compute: Callable) -> Callable:
        # Compilers rely on what `fake` says. Convolutions leave a map channel by channel where they know no better.
        def as_promised(*args: Any) -> Sequence[torch.Tensor]:
            results = compute(*args)
            return type(results)(result.contiguous() for result in results)

        # Not by `torch.library.custom_op`, whose wrappers take as long as the smaller of these operators.
        name = schema.partition("(")[0]
        LIBRARY.define(schema, tags=tags)
        LIBRARY.impl(name, as_promised, "CompositeExplicitAutograd")
        torch.library.register_fake(f"mona_peft::{name}", fake, lib=LIBRARY)
        return getattr(torch.ops.mona_peft, name)

    return define


_GRID_AND_MASK = "SymInt height, SymInt width, float dropout, Tensor? seed"


def _weights(*inside_and_up: torch.Tensor | None) -> FoldedWeights:
    """Return weights of which those in front of the filters are None."""
    return FoldedWeights(*(None,) * 5, *inside_and_up)


def _mask(p: torch.Tensor, dropout: float, seed: torch.Tensor | None) -> torch.Tensor | None:
    """Draw dropout's mask, scaled so that its mean is 1."""
    return keep_mask(p, dropout, int(seed)).div_(keep_probability(dropout, p.device)) if dropout else None


def _fake_folded(
    p: torch.Tensor, filter_weights: list[torch.Tensor], filter_biases: list[torch.Tensor], *_: Any
) -> tuple[torch.Tensor, ...]:
    size, width = max(weight.shape[-1] for weight in filter_weights), p.shape[-1]
    return p.new_empty(p.shape), p.new_empty(width, 1, size, size), p.new_empty(width), p.new_empty(width, width)


@_operator(
    "bottleneck(Tensor p, Tensor[] filter_weights, Tensor[] filter_biases, Tensor pw_weight, Tensor pw_bias, "
    f"float share, {_GRID_AND_MASK}) -> (Tensor, Tensor, Tensor, Tensor)",
    _fake_folded,
    _TAGS,
)
def bottleneck(
    p: torch.Tensor,
    filter_weights: list[torch.Tensor],
    filter_biases: list[torch.Tensor],
    pw_weight: torch.Tensor,
    pw_bias: torch.Tensor,
    share: float,
    height: int,
    width: int,
    dropout: float,
    seed: torch.Tensor | None,
) -> tuple[torch.Tensor, ...]:
    """Compute `steps.bottleneck` of p (B, P + H * W, n) with a mask of mean 1, from parameters as in `Weights`.

    Returns:
        It, and the weights that were folded for it: kernel, its bias, and the 1x1 convolution, as in `FoldedWeights`.
    """
    filters = fold_filters(filter_weights, filter_biases, share)
    folded = cast((*filters, fold_mix(pw_weight)), p.dtype)
    w = _weights(*folded, pw_bias.to(p.dtype), None, None)
    return steps.bottleneck(p, (height, width), w, _mask(p, dropout, seed)), *folded


def _fake_again(grad: torch.Tensor, p: torch.Tensor, *args: Any) -> list[torch.Tensor]:
    height, width, dropout, _, total = args[-5:]
    q = p.new_empty(p.shape[0], height * width, p.shape[2])
    maps = [p.new_empty(p.shape), q, p.new_empty(p.shape)]
    maps += [p.new_empty(p.shape)] if dropout else []
    return maps if total is None else [*maps, total.new_empty(total.shape)]


@_operator(
    "mona_again(Tensor grad, Tensor p, Tensor kernel, Tensor kernel_bias, Tensor mix_weight, Tensor mix_bias, "
    f"Tensor up_weight, Tensor up_bias, {_GRID_AND_MASK}, Tensor? total) -> Tensor[]",
    _fake_again,
    _TAGS,
)
def mona_again(grad: torch.Tensor, p: torch.Tensor, *args: Any) -> list[torch.Tensor]:
    """Compute in the backward pass what the forward pass computed and did not keep.

    A compiler that saw how could keep it from there instead. As the gradient is asked for, it can't come before.

    Args:
        grad: Gradient to the result, (B, P + H * W, C).
        p: (B, P + H * W, n).
        args: The other arguments of the schema, weights as in `FoldedWeights`.

    Returns:
        What `steps.bottleneck_again` does; dropout's mask, if there is one; and the input, if `total`, the sum with
        it, is given.
    """
    *weights, height, width, dropout, seed, total = args
    w = _weights(*(weight.to(p.dtype) for weight in weights))
    mask = _mask(p, dropout, seed)
    maps = [*steps.bottleneck_again(p, (height, width), w, mask)]
    maps += [] if mask is None else [mask]
    if total is None:
        return maps
    x = steps.without_delta(total.flatten(0, 1), maps[0].flatten(0, 1), 1.0, w)
    return [*maps, x.view(total.shape)]


def _fake_backward(hidden_grad: torch.Tensor, p: torch.Tensor, *args: Any) -> list[torch.Tensor]:
    *_, sizes, needs_weights = args
    width = p.shape[-1]
    shapes = [*([width, 1, size, size] for size in sizes), *([width] for _ in sizes)]
    shapes += [[width, width, 1, 1], [width], [width]]
    return [p.new_empty(shape) for shape in (p.shape, *(shapes if needs_weights else ()))]


@_operator(
    "bottleneck_backward(Tensor hidden_grad, Tensor p, Tensor q, Tensor r, Tensor? mask, Tensor kernel, "
    "Tensor mix_weight, float share, SymInt height, SymInt width, int[] sizes, bool needs_weights) -> Tensor[]",
    _fake_backward,
)
def bottleneck_backward(
    hidden_grad: torch.Tensor,
    p: torch.Tensor,
    q: torch.Tensor,
    r: torch.Tensor,
    mask: torch.Tensor | None,
    kernel: torch.Tensor,
    mix_weight: torch.Tensor,
    share: float,
    height: int,
    width: int,
    sizes: list[int],
    needs_weights: bool,
) -> list[torch.Tensor]:
    """Return gradients in the dtype of p, from that to what the up projection takes, (B, P + H * W, n).

    Returns:
        That to p; and if they are needed those to the filters of these sizes, to their biases, to the 1x1 convolution,
        to its bias, and to the bias of the down projection.
    """
    needs = FoldedWeights(*(False,) * 4, *(needs_weights,) * 5, False, False)
    call, w = Call((height, width), 0.0, 0, 1.0, False, PLAIN), _weights(kernel, None, mix_weight, None, None, None)
    backward = Backward(call, w, needs, needs_x=True)
    r_grad = torch.ops.aten.gelu_backward(hidden_grad if mask is None else hidden_grad * mask, r)
    p_grad = backward.through_filters(r_grad, p, q)
    if not needs_weights:
        return [p_grad]
    grads = FoldedWeights(**backward.grads)
    filter_grads = unfold_filters(grads.kernel, grads.kernel_bias, sizes, share)
    return [p_grad, *filter_grads, grads.mix_weight[..., None, None], grads.mix_bias, grads.down_bias]
