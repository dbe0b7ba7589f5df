"""Compares ways to fine-tune a model, each at its own best learning rate, over several seeds.

    python -m scripts.compare_methods run --jobs 2       runs what is missing; stop it and start it again at any time
    python -m scripts.compare_methods report             makes tables and pictures

On your own images and model; all arguments of `scripts.train_image_classification` are taken, for all runs alike:

    python -m scripts.compare_methods run --results outputs/mine --rows mona lora full \\
        --models microsoft/swin-tiny-patch4-window7-224 --dataset path/to/images --num_train_epochs 20
    python -m scripts.compare_methods report --results outputs/mine --page outputs/mine.md
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from scripts.compare_methods.experiments import RATES, SEEDS, Comparison
from scripts.compare_methods.report import report
from scripts.compare_methods.rows import ROWS
from scripts.compare_methods.run import run_all
from scripts.train_image_classification import DEMONSTRATION_BACKBONE

RESULTS, PAGE = Path("docs/comparison/runs"), Path("docs/comparison.md")
PRESET = "comparison"
OWN = ("--method", "--model_name_or_path", "--learning_rate", "--seed", "--output_dir", "--resume_from_checkpoint")
"""Arguments of the training script that the comparison itself gives."""


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line; what `run` does not know is the training script's."""
    main = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = main.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", allow_abbrev=False, help="run what is missing")
    run.add_argument("--jobs", type=int, default=1, help="processes that share the work")
    run.add_argument("--threads", type=int, default=1, help="of each, on a CPU")
    run.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS, metavar="ROW", help=", ".join(ROWS))
    run.add_argument(
        "--models",
        nargs="+",
        default=[DEMONSTRATION_BACKBONE],
        help="pre-trained; all rows run on the first one, fixed, full and mona on the others",
    )
    run.add_argument("--rates", nargs="+", type=float, default=list(RATES), help="grid of learning rates")
    run.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), help="the first one chooses the rate")
    make = commands.add_parser("report", allow_abbrev=False, help="make tables and pictures")
    make.add_argument("--page", type=Path, default=PAGE, help="Markdown; pictures go to the folder of the same name")
    for command in (run, make):
        command.add_argument("--results", type=Path, default=RESULTS, help="folder of the records")
    return main


def comparison(args: argparse.Namespace, defaults: Sequence[str]) -> Comparison:
    """Returns what the command line asks for.

    Args:
        args: Of the comparison itself.
        defaults: For the training script.

    Raises:
        ValueError: An argument for the training script is one that the comparison gives.
    """
    given = [name for name in OWN if any(argument.split("=")[0] == name for argument in defaults)]
    if given:
        raise ValueError(
            f"{', '.join(given)}: the comparison gives these itself; see --rows, --models, --rates, --seeds."
        )
    if not {"--preset", "--dataset"} & {argument.split("=")[0] for argument in defaults}:
        defaults = ["--preset", PRESET, *defaults]
    rows = tuple(row for name, row in ROWS.items() if name in args.rows)
    return Comparison(tuple(defaults), tuple(args.models), rows, tuple(sorted(args.rates)), tuple(args.seeds))


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    commands = parser()
    args, defaults = commands.parse_known_args(argv)
    if args.command == "report":
        if defaults:
            commands.error(f"unrecognized arguments: {' '.join(defaults)}")
        for warning in report(args.results, args.page):
            print(f"Note: {warning}")
        print(f"{args.page} is up to date.")
        return
    try:
        run_all(comparison(args, defaults), args.results, args.jobs, args.threads)
    except KeyboardInterrupt:
        raise SystemExit("Interrupted. The same command goes on.") from None


if __name__ == "__main__":
    main()
