"""Pages in docs/: what they show as code runs, and what their commands name is there."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch

from mona_peft import cli
from mona_peft.blocks import KNOWN_BLOCKS
from mona_peft.tasks.models.methods import METHODS
from mona_peft.tasks.task import TASKS
from mona_peft.tasks.training.presets import find_preset
from tests.documents import HUB_MODEL, README, ROOT, commands, snippets

DOCS = ROOT / "docs"
PAGES = [README, *sorted(DOCS.rglob("*.md"))]


@pytest.fixture
def run_page(swin_folder, tmp_path, monkeypatch):
    """Runs a page's Python from top to bottom, as one program in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(page: str) -> dict:
        code = "\n".join(snippets(DOCS / page, "python")).replace(HUB_MODEL, str(swin_folder))
        module = ModuleType(f"page_{Path(page).stem}")
        monkeypatch.setitem(sys.modules, module.__name__, module)  # where dataclasses and PEFT look for its classes
        exec(compile(code, page, "exec", dont_inherit=True), vars(module))
        return vars(module)

    return run


def test_adapters_page_runs(run_page, tmp_path):
    model = run_page("adapters.md")["model"]
    assert list(model.peft_config) == ["default"]
    assert (tmp_path / "swin-tiny-mona" / "adapter_model.safetensors").is_file()


def test_own_backbone_and_own_method_run(run_page, monkeypatch):
    monkeypatch.setattr("mona_peft.blocks.lookup.KNOWN_BLOCKS", KNOWN_BLOCKS | {})
    names = run_page("extending.md")
    assert names["logits"].shape == (2, 10)
    images = torch.randn(2, 3, 32, 48)
    model, loaded = names["model"].eval(), names["loaded"].eval()
    loaded.base_model.model.load_state_dict(model.base_model.model.state_dict())
    torch.testing.assert_close(loaded(images), model(images))
    assert sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) == 3 * 2 * 32 + 330


def test_methods_are_counted():
    variants = sum(bool(method.overrides) for method in METHODS.values())
    counts = re.search(r"`--method`: (\d+) methods, and (\d+) variants", (DOCS / "other_tools.md").read_text())
    assert counts.groups() == (str(len(METHODS) - variants), str(variants))


@cache
def options_of(command: str, task: str | None) -> set[str]:
    """Returns the options that a command knows, by its own help."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        cli.run([command, *([task] if task else []), "--help", "all"])
    return {*re.findall(r"--\w+", printed.getvalue())}


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.stem)
def test_commands_name_what_is_there(page):
    for name, *arguments in commands(page):
        assert name in cli.COMMANDS
        task = arguments[0] if arguments and arguments[0] in TASKS else None
        assert task or name not in ("train", "compare"), arguments
        known = options_of(name, task) | (options_of("train", task) if name == "compare" else set())
        given = [argument for argument in arguments if argument.startswith("--")]
        assert not {*given} - known, (name, {*given} - known)
        if "--preset" in arguments:
            find_preset(arguments[arguments.index("--preset") + 1])


def test_options_in_the_text_of_guides_are_there():
    known = {"--help", "--debug"}.union(
        *(options_of("train", task) for task in TASKS), *(options_of(name, None) for name in ("predict", "export"))
    ) | options_of("evaluate", None)
    for page in [*sorted((DOCS / "tasks").glob("*.md")), DOCS / "recipes.md", DOCS / "troubleshooting.md", README]:
        named = {*re.findall(r"`[^`\n]*?(--\w+)", page.read_text(encoding="utf-8"))}
        assert not named - known, page
