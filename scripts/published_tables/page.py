"""The page of the published tables: the line to type for each, and what it takes by estimate."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mona_peft.tasks.reporting.pages import table as as_table
from scripts.paper_settings import TFLOPS_SUSTAINED
from scripts.published_tables.costs import hours, table_hours
from scripts.published_tables.tables import Table

PAGE = Path(__file__).parents[2] / "docs" / "comparison" / "published_tables.md"

INTRODUCTION = """# Tables of others, with Mona in them

None of this has been run here, and nothing is claimed of what comes out: these are comparisons that others have
published without Mona, and the Mona paper's own, each written so that one line runs it on a GPU. The hours are an
estimate. Written by `python -m scripts.published_tables page`.

"""

NOTES = f"""
*Hours* are those of one GPU that sustains {TFLOPS_SUSTAINED} · 10^12 operations a second; operations are counted, not
measured ([how](../paper_settings.md)), for full fine-tuning and for Mona, and every other way is taken to cost what
Mona costs. Each way is trained at the fewest rates that can decide, and repeated with the other seeds; the search asks
for a rate or two more where the best lies at an end. `--jobs 4` shares the work among processes, `--only NAME ...` runs
some of the datasets, and further arguments go to `mona-peft compare`, which goes on where it stopped. Each dataset gets
a page `comparison.md` of its own.

What is not as in the publications:

- **VTAB-1k**: the images come from `XiN0919/VTAB-1k` on the hub, 4.7 GB, downloaded once. Its 800 images are trained
  on, its 200 choose the rate, and its test images, all of them, are tested. V-PETL-Bench trains the final model on all
  1,000, so its numbers have an advantage.
- **V-PETL-Bench** searches for weight decay too, method by method; here it is 0.05 for all. NABirds is left out, since
  no copy on the hub is known that loads by itself. Where a fine-grained set has no validation images, a tenth of those
  to train on is drawn.
- **PVeRA** (71.4 % on average over the 19 datasets) keeps its rate constant and trains until 20 epochs bring nothing;
  here it is 100 epochs on a cosine. `pvera` itself is PEFT's, and no row of ours.
- **The Mona paper** gives one rate for each method, and one seed. On COCO Mask2Former stands in for Cascade Mask R-CNN,
  so its numbers there can't be compared ([more](../paper_settings.md)); its and RetinaNet's heads are not counted in
  the hours. VOC2007 as a set to classify is left out. COCO, ADE20K and VOC are given as folders, one at a time:
  `python -m scripts.published_tables run mona-dense --only ade20k --dataset FOLDER --output_dir outputs/mona-dense`.

The hub was out of reach when this was written; other projects load these datasets by these names. Where one has moved,
give its name with `--only NAME --dataset NAME_OR_FOLDER`.
"""


def overview(tables: Mapping[str, Table]) -> str:
    """Returns the tables with their lines, ways and hours."""
    header = ("table", "line to type", "datasets", "ways", "GPU hours")
    rows = [
        [
            *(table.title, f"`python -m scripts.published_tables run {name} --output_dir outputs/{name}`"),
            *(str(len(table.parts)), str(len(next(iter(table.parts.values())).rows)), f"{table_hours(table):.0f}"),
        ]
        for name, table in tables.items()
    ]
    return as_table(header, rows)


def datasets_table(tables: Mapping[str, Table]) -> str:
    """Returns the datasets of all tables."""
    header = ("table", "dataset", "from", "images to train on", "to test", "model", "preset", "GPU hours")
    rows = [
        [
            *(name, part.name, f"`{part.dataset or table.archive.repository}`"),
            *(f"{part.images[0]:,}", f"{part.images[1]:,}", f"`{part.model}`"),
            *(f"`{Path(part.preset).stem}`", f"{hours(part):.1f}"),
        ]
        for name, table in tables.items()
        for part in table.parts.values()
    ]
    return as_table(header, rows)


def print_list(tables: Mapping[str, Table]) -> None:
    """Prints the tables."""
    for name, table in tables.items():
        print(f"{name:20} {table_hours(table):5.0f} GPU hours by estimate   {table.title}")


def write_page(tables: Mapping[str, Table]) -> None:
    """Writes the page."""
    PAGE.write_text(f"{INTRODUCTION}{overview(tables)}\n{NOTES}\n## Datasets\n\n{datasets_table(tables)}\n", "utf-8")
    print(f"Wrote {PAGE}.")
