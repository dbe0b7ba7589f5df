"""The lower blocks of a DINOv2, frozen, are run once over all images; what is trained above them costs so much less.

Nothing else changes: the upper blocks see what they would have seen, and an adapter on them is one of the whole model.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import Dinov2ForImageClassification


class StoredTokens(nn.Module):
    """Stands where a model's embeddings stood, and takes what came out of its lower blocks instead of pixels.

    The tokens go through `patch_embeddings.projection` as a map, since adapters read the grid of the patches there.

    Args:
        embeddings: The model's own, whose projection has the hooks of adapters, and gets those that are added.
    """

    def __init__(self, embeddings: nn.Module) -> None:
        super().__init__()
        projection = nn.Identity()
        projection._forward_hooks = embeddings.patch_embeddings.projection._forward_hooks
        self.patch_embeddings = nn.ModuleDict({"projection": projection})

    def forward(self, pixel_values: torch.Tensor, bool_masked_pos: None = None) -> torch.Tensor:
        """Returns the tokens that are given, of shape (B, 1 + S * S, C)."""
        side = int((pixel_values.shape[1] - 1) ** 0.5)
        self.patch_embeddings["projection"](pixel_values[:, 1:].transpose(1, 2).unflatten(2, (side, side)))
        return pixel_values


@contextmanager
def above(model: Dinov2ForImageClassification, first: int) -> Iterator[None]:
    """Within it, a model is its blocks from number `first` on; it takes the tokens of `tokens_before` for pixels."""
    if not first:
        yield
        return
    inner = model.dinov2
    embeddings, blocks = inner.embeddings, inner.encoder.layer
    inner.embeddings, inner.encoder.layer = StoredTokens(embeddings), blocks[first:]
    try:
        yield
    finally:
        inner.embeddings, inner.encoder.layer = embeddings, blocks


@torch.no_grad()
def tokens_before(
    model: Dinov2ForImageClassification, first: int, pixel_values: torch.Tensor, batch_size: int = 32
) -> torch.Tensor:
    """Runs images through the blocks before number `first`.

    Args:
        model: As pre-trained.
        first: Number of blocks.
        pixel_values: (N, 3, H, W), square and a multiple of 14 high and wide.
        batch_size: Images at a time.

    Returns:
        (N, 1 + H * W / 196, C) in bfloat16; the pixel values themselves where there is no such block.
    """
    if not first:
        return pixel_values
    inner, done = model.dinov2.eval(), []
    for pixels in pixel_values.split(batch_size):
        with torch.autocast(pixels.device.type, torch.bfloat16):
            tokens = inner.embeddings(pixels)
            for block in inner.encoder.layer[:first]:
                tokens = block(tokens)
        done.append(tokens.bfloat16())
    return torch.cat(done)
