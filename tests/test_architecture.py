"""The layout of the package: lower rooms know nothing of upper ones, and importing it stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import mona_peft

ROOT = Path(mona_peft.__file__).parent
FLOORS = (
    ("version", "blocks", "files"),
    ("functional",),
    ("host",),
    ("config",),
    ("integration", "adapter_saving"),
    ("methods",),
    ("interop",),
    ("tasks",),
    ("cli",),
    ("__main__",),
)
"""Rooms of the package from the ground up; rooms of one floor do not know each other."""

FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def modules() -> dict[str, ast.Module]:
    """All modules by name, packages included, those of `if TYPE_CHECKING` as well."""
    return {
        ".".join(("mona_peft", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): ast.parse(
            path.read_text(encoding="utf-8")
        )
        for path in sorted(ROOT.rglob("*.py"))
    }


def imported(tree: ast.Module, known: set[str]) -> Iterator[str]:
    """Yields the modules that a module imports, of the package the very module and of others the name."""
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in known else node.module for name in inner]
        yield from names


MODULES = modules()
IMPORTS = {name: set(imported(tree, set(MODULES))) for name, tree in MODULES.items()}


def room(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


def test_few_modules_beside_the_rooms():
    modules = {path.stem for path in ROOT.glob("*.py")} - {"adapter_saving"}  # a former name
    assert modules == {"__init__", "__main__", "config", "version"}
    assert {path.name for path in ROOT.iterdir() if path.is_dir() and any(path.glob("*.py"))} <= set(FLOOR_OF)


@pytest.mark.parametrize("name", [name for name in MODULES if room(name)])
def test_no_arrow_upwards(name):
    upwards = [
        other
        for other in IMPORTS[name]
        if other in MODULES
        and room(other) != room(name)
        and (not room(other) or FLOOR_OF[room(other)] >= FLOOR_OF[room(name)])
    ]
    assert not upwards


def test_no_circle():
    """Not even one that only a type checker sees."""
    order = TopologicalSorter(
        {name: {other for other in others if other in MODULES and other != name} for name, others in IMPORTS.items()}
    )
    order.prepare()


@pytest.mark.parametrize("below", ["blocks", "functional", "files", "host"])
def test_rooms_below_peft(below):
    inside = [name for name in MODULES if room(name) == below]
    assert inside
    assert not [name for name in inside if any(other.split(".")[0] == "peft" for other in IMPORTS[name])]


def test_import_is_light():
    """What only the tasks need is not imported with the tuner."""
    code = "import sys, mona_peft; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    with_us = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    code = code.replace("mona_peft", "peft, transformers.modeling_utils, transformers.integrations.peft")
    without = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    added = {*with_us.stdout.split()} - {*without.stdout.split()}
    assert {name for name in added if not name.startswith("_")} <= {
        "mona_peft",
        "fcntl",
        "tempfile",
        "graphlib",
        "cmath",
    }
    heavy = ("datasets", "evaluate", "kornia", "matplotlib", "scipy", "PIL", "onnx")
    assert not [name for name in added if name in heavy]
