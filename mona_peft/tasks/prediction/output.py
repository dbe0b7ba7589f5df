"""The files of predictions: one line of JSON an image, written so that whatever stops it, what is there is whole."""

import json
import os
from pathlib import Path
from typing import Any

from mona_peft.tasks.training.records import write_json
from mona_peft.tasks.training.run_directory import replace_file

LINES, SETTINGS = "predictions.jsonl", "prediction.json"


class PredictionFile:
    """`predictions.jsonl`, which grows by a line an image, and what its predictions were made with, beside it.

    Args:
        output_dir: Where they are.
        settings: What predictions depend on. A file of other ones is not gone on with.

    Raises:
        ValueError: The directory holds predictions that were made otherwise.
    """

    def __init__(self, output_dir: Path, settings: dict[str, Any]) -> None:
        self.path = output_dir / LINES
        noted = output_dir / SETTINGS
        if self.path.is_file() and noted.is_file():
            before = json.loads(noted.read_text(encoding="utf-8"))
            if changed := [name for name in {**before, **settings} if before.get(name) != settings.get(name)]:
                name = changed[0]
                raise ValueError(
                    f"--output_dir {output_dir} holds predictions that were made otherwise: {name} was "
                    f"{before.get(name)!r} and is {settings.get(name)!r} now. Choose another directory, or remove this "
                    "one yourself."
                )
        elif self.path.exists():
            raise ValueError(
                f"--output_dir {output_dir} holds a {LINES} that this command has not begun (there is no {SETTINGS}). "
                "Choose another directory."
            )
        output_dir.mkdir(parents=True, exist_ok=True)
        write_json(noted, settings)
        self.lines = self._whole_lines()

    def _whole_lines(self) -> list[dict[str, Any]]:
        """Reads what is there; the beginning of a line that could not be written to its end goes."""
        if not self.path.is_file():
            self.path.touch()
            return []
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            with replace_file(self.path) as new:
                new.write_bytes(whole)
        return [json.loads(line) for line in whole.splitlines()]

    def append(self, lines: list[dict[str, Any]]) -> None:
        """Adds lines, each by one call to the system: it is there, or it is not."""
        with open(self.path, "ab", buffering=0) as file:
            for line in lines:
                file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
            os.fsync(file.fileno())
        self.lines += lines
