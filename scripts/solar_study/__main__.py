"""Compares ways to fine-tune DINOv2-small on 400 images of solar cells, and on fewer and more.

python -m scripts.solar_study run        runs what is missing; stop it and start it again at any time
python -m scripts.solar_study report     makes tables and pictures of docs/comparison/solar_cells.md
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from mona_peft.cli.errors import run_module
from mona_peft.tasks.comparison.store import SUFFIX, add_line, check_writable, read_lines

PAGE = Path("docs/comparison/solar_cells.md")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "report"))
    parser.add_argument("--records", type=Path, default=PAGE.with_suffix(SUFFIX), help="file of the records")
    args = parser.parse_args(argv)
    if args.command == "run":
        run(args.records)
    else:
        from scripts.solar_study.page import report

        report(read_lines(args.records), PAGE)


def run(file: Path) -> None:
    """Runs what is missing, the most wanted first.

    Raises:
        OSError: The records can't be written.
    """
    check_writable(file)
    from scripts.solar_study.plan import key_of, missing
    from scripts.solar_study.training import load_bench, train

    bench = load_bench()
    while wanted := next(missing({key_of(record): record for record in read_lines(file)}), None):
        started = time.monotonic()
        record = train(bench, wanted)
        add_line(file, record)
        results = ", ".join(f"{name} {value:.4f}" for name, value in record["results"]["validation"].items())
        print(f"{wanted.key}: {results} (validation), {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    run_module(main)
