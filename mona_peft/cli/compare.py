"""`mona-peft compare TASK`: ways of fine-tuning on a user's images, each at its own best learning rate."""

import argparse
from collections.abc import Sequence
from pathlib import Path


def parser(tasks: Sequence[str]) -> argparse.ArgumentParser:
    """Returns the parser of the command line; what it does not know is an argument of the trainings."""
    from mona_peft.tasks.comparison.command import add_run_arguments

    parser = argparse.ArgumentParser(
        prog="mona-peft compare",
        allow_abbrev=False,
        description="Trains each way of fine-tuning at several learning rates, keeps the best by the validation "
        "images, repeats it with further seeds, and writes OUT/comparison.md with tables and pictures. Stop it at any "
        "time: the same command goes on. All arguments of `mona-peft train` are taken, for all trainings alike.",
    )
    parser.add_argument("task", metavar="TASK", choices=tasks, help=", ".join(tasks))
    parser.add_argument("--dataset", metavar="DATA", required=True, help="as `mona-peft train` takes it")
    parser.add_argument(
        "--model",
        dest="models",
        metavar="NAME_OR_FOLDER",
        nargs="+",
        required=True,
        help="pre-trained, or with --model_type the backbone of a new model. Of several, all rows run on the first; "
        "fixed, full and mona on the others",
    )
    parser.add_argument("--output_dir", metavar="OUT", type=Path, required=True, help="for records and page")
    add_run_arguments(parser)
    return parser


def parse(argv: Sequence[str]) -> tuple["Comparison", argparse.Namespace]:  # noqa: F821 (imported late)
    """Returns what the command line asks for, and its arguments.

    Raises:
        ValueError: The arguments can't be used.
    """
    from mona_peft.tasks.comparison.command import check_own, make_comparison
    from mona_peft.tasks.comparison.study import STUDIES

    args, defaults = parser(list(STUDIES)).parse_known_args(argv)
    check_own(defaults)
    study = STUDIES[args.task]
    # Results are those after the last epoch: of a checkpoint that is picked by its accuracy this would be too high.
    shared = ["--dataset", args.dataset, "--load_best_model_at_end", "false", *defaults]
    return make_comparison(study, args, args.models, shared, study.rows), args


def run(argv: Sequence[str]) -> None:
    """Runs the subcommand.

    Raises:
        ValueError: The arguments can't be used, or some trainings failed; the others have run.
    """
    from mona_peft.tasks.comparison.report import report
    from mona_peft.tasks.comparison.run import run_all

    wanted, args = parse(argv)
    results = args.output_dir / "runs"
    try:
        run_all(wanted, results, args.jobs, args.threads)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("Interrupted. The same command goes on.") from None
    page = args.output_dir / "comparison.md"
    for warning in report(wanted.study, results, page):
        print(f"Note: {warning}")
    print(f"{page} has the tables.")
