"""Pages in Markdown, parts of which are made from records."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mona_peft.tasks.training.run_directory import replace_file


def table(header: Sequence[str], rows: Sequence[Sequence[str]], words: Sequence[str] = ()) -> str:
    """Returns a Markdown table, its first column and those of `words` left-aligned, the others right-aligned."""
    alignment = ["---" if title in (header[0], *words) else "---:" for title in header]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, alignment, *rows))


def place(mark: str, name: str) -> str:
    """Returns the marks of an empty part of a page."""
    return f"<!-- {mark}: {name} -->\n<!-- end -->"


def fill_page(page: Path, mark: str, parts: Mapping[str, str]) -> None:
    """Replaces what stands between the marks `<!-- MARK: NAME -->` and `<!-- end -->` in a page.

    Args:
        page: Of Markdown, with any of the parts, in any order.
        mark: Word that the page's marks begin with.
        parts: New text by name.

    Raises:
        KeyError: The page marks a part that there is not.
    """
    text = _replaced(page.read_text(encoding="utf-8"), mark, lambda name: f"{parts[name]}\n")
    with replace_file(page) as new:
        new.write_text(text, encoding="utf-8")


def emptied(text: str, mark: str) -> str:
    """Returns the text of a page with nothing between its marks."""
    return _replaced(text, mark, lambda name: "")


def _replaced(text: str, mark: str, new: Callable[[str], str]) -> str:
    marks = re.compile(rf"(<!-- {mark}: (?P<name>\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
    return marks.sub(lambda found: f"{found[1]}{new(found['name'])}{found[3]}", text)
