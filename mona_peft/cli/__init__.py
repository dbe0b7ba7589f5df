"""The console command `mona-peft`: a table of subcommands, and one module for each, imported when it is asked for.

A module has `run(argv)`, which takes the arguments behind the subcommand's name and may return an exit code. It raises
`ValueError`, `OSError` or `ImportError` for what a user can mend: one message, exit code 2, with `--debug` a traceback.
A `RuntimeError`, PyTorch's or ours, is none of these unless memory is at its end: it is said to be unexpected, code 3.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

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
USER_ERROR = 2
UNEXPECTED = 3
INTERRUPTED = 130

WHAT_NOW = (
    "This is a fault of the program, or of PyTorch, and not known to come of anything that you gave. The same command "
    "with --debug shows the traceback: please report it, with the command."
)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command with the given arguments, or those of the command line, and exits."""
    raise SystemExit(run(sys.argv[1:] if argv is None else list(argv)))


def run(argv: Sequence[str]) -> int:
    """Runs a subcommand and returns its exit code."""
    debug = "--debug" in argv
    name, *arguments = [argument for argument in argv if argument != "--debug"] or ["--help"]
    if name in ("-h", "--help"):
        print(usage())
        return 0
    if name == "--version":
        from mona_peft.version import __version__

        print(f"{PROGRAM} {__version__}")
        return 0
    try:
        if name not in COMMANDS:
            raise ValueError(f"{name}: no such command. There are: {', '.join(COMMANDS)} (see {PROGRAM} --help).")
        return import_module(f"{__name__}.{name}").run(arguments) or 0
    except BrokenPipeError:  # who reads our output has read enough
        return 0
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        if debug:
            raise
        unexpected = isinstance(error, RuntimeError) and not _is_out_of_memory(error)
        said = f"unexpected {type(error).__name__}: " if unexpected else ""
        where = WHAT_NOW if unexpected else "(--debug shows where this comes from.)"
        print(f"{PROGRAM} {name}: {said}{_message(error)}{_hint(error)}\n{where}", file=sys.stderr)
        return UNEXPECTED if unexpected else USER_ERROR
    except KeyboardInterrupt as error:
        print(error or "Interrupted.", file=sys.stderr)
        return INTERRUPTED


def _message(error: Exception) -> str:
    """Returns what an error says; of one from a data loader's worker, which torch says with its traceback, the end."""
    text = str(error)
    return text.strip().splitlines()[-1].partition(": ")[2] if "\nOriginal Traceback" in text else text


def _hint(error: Exception) -> str:
    """Returns what to install where a package is missing, and what to change where memory is."""
    if _is_out_of_memory(error):
        return (
            " Give smaller batches: in a training --per_device_train_batch_size with more "
            "--gradient_accumulation_steps, or --activation_checkpointing; elsewhere --batch_size."
        )
    missing = isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("mona_peft")
    return '. The command wants more than the library: pip install "mona-peft[train]".' if missing else ""


def _is_out_of_memory(error: Exception) -> bool:
    return type(error).__name__ == "OutOfMemoryError"  # torch's, which is not imported for a message


def usage() -> str:
    """Returns the help of the whole command."""
    width = max(map(len, COMMANDS)) + 2
    listed = "\n".join(f"  {name:<{width}}{says}" for name, says in COMMANDS.items())
    return f"""usage: {PROGRAM} COMMAND ...

Fine-tunes vision models with Mona and other adapters.

{listed}

`{PROGRAM} COMMAND --help` shows the arguments of a command, `{PROGRAM} --version` the version. Errors are one message;
with --debug they come with a traceback."""
