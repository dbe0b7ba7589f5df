"""Tables and the picture of the study's page, from its records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
from matplotlib.figure import Figure

from mona_peft.tasks.reporting.pages import fill_page, table
from mona_peft.tasks.reporting.plots import save_figure
from scripts.demonstration.solar_cells import load_solar_cells, split
from scripts.solar_study.plan import (
    BY_NAME,
    REFERENCE,
    ROWS,
    SEEDS,
    SPLIT_SEED,
    VARIANTS,
    Record,
    chosen_rate,
    key_of,
    rates_of,
    scores_of,
)
from scripts.solar_study.statistics import SIGNIFICANCE, Difference, difference, holm

MARK = "solar study"
Chosen = dict[str, dict[int, Record]]
"""By row and seed, the record at the row's chosen rate."""


def report(records: Sequence[Record], page: Path) -> None:
    """Fills the marked parts of the page, and draws its picture.

    Raises:
        ValueError: There are no records.
    """
    if not records:
        raise ValueError("There are no records. `python -m scripts.solar_study run` makes them.")
    by_key = {key_of(record): record for record in records}
    chosen = chosen_records(by_key)
    cells = load_solar_cells()
    labels = cells.labels[split(cells, SPLIT_SEED)[1]]
    parts = {
        "results": results_table(chosen),
        "differences": differences_table(differences(labels, chosen, [row.name for row in ROWS])),
        "variants": variants_table(labels, chosen),
        "rates": rates_table(by_key),
        "provenance": provenance(records),
    }
    fill_page(page, MARK, parts)
    draw(chosen, page.with_suffix(".png"))


def chosen_records(by_key: dict[tuple, Record]) -> Chosen:
    """Returns the records at the chosen rates, of the rows whose rate is chosen."""
    found: Chosen = {}
    for name, row in BY_NAME.items():
        rate = chosen_rate(row, by_key)
        runs = {seed: by_key[name, rate, seed] for seed in SEEDS if (name, rate, seed) in by_key}
        if runs:
            found[name] = runs
    return found


def differences(labels: np.ndarray, chosen: Chosen, names: Sequence[str]) -> dict[str, Difference]:
    """Returns Mona minus each of the named others, over the seeds that both have."""
    found = {}
    for name in names:
        shared = sorted(chosen.get(REFERENCE, {}).keys() & chosen.get(name, {}).keys())
        if name != REFERENCE and shared:
            mine, its = ([np.array(chosen[row][seed]["test_scores"]) for seed in shared] for row in (REFERENCE, name))
            found[name] = difference(labels, mine, its)
    return found


def results_table(chosen: Chosen) -> str:
    """Returns what each row reaches on the test cells."""
    header = ("", "trained parameters", "rate", "seeds", "AUC", "balanced accuracy, %", "accuracy, %", "CPU s a run")
    rows = []
    for name, runs in chosen.items():
        first = next(iter(runs.values()))
        rows.append(
            [
                *(BY_NAME[name].title, f"{first['parameters']['trainable']:,}", f"{first['learning_rate']:g}"),
                *(str(len(runs)), _spread(runs, "auc", 1, 3), _spread(runs, "balanced_accuracy", 100, 1)),
                *(_spread(runs, "accuracy", 100, 1), f"{fmean(run['cpu_seconds'] for run in runs.values()):.0f}"),
            ]
        )
    return table(header, rows)


def differences_table(found: dict[str, Difference]) -> str:
    """Returns Mona minus each other method, in hundredths of AUC, with both intervals and the verdict."""
    header = ("Mona minus", "AUC, points", "95 %, seeds", "95 %, cells", "ahead in", "p, Holm", "")
    corrected = holm({name: found[name].p_value for name in found})
    rows = []
    for name, one in found.items():
        verdict = "undecided"
        if corrected[name] < SIGNIFICANCE:
            verdict = "ahead" if one.mean > 0 else "behind"
        rows.append(
            [
                *(BY_NAME[name].title, f"{100 * one.mean:+.1f}", _interval(one.seeds), _interval(one.cells)),
                *(f"{one.ahead} of {one.count}", f"{corrected[name]:.3f}", verdict),
            ]
        )
    return table(header, rows)


def variants_table(labels: np.ndarray, chosen: Chosen) -> str:
    """Returns Mona minus what was run besides the plan's methods; nothing is decided by it."""
    header = ("Mona minus", "AUC, points", "95 %, seeds", "95 %, cells", "ahead in")
    found = differences(labels, chosen, [row.name for row in VARIANTS])
    rows = [
        [
            *(BY_NAME[name].title, f"{100 * one.mean:+.1f}", _interval(one.seeds), _interval(one.cells)),
            f"{one.ahead} of {one.count}",
        ]
        for name, one in found.items()
    ]
    return table(header, rows) if rows else "None has run."


def rates_table(by_key: dict[tuple, Record]) -> str:
    """Returns the validation AUC of the first seed by rate; the chosen one in bold."""
    tried = sorted({key[1] for key in by_key})
    rows = []
    for row in BY_NAME.values():
        scores, best = scores_of(row, by_key), chosen_rate(row, by_key)
        cells = []
        for rate in tried:
            text = f"{scores[rate][0]:.3f}" if rate in scores and rate in rates_of(row) else ""
            cells.append(f"**{text}**" if rate == best and text else text)
        if scores:
            rows.append([row.title, *cells])
    return table(["validation AUC", *(f"{rate:g}" for rate in tried)], rows)


def provenance(records: Sequence[Record]) -> str:
    """Returns where the records come from, and what they cost."""
    places = Counter(
        f"{run['hardware']['device']}, {run['hardware'].get('num_threads', 1)} thread; "
        + ", ".join(f"{name} {run['software'][name]}" for name in ("torch", "transformers", "peft"))
        + f"; commit `{(run['software']['commit'] or 'unknown')[:12]}`"
        for run in records
    )
    lines = [f"- {place}: {count} runs" for place, count in places.items()]
    minutes = sum(run["cpu_seconds"] for run in records) / 60
    return "\n".join([*lines, f"- {minutes:.0f} minutes of one processor in training"])


def draw(chosen: Chosen, path: Path) -> None:
    """Draws the AUC of every run at its chosen rate, and mean training losses."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    results, losses = figure.subplots(1, 2)
    names = sorted(chosen, key=lambda name: fmean(_test(run, "auc") for run in chosen[name].values()))
    for place, name in enumerate(names):
        values = [_test(run, "auc") for run in chosen[name].values()]
        colour = "tab:red" if name == REFERENCE else "tab:blue"
        results.plot(values, [place] * len(values), "o", alpha=0.5, color=colour)
        results.plot([fmean(values)], [place], "|", markersize=18, markeredgewidth=2, color=colour)
        curve = np.mean([run["loss"] for run in chosen[name].values()], axis=0)
        losses.plot(range(1, len(curve) + 1), curve, "o-", markersize=3, label=BY_NAME[name].title)
    results.set_yticks(range(len(names)), [BY_NAME[name].title for name in names])
    results.set(xlabel="AUC on 656 test cells; a dot a seed, a bar the mean")
    results.grid(axis="x", alpha=0.3)
    losses.set(xlabel="epoch", ylabel="training loss, mean over seeds")
    losses.grid(alpha=0.3)
    losses.legend(fontsize=7)
    save_figure(figure, path)


def _test(run: Record, metric: str) -> float:
    return run["results"]["test"][metric]


def _spread(runs: dict[int, Record], metric: str, factor: float, digits: int) -> str:
    values = [factor * _test(run, metric) for run in runs.values()]
    mean = f"{fmean(values):.{digits}f}"
    return f"{mean} ± {stdev(values):.{digits}f}" if len(values) > 1 else mean


def _interval(bounds: tuple[float, float] | None) -> str:
    return "one seed" if bounds is None else f"{100 * bounds[0]:+.1f} to {100 * bounds[1]:+.1f}"
