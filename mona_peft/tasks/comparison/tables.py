"""Tables of a comparison, made of its records."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from mona_peft.tasks.comparison.experiments import Record
from mona_peft.tasks.comparison.rows import (
    BACKBONE_ROWS,
    DESIGN_ROWS,
    INIT_ROWS,
    LONG_ROWS,
    METHOD_ROWS,
    REFERENCE,
    ROWS,
    WIDTH_ROWS,
    Row,
)
from mona_peft.tasks.comparison.summary import CONFIDENCE, Spread, Summary, evaluated_splits
from mona_peft.tasks.reporting.pages import table
from mona_peft.tasks.task import Task

Summaries = Mapping[str, Summary]
"""Of one backbone, by the name of the row, in the order of `ROWS`."""

ENOUGH_SEEDS = 3
"""So many a spread can be told by, if roughly."""


def percent(spread: Spread | None, signed: bool = False) -> str:
    """Returns mean and standard deviation of a metric between 0 and 1, in percent (points, if signed)."""
    if spread is None:
        return ""
    sign = "+" if signed else ""
    deviation = "" if spread.deviation is None else f" ± {100 * spread.deviation:.1f}"
    return f"{100 * spread.mean:{sign}.1f}{deviation}"


def methods_table(summaries: Summaries, task: Task, metrics: Sequence[str]) -> str:
    """Returns what every method trains, costs and reaches."""
    splits = evaluated_splits(summaries)
    header = [
        *("", "trained parameters", "of them in the backbone", "share of the model", "file", "kept", "step"),
        *("learning rate", *_result_headings(task, metrics, splits)),
    ]
    return table(header, [_method_cells(row, summary, metrics, splits) for row, summary in _method_rows(summaries)])


def summary_table(summaries: Summaries, task: Task, metrics: Sequence[str]) -> str:
    """Returns what every method trains and reaches, in short."""
    splits = evaluated_splits(summaries)
    header = [task.name, "trained parameters", "of them in the backbone", *_result_headings(task, metrics, splits)]
    rows = [
        [row.title, *_parameter_cells(summary), *_result_cells(summary, metrics, splits)]
        for row, summary in _method_rows(summaries)
    ]
    return table(header, rows)


def _method_rows(summaries: Summaries) -> list[tuple[Row, Summary]]:
    return [(row, summaries[row.name]) for row in METHOD_ROWS if row.name in summaries]


def _result_headings(task: Task, metrics: Sequence[str], splits: Sequence[str]) -> list[str]:
    return [f"{task.metrics[metric]}, {split}, %" for metric in metrics for split in splits]


def _result_cells(summary: Summary, metrics: Sequence[str], splits: Sequence[str]) -> list[str]:
    return [percent(summary.result(split, metric)) for metric in metrics for split in splits]


def _parameter_cells(summary: Summary) -> list[str]:
    parameters = summary.first["parameters"]
    return [f"{parameters['trainable']:,}", f"{parameters['adapter']:,}"]


def _method_cells(row: Row, summary: Summary, metrics: Sequence[str], splits: Sequence[str]) -> list[str]:
    first = summary.first
    steps = [run["step_seconds"] for run in summary.runs.values() if run["step_seconds"] is not None]
    return [
        row.title,
        *_parameter_cells(summary),
        f"{first['parameters']['trainable_share']:.2%}",
        f"{first['adapter_bytes'] / 1000:,.0f} kB",
        f"{first['kept_bytes'] / 1e6:.1f} MB",
        f"{1000 * statistics.median(steps):.0f} ms" if steps else "",
        f"{summary.rate:g}{' (edge)' if at_edge(summary) else ''}",
        *_result_cells(summary, metrics, splits),
    ]


def differences_table(summaries: Summaries) -> str:
    """Returns the reference row's lead over every other one, within seeds."""
    if REFERENCE not in summaries:
        return f"There is no run of {ROWS[REFERENCE].title} yet."
    reference = summaries[REFERENCE]
    *_, split = evaluated_splits(summaries)
    header = [f"{ROWS[REFERENCE].title} minus", "points", f"{CONFIDENCE:.0%} interval of the mean", "ahead in", ""]
    rows = []
    for name, summary in summaries.items():
        difference = reference.difference(summary, split)
        if name == REFERENCE or difference is None:
            continue
        shared = [seed for seed in reference.runs if seed in summary.runs]
        ahead = sum(_result(reference.runs[seed], split) > _result(summary.runs[seed], split) for seed in shared)
        rows.append(
            [
                ROWS[name].title,
                percent(difference, signed=True),
                _interval(difference),
                f"{ahead} of {len(shared)} seeds",
                _verdict(difference),
            ]
        )
    return table(header, rows) if rows else f"There is nothing yet to compare {ROWS[REFERENCE].title} with."


def _result(record: Record, split: str) -> float:
    return record["results"][split][record["metric"]]


def _interval(difference: Spread) -> str:
    half = difference.interval
    if half is None:
        return ""
    return f"{100 * (difference.mean - half):+.1f} to {100 * (difference.mean + half):+.1f}"


def _verdict(difference: Spread) -> str:
    half = difference.interval
    if half is None or abs(difference.mean) <= half:
        return "undecided"
    return "ahead" if difference.mean > 0 else "behind"


def widths_table(summaries: Summaries) -> str:
    """Returns the results by the width of the bottleneck (the paper's Table 4)."""
    narrow, wide = WIDTH_ROWS
    return _ablation_table("width of the bottleneck", summaries, (narrow, ROWS[REFERENCE], wide), _width)


def designs_table(summaries: Summaries) -> str:
    """Returns the results of the design versions of Mona."""
    return _ablation_table("design", summaries, (*DESIGN_ROWS, ROWS[REFERENCE]), lambda row, summary: row.title)


def inits_table(summaries: Summaries) -> str:
    """Returns the results of Mona by its initialisation."""
    return _ablation_table("initialisation", summaries, (*INIT_ROWS, ROWS[REFERENCE]), _init)


def _init(row: Row, summary: Summary) -> str:
    return {True: "equal to the pre-trained model", "paper": "the authors'"}[summary.first["settings"]["init_weights"]]


def _width(row: Row, summary: Summary) -> str:
    return str(summary.first["settings"]["bottleneck_dim"])


def _ablation_table(label: str, summaries: Summaries, rows: Sequence[Row], cell) -> str:
    splits = evaluated_splits(summaries)
    header = [label, "trained parameters", "learning rate", *(f"{split}, %" for split in splits)]
    present = [(row, summaries[row.name]) for row in rows if row.name in summaries]
    if len(present) < 2:
        return ""  # nothing is compared
    return table(
        header,
        [
            [
                cell(row, summary),
                f"{summary.first['parameters']['trainable']:,}",
                f"{summary.rate:g}{' (edge)' if at_edge(summary) else ''}",
                *(percent(summary.result(split)) for split in splits),
            ]
            for row, summary in present
        ],
    )


def backbones_table(backbones: Mapping[str, Summaries]) -> str:
    """Returns the results by backbone (the paper's Table 5)."""
    groups = []
    for backbone, summaries in backbones.items():
        parameters = next(iter(summaries.values())).first["parameters"]["base"]
        groups.append(((backbone, f"{parameters:,}"), summaries))
    return _settings_table(("backbone", "parameters"), groups)


def schedules_table(summaries: Summaries) -> str:
    """Returns the results by the length of the schedule."""
    long = {name: summaries[row.name] for name, row in LONG_ROWS.items() if row.name in summaries}
    usual = {name: summaries[name] for name in long if name in summaries}
    groups = [((_length(group),), group) for group in (usual, long) if group]
    return _settings_table(("length",), groups)


def _length(summaries: Summaries) -> str:
    settings = next(iter(summaries.values())).first["settings"]
    return f"{settings['max_steps']} steps" if settings["max_steps"] > 0 else f"{settings['num_train_epochs']:g} epochs"


def setup(backbone: str, summaries: Summaries) -> str:
    """Returns on which model and images, and for how long, the rows were trained that the main tables show."""
    row, summary = next(iter(summaries.items()))
    first, length = summary.first, _length({row: summary})
    images = ", ".join(f"{count:,} for {split}" for split, count in first["num_images"].items())
    longer = f" ({ROWS[row].title})" if ROWS[row].length != 1 else ""
    return (
        f"{backbone}, {first['parameters']['base']:,} parameters, on {first['dataset']}: images, {images}; "
        f"{length}{longer}, batches of {first['settings']['per_device_train_batch_size']} a device."
    )


def _settings_table(labels: Sequence[str], groups: Sequence[tuple[Sequence[str], Summaries]]) -> str:
    """Returns results of `BACKBONE_ROWS` in several settings, and the reference row's lead over one of them.

    Args:
        labels: Headings of the cells that tell what is set.
        groups: Those cells, and the summaries by the names of `BACKBONE_ROWS`.
    """
    rival = "full"
    if len(groups) < 2:
        return ""  # nothing is compared
    # One split for all groups; they may have different data.
    *_, split = min((evaluated_splits(summaries) for _, summaries in groups), key=len)
    header = [
        *(*labels, *(f"{row.title}, {split}, %" for row in BACKBONE_ROWS)),
        f"{ROWS[REFERENCE].title} minus {ROWS[rival].title}",
    ]
    rows = []
    for cells, summaries in groups:
        results = [percent(summaries[row.name].result(split)) if row.name in summaries else "" for row in BACKBONE_ROWS]
        both = REFERENCE in summaries and rival in summaries
        lead = summaries[REFERENCE].difference(summaries[rival], split) if both else None
        rows.append([*cells, *results, percent(lead, signed=True)])
    return table(header, rows)


def rates_table(summaries: Summaries) -> str:
    """Returns the search for every row's learning rate: validation results with one seed, the chosen one in bold."""
    rates = sorted({rate for summary in summaries.values() for rate in summary.scores})
    rows = []
    for name, summary in summaries.items():
        cells = [f"{100 * summary.scores[rate][0]:.1f}" if rate in summary.scores else "" for rate in rates]
        cells[rates.index(summary.rate)] = f"**{cells[rates.index(summary.rate)]}**"
        rows.append([ROWS[name].title, *cells])
    return table(["validation, %", *(f"{rate:g}" for rate in rates)], rows)


def at_edge(summary: Summary) -> bool:
    """Tells whether a rate is the lowest or the highest of those tried, so that the best may lie outside."""
    return summary.rate in (min(summary.scores), max(summary.scores))


def warnings(backbones: Mapping[str, Summaries]) -> list[str]:
    """Returns what a reader should know before believing the tables."""
    found = []
    for backbone, summaries in backbones.items():
        counts = {len(summary.runs) for summary in summaries.values()}
        if max(counts) < ENOUGH_SEEDS:
            found.append(f"{backbone}: {max(counts)} seed(s) of each row at most, and it takes {ENOUGH_SEEDS} to tell.")
        if len(evaluated_splits(summaries)) == 1:
            found.append(f"{backbone}: there are no test images. Results are on those that chose the learning rates.")
        for name, summary in summaries.items():
            title = f"{ROWS[name].title} on {backbone}"
            if at_edge(summary):
                found.append(f"{title}: the best learning rate, {summary.rate:g}, is at the edge of those tried.")
            if len(summary.runs) < max(counts):
                found.append(f"{title}: {len(summary.runs)} of {max(counts)} seeds so far.")
    return found


def cost_table(records: Sequence[Record]) -> str:
    """Returns how long all runs took, by row."""
    rows = [
        [row.title, str(len(seconds)), f"{sum(seconds) / 60:.1f}", f"{statistics.fmean(seconds):.0f}"]
        for row in ROWS.values()
        if (seconds := [record["seconds"] for record in records if record["row"] == row.name])
    ]
    total = [record["seconds"] for record in records]
    rows.append(["all", str(len(total)), f"{sum(total) / 60:.1f}", f"{statistics.fmean(total):.0f}"])
    return table(["", "runs", "minutes", "seconds a run"], rows)


def provenance(records: Sequence[Record]) -> str:
    """Returns where the figures come from: each combination of machine, versions and commit once."""
    lines = {}
    for record in records:
        software, hardware = record["software"], record["hardware"]
        versions = ", ".join(f"{name} {software[name]}" for name in ("torch", "transformers", "peft"))
        threads = f", {hardware['num_threads']} thread(s) a run" if "num_threads" in hardware else ""
        commit, changed, _ = (software["commit"] or "unknown").partition("-dirty")
        line = f"- {hardware['device']}{threads}; {versions}; commit `{commit[:12]}{changed}`"
        lines[line] = lines.get(line, 0) + 1
    return "\n".join(f"{line}: {count} runs" for line, count in lines.items())
