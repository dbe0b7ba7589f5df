"""Plots how exact Mona's gradients are where what it adds is much larger than what it is added to.

    python -m scripts.benchmark.gradient_error --plot docs/precision.png

For each precision and ratio |delta| / |x|: the largest error of the gradients to the input and to the parameters, each
relative to its largest value, against the formula in double precision. Beside it stands the formula in the same
precision, and what adding in place would cost if the input were never kept.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import torch
from matplotlib.figure import Figure

from mona_peft import Mona
from mona_peft.functional import steps
from mona_peft.functional.formula import mona_formula
from mona_peft.tasks.reporting.plots import save_figure

GRID = (14, 14)
RATIOS = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)


class Case(NamedTuple):
    """Dtypes of the tokens and of the adapter, and whether autocast runs the products in bfloat16."""

    tokens: torch.dtype
    adapter: torch.dtype
    autocast: bool = False


CASES = {
    "float32": Case(torch.float32, torch.float32),
    "bfloat16, adapter in float32": Case(torch.bfloat16, torch.float32),
    "bfloat16": Case(torch.bfloat16, torch.bfloat16),
    "float16, adapter in float32": Case(torch.float16, torch.float32),
    "float32, autocast to bfloat16": Case(torch.float32, torch.float32, autocast=True),
}


def _in_place(mona: Mona, x: torch.Tensor) -> torch.Tensor:
    return mona(x, GRID, in_place=True)


def _never_kept(mona: Mona, x: torch.Tensor) -> torch.Tensor:
    with patch.object(steps, "loses_input", lambda *_: False):
        return _in_place(mona, x)


def _formula(mona: Mona, x: torch.Tensor) -> torch.Tensor:
    inputs = x if torch.is_autocast_enabled("cpu") else x.to(mona.up_bias.dtype)
    return x + mona_formula(inputs, GRID, mona.weights(), mona.settings()).to(x.dtype)


WAYS: dict[str, Callable[[Mona, torch.Tensor], torch.Tensor]] = {
    "in place": _in_place,
    "in place, input never kept": _never_kept,
    "formula": _formula,
}


def scaled_mona(dim: int, ratio: float, mean: float = 0.0, norm_position: str = "input") -> tuple[Mona, torch.Tensor]:
    """Return a random Mona and tokens, in double precision, on which its delta is `ratio` times as long as they are.

    Args:
        dim: Number of channels.
        ratio: |delta| / |x|.
        mean: Of the tokens, whose standard deviation is 1.
        norm_position: Of the Mona.
    """
    torch.manual_seed(1)
    mona = Mona(dim, bottleneck_dim=32, dropout=0.0, norm_position=norm_position).double()
    for parameter in mona.parameters():
        torch.nn.init.normal_(parameter, std=0.5 if parameter.dim() == 1 else parameter[0].numel() ** -0.5)
    x = torch.randn(2, GRID[0] * GRID[1], dim, dtype=torch.float64) + mean
    with torch.no_grad():
        factor = ratio * x.norm() / mona_formula(x, GRID, mona.weights(), mona.settings()).norm()
        mona.up_weight.mul_(factor)
        mona.up_bias.mul_(factor)
    return mona, x


def gradient_error(case: Case, ratio: float, way: str, mean: float = 0.0, norm_position: str = "input") -> float:
    """Return the largest error of the gradients; arguments as for `scaled_mona`, and a name in `WAYS`."""
    mona, x = scaled_mona(48, ratio, mean, norm_position)
    x = x.to(case.tokens)
    mona.to(case.adapter)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(case.tokens)
    exact = _gradients(_formula, copy.deepcopy(mona).double(), x.double(), direction)
    with torch.autocast("cpu", torch.bfloat16, enabled=case.autocast):
        ours = _gradients(WAYS[way], mona, x, direction)
    errors = [(our.double() - right).abs().max() / right.abs().max() for our, right in zip(ours, exact, strict=True)]
    return max(errors).item()


def _gradients(way: Callable, mona: Mona, x: torch.Tensor, direction: torch.Tensor) -> tuple[torch.Tensor, ...]:
    leaf = x.clone().requires_grad_()
    output = way(mona, leaf + 0)
    return torch.autograd.grad(output, [leaf, *mona.parameters()], direction.to(output.dtype))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints and plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", type=Path, default=Path("docs/precision.png"))
    parser.add_argument("--ratios", type=float, nargs="+", default=list(RATIOS))
    args = parser.parse_args(arguments)
    figure = Figure(figsize=(13, 7), layout="constrained")
    panels = figure.subplots(2, 3, sharex=True)
    for axes, (title, case) in zip(panels.flat, CASES.items(), strict=False):
        for way, style in zip(WAYS, ("o-", "x:", "s--"), strict=True):
            errors = [gradient_error(case, ratio, way) for ratio in args.ratios]
            print(title, way, *(f"{error:.1e}" for error in errors), sep="\t", flush=True)
            axes.plot(args.ratios, errors, style, markersize=4, label=way)
        axes.set(title=title, xlabel="|delta| / |x|", ylabel="largest relative error", xscale="log", yscale="log")
        axes.xaxis.set_tick_params(labelbottom=True)
        axes.grid(alpha=0.3)
    legend_axes = panels.flat[len(CASES)]
    legend_axes.axis("off")
    legend_axes.legend(*panels.flat[0].get_legend_handles_labels(), loc="center")
    save_figure(figure, args.plot)


if __name__ == "__main__":
    main()
