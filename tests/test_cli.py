"""The console command as a whole: its subcommands, help, version and errors."""

from importlib.util import find_spec

import pytest
import torch

from mona_peft import __version__
from mona_peft.cli import COMMANDS, run
from tests.script_runs import run_python


@pytest.mark.parametrize("name", COMMANDS)
def test_every_subcommand_has_a_module_and_help(name, capsys):
    assert find_spec(f"mona_peft.cli.{name}") is not None
    with pytest.raises(SystemExit) as stopped:
        raise SystemExit(run([name, "--help"]))
    assert stopped.value.code in (0, None)
    assert f"mona-peft {name}" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_help_names_every_subcommand(argv, capsys):
    assert run(argv) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in COMMANDS)


def test_version_in_a_fresh_process():
    assert run_python("-m", "mona_peft", "--version").strip() == f"mona-peft {__version__}"


def test_unknown_subcommand_names_those_there_are(capsys):
    assert run(["fly"]) == 2
    assert "fly: no such command. There are: train, evaluate" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "code"),
    [(ValueError, 2), (OSError, 2), (RuntimeError, 3), (KeyboardInterrupt, 130), (BrokenPipeError, 0)],
)
def test_error_of_a_subcommand_is_a_message_and_a_code(raised, code, monkeypatch, capsys):
    class Command:
        @staticmethod
        def run(argv):
            raise raised("so it is")

    monkeypatch.setattr("mona_peft.cli.import_module", lambda name: Command)
    assert run(["train", "x"]) == code
    said = capsys.readouterr().err
    assert ("so it is" in said) == (code > 0)
    assert ("unexpected RuntimeError" in said) == ("report it" in said) == (raised is RuntimeError)
    if raised in (ValueError, RuntimeError):
        with pytest.raises(raised, match="so it is"):
            run(["train", "x", "--debug"])


def test_missing_package_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr("mona_peft.cli.import_module", lambda name: __import__("no_such_package"))
    assert run(["train"]) == 2
    assert 'pip install "mona-peft[train]"' in capsys.readouterr().err


def test_too_little_memory_says_what_to_make_smaller(monkeypatch, capsys):
    class Command:
        @staticmethod
        def run(argv):
            raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("mona_peft.cli.import_module", lambda name: Command)
    assert run(["train", "x"]) == 2
    assert "--per_device_train_batch_size" in capsys.readouterr().err
