"""Dropout masks that are drawn twice instead of kept."""

from __future__ import annotations

import torch

from mona_peft.functional.fake_tensors import is_fake

_LANES = 4
"""Random numbers of 16 bits in one of 64."""


def draw_seed() -> int:
    """Draw a seed from PyTorch's default CPU generator, whatever device the mask will be on.

    So `torch.manual_seed` governs it, gradient checkpointing replays it, and no device has to be waited for.
    """
    seed = torch.randint(2**63 - 1, ())
    return 0 if is_fake(seed) else int(seed)


def keep_probability(dropout: float, device: torch.device) -> float:
    """Return the probability with which `keep_mask` keeps a value; the CPU rounds it to a multiple of 2^-16."""
    return 1 - _threshold(dropout) / 2**16 if device.type == "cpu" else 1 - dropout


def keep_mask(like: torch.Tensor, dropout: float, seed: int) -> torch.Tensor:
    """Draw ones and zeros; the same for the same seed and device.

    Args:
        like: Tensor whose shape, dtype and device the mask shall have.
        dropout: Probability of a zero.
        seed: From `draw_seed`.
    """
    generator = torch.Generator(like.device).manual_seed(seed)
    if like.device.type != "cpu":
        return torch.empty_like(like).bernoulli_(1 - dropout, generator=generator)
    # bernoulli_ draws one value at a time on the CPU, which takes longer than both projections together. Integers come
    # faster, four draws in each; comparing and converting integers is vectorised, with booleans it is not.
    size = like.numel()
    draws = torch.empty(-(-size // _LANES), dtype=torch.int64).random_(-(2**63), None, generator=generator)
    lanes = draws.view(torch.int16)[:size].view(like.shape)
    return lanes.ge_(_threshold(dropout) - 2**15).to(like.dtype)


def _threshold(dropout: float) -> int:
    # At least one value in 2^16 is kept, however close to 1 the probability is.
    return min(round(dropout * 2**16), 2**16 - 1)
