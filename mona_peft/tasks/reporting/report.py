"""`report.html`: what a run is and what it reaches, in one file that opens without a network; numbers beside it.

Each evaluation leaves its part in the folder `report`: a piece of the page, its numbers as JSON, its tables as CSV. The
page is made of the record of the run and of all parts that are there, so a later evaluation adds to it.
"""

import base64
import csv
import html
import io
import json
import re
from pathlib import Path
from typing import Any

import PIL.Image
from matplotlib.figure import Figure

from mona_peft.tasks.reporting import training_images
from mona_peft.tasks.reporting.details import Details, Table
from mona_peft.tasks.reporting.plots import draw_loss, draw_metric
from mona_peft.tasks.task import Task
from mona_peft.tasks.training.run_directory import replace_file

PARTS = "report"
PICTURE_SIDE = 320

PANELS = {
    "predictions.png": "Predictions before, early in and after training",
    training_images.PICTURE: "Training images as the model sees them, augmented, with their annotation",
}
"""Pictures that a training leaves in its output directory, with what they are."""

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 72em; padding: 0 1em; color: #222 }
h1 { margin-bottom: 0 } h2 { border-bottom: 1px solid #ccc; margin-top: 2em }
table { border-collapse: collapse; margin: 1em 0; display: block; overflow-x: auto; max-height: 32em }
td, th { padding: .2em .8em; text-align: right; border-bottom: 1px solid #eee }
td:first-child, th:first-child { text-align: left }
thead th { position: sticky; top: 0; background: #fff }
img { max-width: 100% } figure { display: inline-block; margin: .5em; vertical-align: top; max-width: 22em }
figcaption { font-size: 12px; color: #666; overflow-wrap: anywhere }
pre { background: #f6f6f6; padding: 1em; overflow-x: auto }
"""


def write_evaluation(output_dir: Path, name: str, task: Task, metrics: dict[str, float], details: Details) -> None:
    """Writes the part of an evaluation: a piece of the page, its numbers and its tables.

    Args:
        output_dir: Of the run.
        name: Of what was evaluated, such as `validation`.
        task: What was trained for.
        metrics: Of the task, by their own names.
        details: What else is to be shown.
    """
    folder = output_dir / PARTS
    stem = re.sub(r"[^\w.-]+", "-", name)
    known = [metric for metric in ("loss", *task.metrics) if metric in metrics]
    summary = Table("", [task.metrics.get(metric, metric) for metric in known], [[metrics[metric] for metric in known]])
    pieces = [f"<h2>Evaluation: {html.escape(name)}</h2>", _table(summary)]
    pieces += [f"<h3>{html.escape(table.title)}</h3>{_table(table)}" for table in details.tables if table.in_page]
    pieces += [
        f"<h3>{html.escape(title)}</h3><img alt='' src='{_embedded_figure(figure)}'>"
        for title, figure in details.figures.items()
    ]
    if details.pictures:
        shown = [
            f"<figure><img alt='' src='{_embedded_picture(picture)}'>"
            f"<figcaption>{html.escape(says)}</figcaption></figure>"
            for says, picture in details.pictures
        ]
        pieces.append(f"<h3>{html.escape(details.pictures_title)}</h3>{''.join(shown)}")
    tables = {
        table.title: [dict(zip(table.header, row, strict=True)) for row in table.rows]
        for table in details.tables
        if table.in_page
    }
    _write(folder / f"{stem}.html", "\n".join(pieces))
    _write(folder / f"{stem}.json", json.dumps({"evaluated": name, "metrics": metrics, "tables": tables}, indent=2))
    for number, table in enumerate(details.tables):
        content = io.StringIO()
        csv.writer(content).writerows([table.header, *table.rows])
        _write(folder / (f"{stem}.csv" if number == 0 else f"{stem}-{number + 1}.csv"), content.getvalue())


def write_report(output_dir: Path, record: dict[str, Any], task: Task) -> Path:
    """Writes `report.html` of a run.

    Args:
        output_dir: Of the run, with the parts of its evaluations and, where there are any, `PANELS`.
        record: Of the run.
        task: What was trained for.
    """
    title = f"{record['method']['method']}, {record.get('base_model')}, on {record.get('dataset')}"
    pieces = [f"<h1>{html.escape(task.name.capitalize())}</h1>", f"<p>{html.escape(title)}</p>", _table(_facts(record))]
    parts = sorted((output_dir / PARTS).glob("*.html"), key=lambda path: (_rank(path.stem), path.stem))
    pieces += [path.read_text(encoding="utf-8") for path in parts]
    if any({"loss", "eval_loss"} & entry.keys() for entry in record.get("history", [])):
        pieces.append(f"<h2>Training</h2><img alt='' src='{_embedded_figure(_curves(record, task))}'>")
    for name, title in PANELS.items():
        if (output_dir / name).is_file():
            encoded = base64.b64encode((output_dir / name).read_bytes()).decode()
            pieces.append(f"<h2>{title}</h2><img alt='' src='data:image/png;base64,{encoded}'>")
    settings = {
        name: record.get(name) for name in ("recipe", "method", "training", "model", "data", "seed", "software")
    }
    pieces.append(f"<h2>Recipe</h2><pre>{html.escape(json.dumps(settings, indent=2, ensure_ascii=False))}</pre>")
    body = "\n".join(pieces)
    page = f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{html.escape(title)}</title>"
    path = output_dir / "report.html"
    _write(path, f"{page}<style>{STYLE}</style></head><body>{body}</body></html>")
    return path


def _facts(record: dict[str, Any]) -> Table:
    parameters, hardware = record.get("parameters", {}), record.get("hardware", {})
    seconds = [entry["train_runtime"] for entry in record.get("history", []) if "train_runtime" in entry]
    facts = {
        "trained parameters": f"{parameters['trainable']:,}" if parameters else None,
        "of them in the backbone": f"{parameters['adapter']:,}" if parameters else None,
        "share of the model": f"{parameters['trainable_share']:.2%}" if parameters else None,
        "images": ", ".join(f"{count:,} {split}" for split, count in record.get("num_images", {}).items()),
        "classes": len(record["classes"]),
        "training": f"{seconds[-1]:,.0f} s" if seconds else None,
        "peak memory": f"{record['peak_memory'] / 2**30:.2f} GiB" if record.get("peak_memory") else None,
        "on": ", ".join(str(value) if name == "device" else f"{name} {value}" for name, value in hardware.items()),
    }
    return Table("", ["", ""], [[name, value] for name, value in facts.items() if value])


def _curves(record: dict[str, Any], task: Task) -> Figure:
    figure = Figure(figsize=(10, 4), layout="constrained")
    loss_axes, metric_axes = figure.subplots(1, 2)
    histories = {record["method"]["method"]: record["history"]}
    draw_loss(loss_axes, histories)
    draw_metric(metric_axes, histories, task.main_metric, task.metrics[task.main_metric])
    return figure


def _rank(stem: str) -> int:
    """Tests come first, then validation, then what was evaluated later."""
    return {"test": 0, "validation": 1}.get(stem, 2)


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(str(name))}</th>" for name in table.header)
    rows = "".join(f"<tr>{''.join(f'<td>{_cell(value)}</td>' for value in row)}</tr>" for row in table.rows)
    return f"<table>{f'<thead><tr>{head}</tr></thead>' if any(table.header) else ''}<tbody>{rows}</tbody></table>"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else html.escape(str(value))


def _embedded_figure(figure: Figure) -> str:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def _embedded_picture(picture: PIL.Image.Image) -> str:
    small = picture.copy()
    small.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    content = io.BytesIO()
    small.save(content, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"


def _write(path: Path, text: str) -> None:
    with replace_file(path) as new:
        new.write_text(text, encoding="utf-8")
