"""The demonstration: which solar cells are broken?

    python -m scripts.demo                    real images and real weights, downloaded once
    python -m scripts.demo --data digits      offline: handwritten digits over photographs

Trains the head alone, Mona, and on solar cells all weights too, prints what they reach and cost, reloads the adapter in
a fresh process and compares its predictions, and draws one picture. What an earlier demonstration left is replaced.
"""

import shutil
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

import transformers

from mona_peft.cli.errors import run_module
from mona_peft.tasks.reporting.pages import fill_page
from scripts.demonstration import cells_demo, digits_demo

DEMONSTRATIONS = {"cells": cells_demo.main, "digits": digits_demo.main}
README, DOCS = Path("README.md"), Path("docs")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a demonstration.

    Args:
        argv: `--data`, `--output_dir` and `--update_readme`; all other arguments go to the demonstration.

    Raises:
        OSError, ValueError: Something can't be downloaded, the output directory holds something else, or an argument
            is wrong.
    """
    parser = ArgumentParser(description=__doc__.split("\n", 1)[0], allow_abbrev=False)
    parser.add_argument("--data", choices=DEMONSTRATIONS, default="cells", help="solar cells, or digits offline")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/demo"))
    parser.add_argument("--update_readme", action="store_true", help="enter table and picture into README.md, docs/")
    options, others = parser.parse_known_args(argv)
    DEMONSTRATIONS[options.data](options.output_dir, others)
    if options.update_readme:
        update_readme(options.output_dir)


def update_readme(output_dir: Path) -> None:
    """Enters what a demonstration left into the README, and its picture and record into the folder of documents."""
    for name in ("demo.json", "demo.png"):
        shutil.copy(output_dir / name, DOCS / name)
    fill_page(README, "demo", {"results": (output_dir / "demo.md").read_text(encoding="utf-8").strip()})


if __name__ == "__main__":
    # What transformers says while it loads a backbone without a head is no news here.
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    run_module(main)
