"""Makes every layout, loads it, and writes `docs/data_formats.md`."""

from pathlib import Path

from scripts.data_formats.layouts import LAYOUTS
from scripts.data_formats.loading import attempt

PAGE = Path(__file__).resolve().parents[2] / "docs" / "data_formats.md"


def main() -> None:
    """Writes the page."""
    lines = [
        "# Data formats",
        "",
        "Each row was made in its real format with a few images and loaded (`python -m scripts.data_formats` writes",
        "this page). Commands go on with `--model NAME --output_dir RUN`; what stands in italics is said on the way.",
        "",
    ]
    for refused, heading in ((False, "Read"), (True, "Refused")):
        lines += [f"## {heading}", "", "| layout | command | result |", "| --- | --- | --- |"]
        for layout in LAYOUTS:
            if bool(layout.refused) == refused:
                result, said = attempt(layout, layout.tasks[0])
                notes = "".join(f"<br>*{message}*" for message in dict.fromkeys(said))
                command = f"`mona-peft train {layout.tasks[0]} {' '.join(layout.options)}`"
                cells = (layout.title, command, result.removeprefix("refused: ") + notes)
                lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
        lines.append("")
    PAGE.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
