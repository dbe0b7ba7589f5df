"""What a forward pass keeps in memory for its backward pass."""

from contextlib import nullcontext

import torch
from torch import nn


def kept_bytes(model: nn.Module, pixel_values: torch.Tensor, autocast: torch.dtype | None = None) -> int:
    """Return how many bytes a forward pass keeps for its backward pass, each memory once; weights excepted."""
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
        outputs = model(pixel_values)
    total = sum(storage.nbytes() for storage in kept.values())
    del outputs
    return total
