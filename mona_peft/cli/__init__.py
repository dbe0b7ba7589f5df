"""The console command `mona-peft`: a table of subcommands, and one module for each, imported when it is asked for.

A module has `run(argv)`, which takes the arguments behind the subcommand's name and may return an exit code. What it
may raise, and what is said of that: `mona_peft.cli.errors`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from mona_peft.cli.errors import reported

COMMANDS = {
    "train": "adapt a model to your images; saves adapter, head, model card, metrics and curves",
    "evaluate": "measure what a run has trained on a split of a dataset",
    "predict": "use what a run has trained on image files and folders",
    "export": "write what a run has trained as ONNX or a torch.export program, and check the file",
    "inspect": "show which blocks of a model an adapter would stand in, and what that costs; trains nothing",
    "compare": "compare ways of fine-tuning on your images, each at its own best learning rate",
}
"""What each subcommand does, by the name of its module in this package."""

PROGRAM = "mona-peft"


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command with the given arguments, or those of the command line, and exits."""
    raise SystemExit(run(sys.argv[1:] if argv is None else list(argv)))


def run(argv: Sequence[str]) -> int:
    """Runs a subcommand and returns its exit code."""
    name = next((argument for argument in argv if argument != "--debug"), "--help")
    if name in ("-h", "--help"):
        print(usage())
        return 0
    if name == "--version":
        from mona_peft.version import __version__

        print(f"{PROGRAM} {__version__}")
        return 0
    return reported(f"{PROGRAM} {name}", argv, _run_subcommand)


def _run_subcommand(argv: list[str]) -> int | None:
    name, *arguments = argv
    if name not in COMMANDS:
        raise ValueError(f"{name}: no such command. There are: {', '.join(COMMANDS)} (see {PROGRAM} --help).")
    return import_module(f"{__name__}.{name}").run(arguments)


def usage() -> str:
    """Returns the help of the whole command."""
    width = max(map(len, COMMANDS)) + 2
    listed = "\n".join(f"  {name:<{width}}{says}" for name, says in COMMANDS.items())
    return f"""usage: {PROGRAM} COMMAND ...

Fine-tunes vision models with Mona and other adapters.

{listed}

`{PROGRAM} COMMAND --help` shows the arguments of a command, `{PROGRAM} --version` the version. Errors are one message;
with --debug they come with a traceback."""
