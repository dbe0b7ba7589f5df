"""A random Mona, its exact outputs and gradients, and how far others are from them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from mona_peft import Mona
from mona_peft.functional.formula import mona_formula

Grid = tuple[int, int]


def random_mona(dim: int, **settings) -> Mona:
    """A Mona in double precision whose every weight matters."""
    mona = Mona(dim, **{"dropout": 0.0, **settings}).double()
    for parameter in mona.parameters():
        torch.nn.init.normal_(parameter, std=0.5 if parameter.dim() == 1 else parameter[0].numel() ** -0.5)
    return mona


def tokens(dim: int, grid: Grid, prefix: int = 0, batch_size: int = 2, mean: float = 0.0) -> torch.Tensor:
    """Random tokens (B, P + H * W, C) in double precision."""
    return torch.randn(batch_size, prefix + grid[0] * grid[1], dim, dtype=torch.float64) + mean


def by_formula(mona: Mona, x: torch.Tensor, grid: Grid) -> torch.Tensor:
    """`x` with what the readable formula adds."""
    return x + mona_formula(x, grid, mona.weights(), mona.settings())


def by_addition(mona: Mona, x: torch.Tensor, grid: Grid) -> torch.Tensor:
    """`x` with what the module returns."""
    return x + mona(x, grid)


def in_place(mona: Mona, x: torch.Tensor, grid: Grid) -> torch.Tensor:
    """`x` with what the module adds in place."""
    return mona(x, grid, in_place=True)


def results(adapt: Callable, mona: Mona, x: torch.Tensor, grid: Grid, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Output, gradient to the input and to all parameters, computed in `dtype` and given in double precision."""
    mona.to(dtype).zero_grad()
    leaf = x.to(dtype, copy=True).requires_grad_()
    output = adapt(mona, leaf + 0, grid)
    direction = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    output.backward(direction.to(dtype).to(output))
    gradients = {name: parameter.grad.double() for name, parameter in mona.named_parameters()}
    mona.double()
    return {"output": output.detach().double(), "input": leaf.grad.double(), **gradients}


def errors(ours: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> dict[str, float]:
    """The largest error of each tensor, relative to its largest value."""
    return {name: ((ours[name] - exact[name]).abs().max() / exact[name].abs().max()).item() for name in exact}
