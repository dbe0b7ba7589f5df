"""Presets: names and values of arguments in YAML files, which replace defaults; what is given on the command line wins.

(The argument files that `HfArgumentParser` reads by itself allow no comments, and one that is missing goes unnoticed.)
"""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

PRESETS = [Path(__file__).parent / "presets"]
"""Folders in which presets are looked for by name."""


def find_preset(name_or_path: str) -> Path:
    """Returns the file of a preset, given by its name (a file in one of `PRESETS`) or its path.

    Raises:
        ValueError: There is no such preset; names those there are.
    """
    for path in (Path(name_or_path), *(folder / f"{name_or_path}.yaml" for folder in PRESETS)):
        if path.is_file():
            return path
    names = ", ".join(sorted(path.stem for folder in PRESETS for path in folder.glob("*.yaml")))
    raise ValueError(f"--preset {name_or_path}: neither a file nor the name of a preset. Presets are: {names}.")


def read_preset(path: Path, dataclass_types: Sequence[type], parser: ArgumentParser) -> dict[str, Any]:
    """Returns the values of a preset by the names of arguments.

    Args:
        path: Of the file.
        dataclass_types: Whose fields are the arguments.
        parser: That has them.

    Raises:
        ValueError: It is no preset, or sets an argument that there is not, or to a value that this does not take.
    """
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ValueError(f"{path} is no preset: lines of `argument: value` are needed.")
    check_values(values, str(path), dataclass_types, parser)
    return values


def check_values(values: dict[str, Any], where: str, dataclass_types: Sequence[type], parser: ArgumentParser) -> None:
    """Checks values that become defaults, which argparse itself does not.

    Args:
        values: By the names of arguments.
        where: What a message says of the place that has them.
        dataclass_types: Whose fields are the arguments.
        parser: That has them.

    Raises:
        ValueError: There is no such argument, or it does not take this value.
    """
    known = {name for dataclass_type in dataclass_types for name in dataclass_type.__dataclass_fields__}
    if unknown := sorted(values.keys() - known):
        raise ValueError(f"{where} sets {', '.join(unknown)}: this script has no such arguments (see --help).")
    for action in parser._actions:
        if action.choices is None or action.dest not in values:
            continue
        value = values[action.dest]
        if not {*(value if isinstance(value, list) else [value])} <= {*action.choices}:
            raise ValueError(f"{where} sets {action.dest}: {value}. It takes {', '.join(map(str, action.choices))}.")
