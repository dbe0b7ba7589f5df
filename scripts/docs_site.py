"""What mkdocs does not do by itself for the docs: hooks that mkdocs.yml names, run by `make docs`.

README.md and CHANGELOG.md become pages, links that leave `docs/` lead to the repository, and the page of recipes gets
its tables from the recipes' data. The pages stay readable as they are, on GitHub too.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "mona_peft" / "tasks" / "training" / "recipes"
ROOT_PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md"}
"""Pages of the site, by the files in the repository's root that they are made of."""

LINK = re.compile(r"(?P<before>\]\()(?P<target>[^)\s#:]+)(?P<anchor>#[^)\s]*)?(?P<after>\))")
RECIPES_MARK = "<!-- recipes -->"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made of files in the repository's root."""
    for source, page in ROOT_PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns a page's links to where they lead on the site, and fills in the recipes."""
    sources = {page_name: source for source, page_name in ROOT_PAGES.items()}
    source = sources.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    markdown = markdown.replace(RECIPES_MARK, "\n\n".join(map(recipe_table, sorted(RECIPES.glob("*.yaml")))))
    return LINK.sub(lambda link: _turned(link, source, page, config.repo_url), markdown)


def _turned(link: re.Match[str], source: str, page: Page, repository: str) -> str:
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link["target"]))
    if target in ROOT_PAGES:
        new = ROOT_PAGES[target]
    elif target.startswith("docs/"):
        new = target.removeprefix("docs/")
    elif (ROOT / target).exists():
        return f"{link['before']}{repository}/blob/main/{target}{link['anchor'] or ''}{link['after']}"
    else:
        return link[0]  # mkdocs warns of it
    here = posixpath.dirname(page.file.src_uri) or "."
    return f"{link['before']}{posixpath.relpath(new, here)}{link['anchor'] or ''}{link['after']}"


def recipe_table(path: Path) -> str:
    """Returns a task's recipes in Markdown.

    Args:
        path: Of the file of data that `mona-peft train` reads.
    """
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    settings = ", ".join(f"`{name}` {_written(value)}" for name, value in content["settings"].items())
    rows = [
        f"| {'all others' if method == 'default' else f'`{method}`'} | {rate:g} | {source} |"
        for method, (rate, source) in content["learning_rates"].items()
    ]
    table = "\n".join(["| method | learning rate | where it comes from |", "| --- | ---: | --- |", *rows])
    return f"## {path.stem}\n\nFor every method: {settings}.\n\n{table}"


def _written(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower()
