"""Arguments of the commands that compare: what they share, and a comparison made of them."""

import argparse
from collections.abc import Sequence

from mona_peft.tasks.comparison.experiments import Comparison, backbone_name, parse_defaults, with_model
from mona_peft.tasks.comparison.rows import ROWS
from mona_peft.tasks.comparison.study import Study

OWN = (
    *("--method", "--model_name_or_path", "--model", "--backbone", "--learning_rate", "--seed", "--output_dir"),
    "--resume_from_checkpoint",
)
"""Arguments of a training that the comparison itself gives."""


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments about what is run."""
    parser.add_argument("--jobs", type=positive_integer, default=1, help="processes that share the work")
    parser.add_argument("--threads", type=positive_integer, default=1, help="of each, on a CPU")
    parser.add_argument(
        "--rows",
        nargs="+",
        choices=ROWS,
        metavar="ROW",
        help=f"what is compared, among {', '.join(ROWS)}. Without it: the methods among them",
    )
    parser.add_argument("--rates", nargs="+", type=learning_rate, help="grid of learning rates")
    parser.add_argument("--seeds", nargs="+", type=seed, help="the first one chooses the rate")


def positive_integer(text: str) -> int:
    """Reads a number of at least 1."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: a whole number of at least 1 is wanted")
    return int(text)


def seed(text: str) -> int:
    """Reads a seed as NumPy takes it."""
    if not 0 <= int(text) < 2**32:
        raise argparse.ArgumentTypeError(f"{text}: a whole number from 0 up to 2**32 - 1 is wanted")
    return int(text)


def learning_rate(text: str) -> float:
    """Reads a learning rate."""
    if not 0 < float(text) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: a learning rate above 0 is wanted")
    return float(text)


def check_own(defaults: Sequence[str]) -> set[str]:
    """Returns the names of the arguments for the trainings.

    Raises:
        ValueError: One is given that the comparison gives itself.
    """
    # argparse takes `--learning-rate` for `--learning_rate`.
    arguments = {argument.split("=")[0].replace("-", "_").replace("__", "--", 1) for argument in defaults}
    if given := [name for name in OWN if name in arguments]:
        raise ValueError(
            f"{', '.join(given)}: the comparison gives these itself; see --rows, --model, --rates, --seeds."
        )
    return arguments


def make_comparison(
    study: Study, args: argparse.Namespace, models: Sequence[str], defaults: Sequence[str], rows: Sequence[str]
) -> Comparison:
    """Returns what the arguments ask for.

    Args:
        study: What is trained for, and the defaults of the comparison.
        args: As `add_run_arguments` has them.
        models: Pre-trained ones, or backbones of new ones; all rows run on the first.
        defaults: Arguments of all trainings.
        rows: Names of those that are compared where the arguments name none.

    Raises:
        ValueError: The trainings can't be run so, or two rows are the same.
    """
    parse_defaults(study, with_model(tuple(defaults), models[0]))
    folders = [backbone_name(model) for model in models]
    if len(set(folders)) < len(folders):
        raise ValueError(
            f"--model {' '.join(models)}: results are kept by the last part of the name; give each another."
        )
    names = args.rows or rows
    wanted = Comparison(
        study=study,
        defaults=tuple(defaults),
        backbones=tuple(models),
        rows=tuple(row for name, row in ROWS.items() if name in names),
        rates=tuple(sorted(args.rates or study.rates)),
        seeds=tuple(args.seeds or study.seeds),
    )
    for row, same in wanted.repeated_rows():
        raise ValueError(
            f"--rows: with these arguments {row.name} is the same training as {same.name}. Name the rows without it."
        )
    return wanted
