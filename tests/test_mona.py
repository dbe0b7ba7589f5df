"""The module: its formula, its settings, its initialisation."""

import math

import pytest
import torch
import torch.nn.functional as F

from mona_peft import Mona

CHANNELS, HEIGHT, WIDTH = 12, 5, 7


def tokens(prefix: int = 0) -> torch.Tensor:
    return torch.randn(2, prefix + HEIGHT * WIDTH, CHANNELS, dtype=torch.float64)


def random_mona(**settings) -> Mona:
    mona = Mona(CHANNELS, **{"bottleneck_dim": 8, **settings}).double().eval()
    for parameter in mona.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return mona


def scaled_norm(mona: Mona, x: torch.Tensor) -> torch.Tensor:
    mean = x.mean(-1, keepdim=True)
    std = (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    return ((x - mean) / std * mona.norm_weight + mona.norm_bias) * mona.gamma + x * mona.gammax


def naive_convolution(image: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Depthwise convolution of (n, H, W), written as a sum over shifted copies."""
    size = weight.shape[-1]
    padded = F.pad(image, [size // 2] * 4)
    total = bias[:, None, None].expand_as(image).clone()
    for i in range(size):
        for j in range(size):
            total += weight[:, 0, i, j, None, None] * padded[:, i : i + image.shape[1], j : j + image.shape[2]]
    return total


def naive_delta(mona: Mona, x: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Mona of one image (N, C) from its equations, one step at a time."""
    u = scaled_norm(mona, x) if mona.norm_position == "input" else x
    p = u @ mona.down_weight.T + mona.down_bias
    if mona.norm_position == "bottleneck":
        p = scaled_norm(mona, p)
    prefix = len(p) - grid[0] * grid[1]
    image = p[prefix:].T.reshape(-1, *grid)
    filters = [
        naive_convolution(image, mona.get_parameter(f"dw{size}_weight"), mona.get_parameter(f"dw{size}_bias"))
        for size in mona.kernel_sizes
    ]
    total = torch.stack(filters).sum(0)
    image = image + (total / len(filters) if mona.filter_reduction == "mean" else total)
    image = torch.einsum("oi,ihw->ohw", mona.pw_weight[:, :, 0, 0], image) + mona.pw_bias[:, None, None] + image
    p = torch.cat([p[:prefix], image.flatten(1).T])
    gelu = p * (1 + torch.erf(p / math.sqrt(2))) / 2
    return gelu @ mona.up_weight.T + mona.up_bias


SETTINGS = [
    {},
    {"kernel_sizes": (3,)},
    {"kernel_sizes": (1, 9)},
    {"norm_position": "bottleneck"},
    {"norm_position": "none"},
    {"filter_reduction": "sum"},
    {"norm_position": "none", "filter_reduction": "sum", "bottleneck_dim": 5},
]


@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_equals_the_equations(settings, prefix):
    mona, x = random_mona(**settings), tokens(prefix)
    expected = torch.stack([naive_delta(mona, image, (HEIGHT, WIDTH)) for image in x])
    torch.testing.assert_close(mona(x, (HEIGHT, WIDTH)), expected, atol=1e-10, rtol=1e-10)


def test_prefix_tokens_and_grid_do_not_mix():
    mona, x = random_mona(), tokens(prefix=2)
    delta = mona(x, (HEIGHT, WIDTH))
    other_prefix = torch.cat([torch.randn_like(x[:, :2]), x[:, 2:]], dim=1)
    assert torch.equal(mona(other_prefix, (HEIGHT, WIDTH))[:, 2:], delta[:, 2:])
    other_grid = torch.cat([x[:, :2], torch.randn_like(x[:, 2:])], dim=1)
    assert torch.equal(mona(other_grid, (HEIGHT, WIDTH))[:, :2], delta[:, :2])


def test_too_few_tokens_for_the_grid():
    with pytest.raises(ValueError, match=r"35 tokens for a grid of 6 x 6 = 36 places"):
        random_mona()(tokens(), (6, 6))


def test_dropout_only_in_training():
    mona, x = random_mona(dropout=0.5), tokens()
    assert torch.equal(mona(x, (HEIGHT, WIDTH)), mona(x, (HEIGHT, WIDTH)))
    mona.train()
    assert not torch.equal(mona(x, (HEIGHT, WIDTH)), mona(x, (HEIGHT, WIDTH)))


def test_zero_up_projection_adds_nothing():
    mona = Mona(CHANNELS)
    mona.reset_parameters(True)
    assert torch.count_nonzero(mona(tokens().float(), (HEIGHT, WIDTH))) == 0
    assert torch.count_nonzero(mona.down_weight) > 0


def test_initialisation_of_the_paper():
    """Linear weights from a truncated normal of 0.02, biases zero, gamma 1e-6, gammax 1; no identity."""
    mona = Mona(256)
    assert mona.down_weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert mona.up_weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert torch.count_nonzero(torch.cat([mona.down_bias, mona.up_bias, mona.norm_bias])) == 0
    assert torch.equal(mona.gamma, torch.full((256,), 1e-6))
    assert torch.equal(mona.gammax, torch.ones(256))
    for name in ("dw3", "dw5", "dw7", "pw"):
        weight = mona.get_parameter(f"{name}_weight")
        # PyTorch's own default for the same convolution, as the outside reference.
        default = torch.nn.Conv2d(64, 64, weight.shape[-1], groups=64 // weight.shape[1])
        for ours, theirs in ((weight, default.weight), (mona.get_parameter(f"{name}_bias"), default.bias)):
            assert ours.abs().max().item() == pytest.approx(theirs.abs().max().item(), rel=0.1)
            assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.3)
    x = torch.randn(1, 64, 256)
    shift = mona.eval()(x, (8, 8)).norm() / x.norm()
    assert 0.005 < shift < 0.2


def test_initialisation_for_tests_leaves_nothing_constant():
    mona = Mona(CHANNELS)
    mona.reset_parameters(False)
    for name, parameter in mona.named_parameters():
        assert parameter.std() > 0, name
        assert torch.count_nonzero(parameter) == parameter.numel(), name
