"""Depthwise convolution of channels-last maps, and its gradients by the fastest exact route."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from mona_peft.blocks import Grid

_LARGE_MAP = 32 * 32


def as_image(tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
    """See tokens of shape (B, H * W, n), contiguous, as a channels-last map (B, n, H, W), without a copy."""
    return tokens.view(-1, *grid, tokens.shape[-1]).permute(0, 3, 1, 2)


def as_tokens(image: torch.Tensor) -> torch.Tensor:
    """See a map (B, n, H, W) as tokens of shape (B, H * W, n); no copy where it is channels-last."""
    return image.permute(0, 2, 3, 1).flatten(1, 2)


def depthwise(tokens: torch.Tensor, grid: Grid, kernel: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Convolve tokens of shape (B, H * W, n) with one filter a channel, of shape (n, 1, k, k), zero padded."""
    image = F.conv2d(as_image(tokens, grid), kernel, bias, padding=kernel.shape[-1] // 2, groups=len(kernel))
    return as_tokens(image)


def depthwise_input_grad(grad: torch.Tensor, grid: Grid, kernel: torch.Tensor) -> torch.Tensor:
    """Gradient of `depthwise` to its tokens: the same convolution with the filters turned by 180 degrees."""
    return depthwise(grad, grid, kernel.flip(-1, -2), None)


def depthwise_kernel_grad(tokens: torch.Tensor, grad: torch.Tensor, grid: Grid, size: int) -> torch.Tensor:
    """Gradient of `depthwise` to its kernel.

    On a CPU it is computed as a convolution of the map with the gradient as its kernel: oneDNN has no kernel of its
    own for the depthwise weight gradient of channels-last maps and takes a dense one, with many times the work.

    Args:
        tokens: (B, H * W, n), contiguous.
        grad: Gradient to the output, likewise.
        grid: (H, W).
        size: Kernel size k.

    Returns:
        (n, 1, k, k).
    """
    image, image_grad = as_image(tokens, grid), as_image(grad, grid)
    batch_size, channels, height, width = image.shape
    if tokens.device.type != "cpu":
        kernel = grad.new_empty(channels, 1, size, size)
        args = ([1, 1], [size // 2] * 2, [1, 1], False, [0, 0], channels, [False, True, False])
        return torch.ops.aten.convolution_backward(image_grad, image, kernel, None, *args)[1]
    if height * width >= _LARGE_MAP:
        maps = [
            F.conv2d(image[b : b + 1], image_grad[b].unsqueeze(1), padding=size // 2, groups=channels)
            for b in range(batch_size)
        ]
        return torch.cat(maps).sum(0).unsqueeze(1)
    # Small maps: all images at once, as further channels.
    flat = image.permute(2, 3, 0, 1).reshape(1, height, width, -1).permute(0, 3, 1, 2)  # (1, B * n, H, W)
    kernels = image_grad.reshape(-1, 1, height, width)
    maps = F.conv2d(flat, kernels, padding=size // 2, groups=batch_size * channels)
    return maps.view(batch_size, channels, 1, size, size).sum(0)
