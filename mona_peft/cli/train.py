"""`mona-peft train TASK ...`: adapts a model to a user's images."""

from collections.abc import Sequence
from functools import partial


def run(argv: Sequence[str]) -> None:
    """Runs the subcommand.

    Raises:
        ValueError: There is no such task, or arguments, data or output directory can't be used.
    """
    from mona_peft.tasks.task import TASKS
    from mona_peft.tasks.training.arguments import parse_arguments
    from mona_peft.tasks.training.run import run_script
    from mona_peft.tasks.training.setup import find_training
    from mona_peft.tasks.training.train import train

    if not argv or argv[0].startswith("-"):
        print(
            f"usage: mona-peft train TASK ...\n\nTASK is {', '.join(TASKS)}; `mona-peft train TASK --help` shows more."
        )
        if {"-h", "--help"} & {*argv}:
            return
        raise ValueError(f"the task is missing. It comes first, and is one of {', '.join(TASKS)}.")
    task, *arguments = argv
    training = find_training(task)
    parsed = parse_arguments(training, arguments, prog=f"mona-peft train {task}")
    run_script(partial(train, training), parsed)
