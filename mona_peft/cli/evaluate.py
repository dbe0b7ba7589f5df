"""`mona-peft evaluate`: what a run has trained, measured on a split of a dataset."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

PROGRAM = "mona-peft evaluate"


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Measures what `mona-peft train` has trained on images with their annotation: metrics, a table of "
        "the classes, and for classification which are taken for which and the most confident mistakes. They are added "
        "to RUN/report.html, and written as JSON and CSV to RUN/report/.",
    )
    parser.add_argument("run", metavar="RUN", help="output directory of `mona-peft train`, or name on the hub")
    parser.add_argument(
        "--dataset", metavar="DATA", required=True, help="folder or name on the hub, in a form that `train` takes"
    )
    parser.add_argument("--dataset_config", help="configuration, where a dataset has several")
    parser.add_argument("--split", help="which split (default: test, where there is one, else validation, else train)")
    parser.add_argument(
        "--output_dir", metavar="OUT", type=Path, help="where the report is written (default: RUN, if it is a folder)"
    )
    parser.add_argument("--batch_size", type=int, default=8, help="images at once (default: %(default)s)")
    parser.add_argument("--num_workers", type=int, default=0, help="processes that read images (default: %(default)s)")
    parser.add_argument("--base_model", help="where the pre-trained model is now, if it has been moved")
    parser.add_argument("--use_cpu", action="store_true", help="even if there is a GPU")
    return parser


def run(argv: Sequence[str]) -> None:
    """Runs the command.

    Raises:
        ValueError: The arguments can't be used, or the dataset is not for the run; the message says what to do.
    """
    args = parser().parse_args(argv)
    if args.batch_size < 1:
        raise ValueError(f"--batch_size {args.batch_size}: must be a whole number, at least 1.")
    output_dir = args.output_dir or Path(args.run)
    if args.output_dir is None and not output_dir.is_dir():
        raise ValueError(
            f"{args.run} is no folder here. Check its name; if it is on the hub, say where the report is to be "
            "written, by --output_dir."
        )

    from mona_peft.tasks.evaluation import evaluate_run

    metrics, name, report = evaluate_run(
        args.run,
        output_dir,
        args.dataset,
        split=args.split,
        dataset_config=args.dataset_config,
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        base_model=args.base_model,
        use_cpu=args.use_cpu,
    )
    if report is None:  # a process that only helps
        return
    print(name)
    for label, value in metrics.items():
        print(f"{label}: {value:.4f}")
    print(f"All of it is in {report}, and as JSON and CSV in {report.parent / 'report'}.")
