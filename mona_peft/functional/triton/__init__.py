"""Kernels in Triton for the fast path on a GPU, for those who ask for them.

They compute what `mona_peft.functional.fast` computes and keep the same for the backward pass, in three kernels and six
instead of some fifty. They have to be asked for, by `MONA_PEFT_TRITON=1` in the environment or by `triton_kernels()`,
because they have not been measured on a GPU yet.

Asked for, they serve tensors on a CUDA device in half or single precision, bottlenecks of up to 128 or 64 channels and
filters of up to 9 x 9; all else runs in plain PyTorch. With `TRITON_INTERPRET=1`, Triton's interpreter runs them on a
CPU, for tests. This module by itself does not need Triton.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

import torch
from packaging.version import Version

from mona_peft.functional.fast import Engine
from mona_peft.functional.folding import FoldedWeights

VARIABLE = "MONA_PEFT_TRITON"
OLDEST = "3.6"
"""Version of Triton."""
MAX_BOTTLENECK_DIM = {torch.float32: 64, torch.bfloat16: 128, torch.float16: 128}
"""What the registers of a program hold, by the dtype of the matrix products."""
MAX_KERNEL_SIZE = 9
"""Likewise."""

_is_asked_for = ContextVar("triton_kernels", default=os.environ.get(VARIABLE) == "1")
"""The switch: what the environment says, or `triton_kernels` in its own thread."""


@contextmanager
def triton_kernels(enabled: bool = True) -> Iterator[None]:
    """Ask for the kernels, or do not, whatever the environment says; backward passes go the way of their forward pass.

    Args:
        enabled: Whether to ask for them.

    Raises:
        ImportError: Triton is missing or too old.
    """
    if enabled:
        _load_engine()
    token = _is_asked_for.set(enabled)
    try:
        yield
    finally:
        _is_asked_for.reset(token)


def chosen_engine(hidden_states: torch.Tensor, weights: FoldedWeights) -> Engine | None:
    """Return the kernels if they are asked for and serve such tensors, else None.

    Raises:
        ImportError: They would, but Triton is missing or too old.
    """
    if not _is_asked_for.get() or not _serves(hidden_states, weights):
        return None
    return _load_engine()


def _serves(hidden_states: torch.Tensor, w: FoldedWeights) -> bool:
    return (
        type(hidden_states) in (torch.Tensor, torch.nn.Parameter)
        and (hidden_states.device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1")
        and hidden_states.dtype in MAX_BOTTLENECK_DIM
        and (w.norm_scale is None or w.norm_scale.dtype == torch.float32)
        and len(w.down_weight) <= MAX_BOTTLENECK_DIM.get(w.down_weight.dtype, 0)
        and w.kernel.shape[-1] <= MAX_KERNEL_SIZE
    )


@cache
def _load_engine() -> Engine:
    try:
        from triton import __version__ as found
    except ImportError:
        found = None
    if found is None or Version(found) < Version(OLDEST):
        raise ImportError(
            f"Mona's kernels in Triton are asked for ({VARIABLE}=1 or triton_kernels()) and need triton>={OLDEST}; "
            f"{'it is not installed' if found is None else f'here it is {found}'}. PyTorch for CUDA brings it "
            f"along from version 2.11. Or do not ask for them: Mona runs without them, on every device."
        )
    from mona_peft.functional.triton.engine import ENGINE

    return ENGINE
