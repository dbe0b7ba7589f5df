"""What is compared, as data: a row of the tables each."""

from dataclasses import dataclass

from scripts.common.methods import METHODS


@dataclass(frozen=True)
class Row:
    """A way of fine-tuning: a small override of the defaults that all share.

    Attributes:
        name: Of its folder of results.
        title: As a person reads it.
        method: Value of `--method`.
        options: Further arguments of the training script.
        width: Factor of the defaults' `--bottleneck_dim`.
    """

    name: str
    title: str
    method: str = "mona"
    options: tuple[str, ...] = ()
    width: float = 1


METHOD_ROWS = (
    Row("full", "full fine-tuning", "full"),
    Row("fixed", "fixed (head alone)", "fixed"),
    Row("mona", "Mona"),
)
WIDTH_ROWS = (
    Row("mona-half-width", "Mona, half the width", width=0.5),
    Row("mona-double-width", "Mona, twice the width", width=2),
)
DESIGN_ROWS = ()
BACKBONE_ROWS = tuple(row for row in METHOD_ROWS if row.name in ("full", "fixed", "mona"))
"""What is compared on further backbones."""

REFERENCE = "mona"
"""Name of the row that all others are compared with."""

ROWS = {row.name: row for row in (*METHOD_ROWS, *WIDTH_ROWS, *DESIGN_ROWS)}
if unknown := {row.method for row in ROWS.values()} - set(METHODS):
    raise ValueError(f"Rows of the comparison name methods that there are not: {sorted(unknown)}.")
