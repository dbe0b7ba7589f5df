"""What the README and the pages in docs/ show as code: to run it, and to look for what it names."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
HUB_MODEL = "microsoft/swin-tiny-patch4-window7-224"


def snippets(page: Path, language: str) -> list[str]:
    """Returns the blocks of code in a language, in their order."""
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[list[str]]:
    """Returns the arguments of every `mona-peft` command in a page, behind `mona-peft` or `-m mona_peft`."""
    lines = "\n".join(snippets(page, "bash")).replace("\\\n", " ").splitlines()
    split = [re.split(r"(?:^|\s)(?:mona-peft|-m mona_peft) ", line, maxsplit=1) for line in lines]
    return [shlex.split(rest) for _, *found in split for rest in found]
