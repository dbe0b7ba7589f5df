"""What is compared, as data: a row of the tables each."""

from dataclasses import dataclass, replace

from mona_peft.tasks.models.methods import METHODS


@dataclass(frozen=True)
class Row:
    """A way of fine-tuning: a small override of the defaults that all share.

    Attributes:
        name: Of its folder of results.
        title: As a person reads it.
        method: Value of `--method`.
        width: Factor of the defaults' `--bottleneck_dim`.
        length: Factor of the defaults' `--num_train_epochs`, or of their `--max_steps` where that is given.
        options: Further arguments of the training script.
    """

    name: str
    title: str
    method: str = "mona"
    width: float = 1
    length: float = 1
    options: tuple[str, ...] = ()


def _rows(*methods: str) -> tuple[Row, ...]:
    return tuple(Row(method, METHODS[method].title, method) for method in methods)


METHOD_ROWS = _rows(
    *("full", "fixed", "bitfit", "norm-tuning", "partial-1"),
    *("adapter", "lora", "adaptformer", "lorand", "colin", "colin-without-loss", "mona"),
)
WIDTH_ROWS = (
    Row("mona-half-width", "Mona, half the width", width=0.5),
    Row("mona-double-width", "Mona, twice the width", width=2),
)
DESIGN_ROWS = _rows("mona-v1", "mona-v2", "mona-v3")
"""The versions before Mona itself, which is the fourth."""

INIT_ROWS = (Row("mona-paper-init", "Mona, the authors' initialisation", options=("--init_weights", "paper")),)

BACKBONE_ROWS = _rows("full", "fixed", "mona")
"""What is compared on further backbones, and over longer schedules."""

LONG_ROWS = {
    row.name: replace(row, name=f"{row.name}-long", title=f"{row.title}, three times as long", length=3)
    for row in BACKBONE_ROWS
}
"""By the names of the rows with the defaults' schedule."""

REFERENCE = "mona"
"""Name of the row that all others are compared with."""

_EVERY = (*METHOD_ROWS, *WIDTH_ROWS, *DESIGN_ROWS, *INIT_ROWS, *LONG_ROWS.values())
ROWS = {row.name: row for row in _EVERY}
