"""What `import mona_peft` brings along, and that the package stands without the repository's scripts."""

import ast
from pathlib import Path

import pytest

from mona_peft.files import saving
from tests.script_runs import run_python

PACKAGE = Path(__file__).parents[1] / "mona_peft"
OF_THE_EXTRAS = (
    "datasets",
    "evaluate",
    "faster_coco_eval",
    "kornia",
    "matplotlib",
    "onnx",
    "pandas",
    "skimage",
)
"""Modules that training, reporting and exporting need, and adapting a model does not."""

COUNT = """
import sys
{before}
before = set(sys.modules)
import mona_peft
new = set(sys.modules) - before
print(*sorted(name.partition(".")[0] for name in new))
print(len([name for name in new if not name.startswith("mona_peft")]))
print(*sorted(name for name in new if name.startswith("mona_peft.tasks") or name.startswith("mona_peft.cli")))
"""


def test_import_brings_nothing_that_peft_and_transformers_do_not():
    names, others, tasks = run_python("-c", COUNT.format(before="import peft, transformers.trainer")).split("\n")[:3]
    assert not {*names.split()} & {*OF_THE_EXTRAS}
    assert int(others) <= 5
    assert not tasks


def test_loading_a_run_needs_no_extra():
    code = "import sys, mona_peft.tasks.trained; print(*sorted(sys.modules))"
    # transformers itself imports `datasets` where it is.
    assert not {*run_python("-c", code).split()} & {*OF_THE_EXTRAS[1:]}


def test_package_does_not_import_scripts_or_tests():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not {name.partition(".")[0] for name in names if name} & {"scripts", "tests"}, path


def test_the_former_name_of_a_module_is_the_module():
    """So that a function replaced by the one name is replaced by the other."""
    with pytest.warns(DeprecationWarning, match=r"mona_peft\.files\.saving"):
        from mona_peft import adapter_saving
    assert adapter_saving is saving
