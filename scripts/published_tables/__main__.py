"""Runs a published table as a comparison, with Mona in it.

    python -m scripts.published_tables list                     the tables, and the GPU hours they take by estimate
    python -m scripts.published_tables run vtab-dinov2 --output_dir outputs/vtab-dinov2
    python -m scripts.published_tables run vtab-dinov2 --output_dir outputs/vtab-dinov2 --only cifar svhn --jobs 2
    python -m scripts.published_tables page                     writes docs/comparison/published_tables.md

All other arguments go to `mona-peft compare`. Stop it and start it again at any time.
"""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from mona_peft.cli import compare
from mona_peft.cli.errors import run_module
from scripts.published_tables.archive import find_dataset, unpack
from scripts.published_tables.tables import Table, read_tables


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command.

    Raises:
        OSError, ValueError: A dataset can't be downloaded or is not the expected one, or an argument is wrong.
    """
    tables = read_tables()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the tables, and what they take")
    commands.add_parser("page", help="writes the page")
    run_it = commands.add_parser("run", allow_abbrev=False, help="runs a table")
    run_it.add_argument("table", choices=tables)
    run_it.add_argument("--output_dir", type=Path, required=True, help="gets a folder for each dataset")
    run_it.add_argument("--only", nargs="+", metavar="DATASET", help="some of the table's datasets")
    args, others = parser.parse_known_args(argv)
    if args.command != "run":
        if others:
            parser.error(f"unrecognized arguments: {' '.join(others)}")
        from scripts.published_tables import page  # counts operations, which a run has no use for

        {"list": page.print_list, "page": page.write_page}[args.command](tables)
        return
    run(tables[args.table], args.output_dir, args.only, others)


def run(table: Table, output_dir: Path, only: Sequence[str] | None, others: Sequence[str]) -> None:
    """Compares on each dataset of a table.

    Raises:
        ValueError: The table has no such dataset, or a comparison can't be run.
    """
    if unknown := set(only or ()) - table.parts.keys():
        raise ValueError(f"--only {', '.join(sorted(unknown))}: {table.name} has {', '.join(table.parts)}.")
    parts = [table.parts[name] for name in only or table.parts]
    folder = unpack(table.archive, output_dir / "data") if table.archive else None
    for part in parts:
        dataset = str(find_dataset(folder, part.name)) if folder else part.dataset
        arguments = [*part.arguments(dataset, output_dir), *others]
        print(f"mona-peft compare {shlex.join(arguments)}", flush=True)
        compare.run(arguments)


if __name__ == "__main__":
    run_module(main)
