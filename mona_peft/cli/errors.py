"""What a command or a script says of an error: one message, and an exit code that tells whose fault it is."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence

USER_ERROR = 2
UNEXPECTED = 3
INTERRUPTED = 130

WHAT_NOW = (
    "This is a fault of the program, or of PyTorch, and not known to come of anything that you gave. The same command "
    "with --debug shows the traceback: please report it, with the command."
)


def reported(program: str, argv: Sequence[str], call: Callable[[list[str]], int | None]) -> int:
    """Calls what a command does, says of an error what a user can do, and returns the exit code.

    Args:
        program: Name of the command, with which its message begins.
        argv: Arguments of the command. `--debug` among them lets errors through, with their traceback.
        call: Takes the other arguments; may return an exit code. It raises `ValueError`, `OSError` or `ImportError` for
            what a user can mend. A `RuntimeError` is unexpected, unless memory is at its end.
    """
    # PEFT asks a model for the older name of a setting, which nobody who reads this can change.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    try:
        return call([argument for argument in argv if argument != "--debug"]) or 0
    except BrokenPipeError:  # who reads our output has read enough
        return 0
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        if "--debug" in argv:
            raise
        unexpected = isinstance(error, RuntimeError) and not _is_out_of_memory(error)
        said = f"unexpected {type(error).__name__}: " if unexpected else ""
        where = WHAT_NOW if unexpected else "(--debug shows where this comes from.)"
        print(f"{program}: {said}{_message(error)}{_hint(error)}\n{where}", file=sys.stderr)
        return UNEXPECTED if unexpected else USER_ERROR
    except KeyboardInterrupt as error:
        print(error or "Interrupted.", file=sys.stderr)
        return INTERRUPTED


def run_module(main: Callable[[list[str]], None]) -> None:
    """Runs the `main` of a module that was started by `python -m`, and exits; errors are said as `mona-peft` does."""
    module = sys.modules["__main__"].__spec__
    program = f"python -m {module.name.removesuffix('.__main__')}" if module else f"python {sys.argv[0]}"
    raise SystemExit(reported(program, sys.argv[1:], main))


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
