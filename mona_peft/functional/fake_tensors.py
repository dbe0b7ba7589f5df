"""Tensors without data, by which memory and operations are estimated: shapes are known, values are not."""

from __future__ import annotations

import torch

# Not a public name: where it is gone, no tensor counts as fake.
try:
    from torch._subclasses import FakeTensor
except ImportError:
    FakeTensor = ()


def is_fake(tensor: torch.Tensor) -> bool:
    """Whether a tensor is one of PyTorch's `FakeTensorMode`."""
    return isinstance(tensor, FakeTensor)
