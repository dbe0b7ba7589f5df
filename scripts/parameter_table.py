"""Write docs/parameters.md: how many parameters of Swin-T, Swin-B and Swin-L each method trains.

Backbones are built on the meta device: nothing is downloaded and nothing computed.

    python -m scripts.parameter_table
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import SwinBackbone, SwinConfig

from mona_peft.tasks.models.arguments import MethodArguments
from mona_peft.tasks.models.methods import METHODS
from mona_peft.tasks.training.records import parameter_counts

PAGE = Path(__file__).parents[1] / "docs" / "parameters.md"

SIZES = {
    "Swin-T": {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]},
    "Swin-B": {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32]},
    "Swin-L": {"embed_dim": 192, "depths": [2, 2, 18, 2], "num_heads": [6, 12, 24, 48]},
}
STAGES = ["stage1", "stage2", "stage3", "stage4"]

PER_BLOCK = {
    "adapter": (258, 128),
    "lora": (256, 0),
    "adaptformer": (129, 64),
    "lorand": (195, 1024),
    "mona": (266, 19456),
    "colin": (114, 13824),
}
"""(a, b) for methods that add a C + b parameters to a block of width C."""

AUTHORS = {
    "full": {"Swin-L": 194_997_780},
    "adapter": {"Swin-L": 4_659_456},
    "lora": {"Swin-L": 4_620_288},
    "adaptformer": {"Swin-L": 2_329_728},
    "mona": {"Swin-T": 1_408_128, "Swin-B": 3_667_456, "Swin-L": 5_267_712},
}
"""What the logs of Mona's authors say was trained in the backbone."""

INTRODUCTION = """# Trained parameters

How many parameters each `--method` trains in the backbone, at the paper's sizes and without what stands outside the
backbone, which every method trains too. Backbones are `SwinBackbone`s with windows of 7 that return all four stages.
This page is written by `python -m scripts.parameter_table`.

"""
NOTES = """
The column "per block" is what a method adds to a block of width C; the counts are the sum over all blocks.

## Beside the authors' counts

| method | | authors' logs | here | difference |
| --- | --- | ---: | ---: | ---: |
{authors}

These are the counts of the backbone in the training logs of Mona's authors. Their Swin-L, for a detector, returns three
stages and lacks the norm of the first, of 384 parameters; all else is equal. There is no log of the other methods. Of
those the authors' code trains, and we count:

- BitFit: every parameter with "bias" in its name, which takes the relative position bias tables along.
  `BitFitConfig(relative_position_bias=False)` leaves them out.
- Norm tuning: every norm, those of the four outputs included. The norm of `SwinModel` behind the last stage does
  nothing in a `SwinBackbone`, which has another in its place; no method trains it. In a classifier it is the one output
  norm.
- Partial-1: the last block of the last stage.
- Full: all but that idle norm.
- LoRand: both projections have their own kernel matrices, as in the authors' code.
- CoLin: the paper says "about 1%". By its authors' code, whose sizes do not depend on the backbone (100 channels, rank
  28, 4 branches, two a block), it is {colin}.
"""


def count(method: str, size: str) -> dict[str, int | float]:
    """Returns the counts of a method at the paper's size, as `parameter_counts` has them."""
    with torch.device("meta"):
        backbone = SwinBackbone(SwinConfig(**SIZES[size], out_features=STAGES))
        return parameter_counts(METHODS[method](backbone, MethodArguments(method=method)))


def by_formula(method: str, size: str) -> int:
    """Returns what the formula of `PER_BLOCK` gives for all blocks of a backbone."""
    factor, constant = PER_BLOCK[method]
    depths = SIZES[size]["depths"]
    return sum(depth * (factor * SIZES[size]["embed_dim"] * 2**stage + constant) for stage, depth in enumerate(depths))


def page() -> str:
    """Returns the page."""
    counts = {(method, size): count(method, size) for method in METHODS for size in SIZES}
    rows = [
        ["method", "", *SIZES, *(f"of {size}" for size in SIZES), "per block"],
        ["---", "---", *["---:"] * (2 * len(SIZES)), "---"],
    ]
    for method, entry in METHODS.items():
        numbers = [counts[method, size] for size in SIZES]
        factor, constant = PER_BLOCK.get(method, (0, 0))
        formula = f"{factor} C{f' + {constant:,}' if constant else ''}" if factor else ""
        rows.append(
            [
                f"`{method}`",
                entry.title,
                *(f"{number['trainable']:,}" for number in numbers),
                *(f"{number['trainable_share']:.2%}" for number in numbers),
                formula,
            ]
        )
    authors = "\n".join(
        f"| `{method}` | {size} | {number:,} | {counts[method, size]['trainable']:,} "
        f"| {counts[method, size]['trainable'] - number:,} |"
        for method, numbers in AUTHORS.items()
        for size, number in numbers.items()
    )
    shares = [f"{counts['colin', size]['trainable_share']:.2%} of {size}" for size in SIZES]
    colin = f"{', '.join(shares[:-1])} and {shares[-1]}"
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{INTRODUCTION}{table}\n{NOTES.format(authors=authors, colin=colin)}"


def main() -> None:
    """Writes the page."""
    PAGE.write_text(page(), encoding="utf-8")
    print(f"Wrote {PAGE}.")


if __name__ == "__main__":
    main()
