"""Compares ways to fine-tune a model, each at its own best learning rate, over several seeds.

    python -m scripts.compare_methods run --jobs 2       runs what is missing; stop it and start it again at any time
    python -m scripts.compare_methods report             makes tables and pictures

With `--task semantic_segmentation`, `object_detection` or `instance_segmentation`, both are about another task. On your
own images and model; all arguments of the task's training script are taken, for all runs alike:

    python -m scripts.compare_methods run --results outputs/mine --rows mona lora full \\
        --models microsoft/swin-tiny-patch4-window7-224 --dataset path/to/images --num_train_epochs 20
    python -m scripts.compare_methods report --results outputs/mine
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from scripts.compare_methods.experiments import Comparison, backbone_name, parse_defaults
from scripts.compare_methods.report import report
from scripts.compare_methods.rows import METHOD_ROWS, ROWS
from scripts.compare_methods.run import run_all
from scripts.compare_methods.studies import STUDIES

README = Path("README.md")
OWN = (
    *("--method", "--model_name_or_path", "--backbone", "--learning_rate", "--seed", "--output_dir"),
    "--resume_from_checkpoint",
)
"""Arguments of the training scripts that the comparison itself gives."""


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line; what `run` does not know is the training script's."""
    main = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = main.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", allow_abbrev=False, help="run what is missing")
    run.add_argument("--jobs", type=positive_integer, default=1, help="processes that share the work")
    run.add_argument("--threads", type=positive_integer, default=1, help="of each, on a CPU")
    run.add_argument(
        "--rows",
        nargs="+",
        choices=ROWS,
        metavar="ROW",
        help=f"among {', '.join(ROWS)}. Without it: those of the task's page, on your own data the methods among them",
    )
    run.add_argument(
        "--models",
        nargs="+",
        help="pre-trained, or with --model_type backbones of new models; all rows run on the first one, fixed, full "
        "and mona on the others. Without it: the task's demonstration model",
    )
    run.add_argument("--rates", nargs="+", type=learning_rate, help="grid of learning rates")
    run.add_argument("--seeds", nargs="+", type=seed, help="the first one chooses the rate")
    make = commands.add_parser("report", allow_abbrev=False, help="make tables and pictures")
    make.add_argument(
        "--page",
        type=Path,
        help="Markdown; pictures go to the folder of the same name. Without it: beside --results and named like it",
    )
    make.add_argument("--model", help="one of those compared, for all tables but one. Without it: that with most rows")
    for command in (run, make):
        command.add_argument("--task", choices=STUDIES, default=next(iter(STUDIES)), help="classification without it")
        command.add_argument(
            "--results", type=Path, help="folder of the records; without it that of the demonstration's comparison"
        )
    return main


def positive_integer(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: a whole number of at least 1 is wanted")
    return int(text)


def seed(text: str) -> int:
    if not 0 <= int(text) < 2**32:
        raise argparse.ArgumentTypeError(f"{text}: a whole number from 0 up to 2**32 - 1 is wanted")
    return int(text)


def learning_rate(text: str) -> float:
    if not 0 < float(text) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: a learning rate above 0 is wanted")
    return float(text)


def comparison(args: argparse.Namespace, defaults: Sequence[str]) -> Comparison:
    """Returns what the command line asks for.

    Args:
        args: Of the comparison itself.
        defaults: For the training script.

    Raises:
        ValueError: An argument for the training script is one that the comparison gives, there is no folder for
            results on other data, or two rows are the same.
    """
    # argparse takes `--learning-rate` for `--learning_rate`.
    arguments = {argument.split("=")[0].replace("-", "_").replace("__", "--", 1) for argument in defaults}
    given = [name for name in OWN if name in arguments]
    if given:
        raise ValueError(
            f"{', '.join(given)}: the comparison gives these itself; see --rows, --models, --rates, --seeds."
        )
    study = STUDIES[args.task]
    own_data = {"--preset", "--dataset"} & arguments
    if own_data and args.results is None:
        raise ValueError(
            f"--results: with {' and '.join(sorted(own_data))}, give a folder for the records; {study.results} holds "
            "those of the demonstration."
        )
    if not own_data:
        defaults = ["--preset", study.preset, *study.options, *defaults]
    model_args, *_ = parse_defaults(study.name, tuple(defaults))
    models = args.models or [model_args.base_model]
    if models == [None]:
        raise ValueError("--models: which pre-trained ones? On your own data there is no demonstration model.")
    folders = [backbone_name(model) for model in models]
    if len(set(folders)) < len(folders):
        raise ValueError(
            f"--models {' '.join(models)}: results are kept by the last part of the name; give each another."
        )
    names = args.rows or [name for name in study.rows if not own_data or ROWS[name] in METHOD_ROWS]
    wanted = Comparison(
        task=study.name,
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


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    commands = parser()
    args, defaults = commands.parse_known_args(argv)
    study = STUDIES[args.task]
    results = args.results or study.results
    if args.command == "report":
        if defaults:
            commands.error(f"unrecognized arguments: {' '.join(defaults)}")
        folder = results.resolve()
        is_own = folder == study.results.resolve()
        page = args.page or (study.page if is_own else folder.with_name(f"{folder.name}.md"))
        summaries = [README] if (results, page) == (study.results, study.page) else []
        for warning in report(study, results, page, summaries, args.model and backbone_name(args.model)):
            print(f"Note: {warning}")
        print(f"{page} is up to date.")
        return
    try:
        run_all(comparison(args, defaults), results, args.jobs, args.threads)
    except KeyboardInterrupt:
        raise SystemExit("Interrupted. The same command goes on.") from None


if __name__ == "__main__":
    main()
