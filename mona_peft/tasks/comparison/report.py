"""Makes page and pictures of a comparison from its records."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from mona_peft.tasks.comparison import plots, tables
from mona_peft.tasks.comparison.experiments import Record, backbone_name
from mona_peft.tasks.comparison.records import differing_settings, read_records
from mona_peft.tasks.comparison.rows import REFERENCE, ROWS
from mona_peft.tasks.comparison.study import Study
from mona_peft.tasks.comparison.summary import summarise
from mona_peft.tasks.comparison.tables import Summaries
from mona_peft.tasks.reporting.pages import emptied, fill_page, place
from mona_peft.tasks.task import Task

NO_WARNING = "Every chosen rate lies inside of those tried, and all rows have equally many seeds."
MARK = "comparison"
HEADINGS = {
    "setup": "What is compared",
    "methods": "Methods",
    "differences": "Mona against each",
    "widths": "Width",
    "designs": "Design versions",
    "inits": "Initialisation",
    "schedules": "Schedule",
    "backbones": "Backbones",
    "rates": "Learning rates",
    "warnings": "What to know",
    "cost": "Cost",
    "provenance": "Provenance",
}
PICTURES = {
    "results": "Results against trained parameters",
    "curves": "Losses and validation results, means over seeds",
    "predictions": "Input, truth, and what Mona predicts before, early in and after training",
}
INTRODUCTION = """Each method at its own best learning rate, chosen with one seed on the validation images, from the
same grid for all; mean ± sample standard deviation over seeds, after the last epoch. *Kept* is what a batch's forward
pass keeps for the backward pass, weights excepted; a *step* is forward and backward pass and optimiser, on a CPU in
time of one processor; *file* is what has to be stored for a task. All train what stands outside the backbone."""


def report(study: Study, results: Path, page: Path, model: str | None = None) -> list[str]:
    """Fills the marked parts of a page with tables, and draws pictures into the folder that is named like it.

    Args:
        study: What was compared.
        results: Folder of records.
        page: Markdown; one with all parts is made where there is none, or one that was made so and is unchanged.
        model: The one that pictures and all tables are about but that of backbones, by the last part of its name.
            Without it the one with the most rows.

    Returns:
        What a reader should know before believing the tables.

    Raises:
        ValueError: There is no record, one can't be read, or is of a row that there is not; or none is of the model.
    """
    records = read_records(results)
    if not records:
        raise ValueError(f"{results} holds no records. They are made by running the comparison.")
    for experiment, record in records.items():
        if record["metric"] != study.task.main_metric:
            raise ValueError(f"{results}/{experiment}.json is of another task than {study.task.name}. Give its --task.")
    backbones = summaries_by_backbone(records)
    name = model or next(iter(backbones))
    if name not in backbones:
        raise ValueError(f"--model {name}: {results} holds no run of it. There are runs of {', '.join(backbones)}.")
    main = backbones[name]
    every = list(records.values())
    warnings = tables.warnings(backbones) + [
        f"The runs do not share their {setting}: {', '.join(map(repr, values))}."
        for setting, values in differing_settings(every).items()
    ]
    parts = {
        "setup": tables.setup(name, main),
        "methods": tables.methods_table(main, study.task, study.metrics),
        "summary": tables.summary_table(main, study.task, study.metrics),
        "differences": tables.differences_table(main),
        "widths": tables.widths_table(main),
        "designs": tables.designs_table(main),
        "inits": tables.inits_table(main),
        "schedules": tables.schedules_table(main),
        "backbones": tables.backbones_table(backbones),
        "rates": tables.rates_table(main),
        "warnings": "\n".join(f"- {warning}" for warning in warnings or [NO_WARNING]),
        "cost": tables.cost_table(every),
        "provenance": tables.provenance(every),
    }
    pictures = page.with_suffix("")
    pictures.mkdir(parents=True, exist_ok=True)
    plots.draw_results(main, study.task, pictures / "results.png")
    plots.draw_curves(main, study.task, pictures / "curves.png")
    if REFERENCE in main:
        predictions = results / f"{main[REFERENCE].first['experiment']}.png"
        if predictions.exists():
            shutil.copy(predictions, pictures / "predictions.png")
    if not page.exists() or _is_unchanged(page, study.task, pictures):
        said = {name: heading for name, heading in HEADINGS.items() if parts[name]}
        page.write_text(_blank_page(study.task, pictures, said), encoding="utf-8")
    fill_page(page, MARK, parts)
    places = emptied(page.read_text(encoding="utf-8"), MARK)
    unplaced = [name for name in HEADINGS if parts[name] and place(MARK, name) not in places]
    if unplaced:
        warnings.append(
            f"{page} has no place for: {', '.join(unplaced)}. Write `<!-- {MARK}: NAME -->` and, on the next line, "
            "`<!-- end -->` where each belongs; or remove the page, and it is made anew."
        )
    return warnings


def summaries_by_backbone(records: Mapping[str, Record]) -> dict[str, Summaries]:
    """Returns the summaries of all rows, by backbone, the one with the most rows first.

    Raises:
        ValueError: A record is of a row that there is not.
    """
    groups: dict[str, dict[str, list[Record]]] = {}
    for name, record in records.items():
        if record["row"] not in ROWS:
            raise ValueError(f"The record {name} is of a row that there is not. Rows are: {', '.join(ROWS)}.")
        rows = groups.setdefault(backbone_name(record["base_model"]), {})
        rows.setdefault(record["row"], []).append(record)
    ordered = sorted(groups.items(), key=lambda group: -len(group[1]))
    return {backbone: {name: summarise(rows[name]) for name in ROWS if name in rows} for backbone, rows in ordered}


def _blank_page(task: Task, pictures: Path, headings: Mapping[str, str]) -> str:
    """Returns a page with its pictures and places for parts."""
    images = [
        f"![{title}]({pictures.name}/{name}.png)"
        for name, title in PICTURES.items()
        if (pictures / f"{name}.png").exists()
    ]
    places = [f"## {heading}\n\n{place(MARK, name)}" for name, heading in headings.items()]
    return "\n\n".join([f"# Comparison of methods: {task.name}", INTRODUCTION, *images, *places]) + "\n"


def _is_unchanged(page: Path, task: Task, pictures: Path) -> bool:
    """Whether nobody has written into a page: what stands outside its parts stands in one with all parts too."""
    whole = _blank_page(task, pictures, HEADINGS).splitlines()
    return set(emptied(page.read_text(encoding="utf-8"), MARK).splitlines()) <= set(whole)
