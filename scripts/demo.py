"""The demonstration: which solar cells are broken?

    python -m scripts.demo                    real images and real weights, downloaded once
    python -m scripts.demo --data digits      offline: handwritten digits over photographs

Trains the head alone, Mona, and on solar cells all weights too, prints what they reach and cost, reloads the adapter in
a fresh process and compares its predictions, and draws one picture. What an earlier demonstration left is replaced.
"""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

import transformers

from scripts.demonstration import cells_demo, digits_demo

DEMONSTRATIONS = {"cells": cells_demo.main, "digits": digits_demo.main}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a demonstration.

    Args:
        argv: `--data` and `--output_dir`; all other arguments go to the demonstration.

    Raises:
        ValueError: The output directory holds something else, or an argument is wrong.
    """
    parser = ArgumentParser(description=__doc__.split("\n", 1)[0], allow_abbrev=False)
    parser.add_argument("--data", choices=DEMONSTRATIONS, default="cells", help="solar cells, or digits offline")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/demo"))
    options, others = parser.parse_known_args(argv)
    DEMONSTRATIONS[options.data](options.output_dir, others)


if __name__ == "__main__":
    # What transformers says while it loads a backbone without a head is no news here.
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        main()
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from None
