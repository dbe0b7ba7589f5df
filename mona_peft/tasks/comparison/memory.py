"""What a forward pass keeps in memory for its backward pass."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import nn


def kept_bytes(model: nn.Module, pixel_values: torch.Tensor, autocast: torch.dtype | None = None, **inputs: Any) -> int:
    """Return how many bytes a forward pass keeps for its backward pass, each memory once; weights excepted.

    Args:
        model: The model.
        pixel_values: Images as it takes them.
        autocast: Type that autocast computes in, if it is on.
        inputs: Further arguments of its `forward`.
    """
    # Not by the address of the data, which fake tensors don't have.
    own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}  # alive, so that no address comes twice

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        # Tensors without data ("meta") know of no autocast, not even of one that is off.
        nullcontext() if autocast is None else torch.autocast(pixel_values.device.type, autocast),
    ):
        outputs = model(pixel_values, **inputs)
    total = sum(storage.nbytes() for storage in kept.values())
    del outputs
    return total
