"""Depthwise convolution and its gradients against PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F

from mona_peft.functional.depthwise import depthwise, depthwise_input_grad, depthwise_kernel_grad


@pytest.mark.parametrize("grid", [(1, 1), (5, 9), (40, 33)])
@pytest.mark.parametrize("size", [1, 3, 7])
def test_gradients(grid, size):
    tokens = torch.randn(3, grid[0] * grid[1], 6, dtype=torch.float64)
    kernel = torch.randn(6, 1, size, size, dtype=torch.float64, requires_grad=True)
    image = tokens.unflatten(1, grid).permute(0, 3, 1, 2).contiguous().requires_grad_()
    expected = F.conv2d(image, kernel, padding=size // 2, groups=6)
    torch.testing.assert_close(depthwise(tokens, grid, kernel, None), expected.permute(0, 2, 3, 1).flatten(1, 2))
    grad = torch.randn_like(tokens)
    image_grad, kernel_grad = torch.autograd.grad(
        expected, [image, kernel], grad.unflatten(1, grid).permute(0, 3, 1, 2)
    )
    torch.testing.assert_close(depthwise_kernel_grad(tokens, grad, grid, size), kernel_grad)
    ours = depthwise_input_grad(grad, grid, kernel)
    torch.testing.assert_close(ours, image_grad.permute(0, 2, 3, 1).flatten(1, 2))
