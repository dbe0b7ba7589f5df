"""The modules of Mona's rivals: their formulas, one step at a time, and their initialisations."""

import math

import pytest
import torch
from torch import nn

from mona_peft.methods.bottleneck import Bottleneck
from mona_peft.methods.colin import CoLin
from mona_peft.methods.lorand import LoRand
from tests.test_mona import naive_convolution

CHANNELS, GRID = 12, (5, 7)


def random(module: nn.Module) -> nn.Module:
    for parameter in module.double().parameters():
        nn.init.normal_(parameter, std=0.5)
    return module.eval()


def tokens(prefix: int = 0) -> torch.Tensor:
    return torch.randn(2, prefix + GRID[0] * GRID[1], CHANNELS, dtype=torch.float64)


def gelu(x: torch.Tensor) -> torch.Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def naive_bottleneck(module: Bottleneck, x: torch.Tensor) -> torch.Tensor:
    p = gelu(x @ module.down_weight.T + module.down_bias)
    return 0.1 * (p @ module.up_weight.T + module.up_bias)


def naive_lorand(module: LoRand, x: torch.Tensor) -> torch.Tensor:
    down = sum(p @ k @ q for p, k, q in zip(module.down_p, module.down_k, module.down_q, strict=True))
    up = sum(p @ k @ q for p, k, q in zip(module.up_p, module.up_k, module.up_q, strict=True))
    return gelu(x @ down + module.down_bias) @ up + module.up_bias


def naive_colin(module: CoLin, x: torch.Tensor) -> torch.Tensor:
    """A sum over branches of A diag(g) B, where the module has one product."""
    down, up = (
        sum(left @ torch.diag(g) @ right.T for g in module.diagonals)
        for left, right in ((module.down_left, module.down_right), (module.up_left, module.up_right))
    )
    p = x @ down.T + module.down_bias
    prefix = p.shape[1] - GRID[0] * GRID[1]
    share = 1 / (1 + torch.exp(-module.gate))
    for image, row in enumerate(p[:, prefix:].clone()):
        filtered = naive_convolution(row.T.reshape(-1, *GRID), module.dw_weight, module.dw_bias).flatten(1).T
        p[image, prefix:] = share * filtered + (1 - share) * row
    return gelu(p) @ up.T + module.up_bias


MODULES = {
    "bottleneck": (lambda: Bottleneck(CHANNELS, 8, scale=0.1), naive_bottleneck),
    "lorand": (lambda: LoRand(CHANNELS, num_branches=3, kernel_dim=2), naive_lorand),
    "colin": (lambda: CoLin(CHANNELS, bottleneck_dim=10, rank=4, num_branches=3), naive_colin),
}


@pytest.mark.parametrize("prefix", [0, 2], ids=["grid", "prefix"])
@pytest.mark.parametrize("name", MODULES)
def test_equals_its_equations(name, prefix):
    make, naive = MODULES[name]
    module, x = random(make()), tokens(prefix)
    torch.testing.assert_close(module(x, GRID), naive(module, x))


@pytest.mark.parametrize("name", MODULES)
def test_initialisations(name):
    module, x = MODULES[name][0]().eval(), tokens().float()
    module.reset_parameters(True)
    assert torch.equal(module(x, GRID), torch.zeros_like(x))
    module.reset_parameters("paper")
    assert module(x, GRID).abs().max() > 1e-5
    module.reset_parameters(False)
    assert not any((parameter == 0).all() for parameter in module.parameters())


@pytest.mark.parametrize("name", MODULES)
def test_all_parameters_get_gradients(name):
    module = MODULES[name][0]().train()
    module.reset_parameters(True)
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    for _ in range(2):  # in the first step only the zero factor gets one
        module(tokens().float(), GRID).sub(1).square().sum().backward()
        optimizer.step()
    assert all(parameter.grad.abs().max() > 0 for parameter in module.parameters())


class TestBottleneck:
    def test_dropout_in_training_only(self):
        module, x = random(Bottleneck(CHANNELS, 8, dropout=0.5)).train(), tokens()
        assert not torch.equal(module(x), module(x))
        assert torch.equal(module.eval()(x), module(x))


class TestCoLin:
    def test_starts_from_singular_vectors(self):
        """With one branch the projection is the best approximation of its rank, so its factors are orthonormal."""
        module = CoLin(CHANNELS, bottleneck_dim=10, rank=4, num_branches=1)
        for factor in (module.down_left, module.down_right, module.up_left, module.up_right):
            torch.testing.assert_close(factor.T @ factor, torch.eye(4), atol=1e-5, rtol=0)
        assert (module.diagonals[0].diff() <= 0).all(), "singular values fall"
        assert module.orthogonality_loss() < 1e-8

    @pytest.mark.parametrize("weight", [0.0, 0.5])
    def test_backward_adds_the_gradient_of_the_orthogonality_loss(self, weight):
        module = random(CoLin(CHANNELS, bottleneck_dim=10, rank=4, orthogonality_weight=weight)).train()
        x, cotangent = tokens(), tokens()
        (module(x, GRID) * cotangent).sum().backward()
        ours = [parameter.grad.clone() for parameter in module.parameters()]

        loss = module.orthogonality_loss() + (module.eval()(x, GRID) * cotangent).sum()
        theirs = torch.autograd.grad(loss, list(module.parameters()))
        for our, their in zip(ours, theirs, strict=True):
            torch.testing.assert_close(our, their)

    def test_orthogonality_loss_falls_by_its_own_gradient(self):
        """Also where the task asks for nothing, and without the training loop knowing."""
        module = CoLin(CHANNELS, bottleneck_dim=10, rank=4).train()
        before = module.orthogonality_loss().item()
        optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
        for _ in range(20):
            optimizer.zero_grad()
            (module(tokens().float(), GRID) * 0).sum().backward()
            optimizer.step()
        assert module.orthogonality_loss().item() < 0.5 * before

    def test_rank_above_the_width(self):
        with pytest.raises(
            ValueError, match=r"rank=28: a projection between 16 and 100 channels has a rank of at most 16"
        ):
            CoLin(16)
