"""Compares ways to fine-tune a model, each at its own best learning rate, over several seeds.

    python -m scripts.compare_methods run --jobs 2       runs what is missing; stop it and start it again at any time
    python -m scripts.compare_methods report             makes tables and pictures
    python -m scripts.compare_methods pack               makes one compressed file of all records, when no run goes on

With `--task semantic_segmentation`, `object_detection` or `instance_segmentation`, all are about another task. All
arguments of the task's training script are taken, for all runs alike. Its data are the demonstration's: your own images
are what `mona-peft compare` is for.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mona_peft.cli.errors import run_module
from mona_peft.tasks.comparison.command import add_run_arguments, check_own, make_comparison
from mona_peft.tasks.comparison.experiments import Comparison, backbone_name, parse_defaults
from mona_peft.tasks.comparison.records import PACKED, pack
from mona_peft.tasks.comparison.report import report
from mona_peft.tasks.comparison.run import run_all
from scripts.compare_methods.studies import STUDIES


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line; what `run` does not know is the training script's."""
    main = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = main.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", allow_abbrev=False, help="run what is missing")
    add_run_arguments(run)
    run.add_argument(
        "--model",
        dest="models",
        nargs="+",
        help="pre-trained, or with --model_type backbones of new models; all rows run on the first one, fixed, full "
        "and mona on the others. Without it: the task's demonstration model",
    )
    make = commands.add_parser("report", allow_abbrev=False, help="make tables and pictures")
    make.add_argument(
        "--page",
        type=Path,
        help="Markdown; pictures go to the folder of the same name. Without it: beside --results and named like it",
    )
    make.add_argument("--model", help="one of those compared, for all tables but one. Without it: that with most rows")
    pack_them = commands.add_parser("pack", allow_abbrev=False, help="make one compressed file of all records")
    for command in (run, make, pack_them):
        command.add_argument("--task", choices=STUDIES, default=next(iter(STUDIES)), help="classification without it")
        command.add_argument(
            "--results", type=Path, help="folder of the records; without it that of the demonstration's comparison"
        )
    return main


def comparison(args: argparse.Namespace, defaults: Sequence[str]) -> Comparison:
    """Returns what the command line asks for.

    Args:
        args: Of the comparison itself.
        defaults: For the training script.

    Raises:
        ValueError: An argument for the training script is one that the comparison gives, or about other data, or two
            rows are the same.
    """
    study = STUDIES[args.task]
    if given := {"--preset", "--dataset"} & check_own(defaults):
        raise ValueError(
            f"{' and '.join(sorted(given))}: this compares on the demonstration's data. On your own images it is "
            f"`mona-peft compare {study.task.command} --dataset DATA --model NAME_OR_FOLDER --output_dir OUT`."
        )
    defaults = ["--preset", study.preset, *study.options, *defaults]
    models = args.models or [parse_defaults(study, tuple(defaults))[0].base_model]
    return make_comparison(study, args, models, defaults, study.rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    commands = parser()
    args, defaults = commands.parse_known_args(argv)
    study = STUDIES[args.task]
    results = args.results or study.results
    if args.command != "run" and defaults:
        commands.error(f"unrecognized arguments: {' '.join(defaults)}")
    if args.command == "pack":
        print(f"{results / PACKED} holds {pack(results)} records.")
        return
    if args.command == "report":
        folder = results.resolve()
        is_own = folder == study.results.resolve()
        page = args.page or (study.page if is_own else folder.with_name(f"{folder.name}.md"))
        for warning in report(study, results, page, args.model and backbone_name(args.model)):
            print(f"Note: {warning}")
        print(f"{page} is up to date.")
        return
    try:
        run_all(comparison(args, defaults), results, args.jobs, args.threads)
    except KeyboardInterrupt:
        raise SystemExit("Interrupted. The same command goes on.") from None


if __name__ == "__main__":
    run_module(main)
