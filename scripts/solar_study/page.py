"""Tables and the picture of the study's page, from its records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from mona_peft.tasks.reporting.pages import fill_page, table
from mona_peft.tasks.reporting.plots import save_figure
from scripts.demonstration.solar_cells import load_solar_cells, split
from scripts.solar_study.plan import (
    BY_NAME,
    CELLS,
    LEVELS,
    NUM_EPOCHS,
    REFERENCE,
    ROWS,
    SEEDS,
    SWIN,
    VARIANTS,
    Key,
    Record,
    Row,
    chosen_rate,
    key_of,
    scores_of,
)
from scripts.solar_study.statistics import SIGNIFICANCE, Difference, difference, holm

MARK = "solar study"
EMPHASIS = {"color": "black", "linewidth": 3}
"""How `REFERENCE` is drawn."""

NOTHING = "None has run."
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
    cells = load_solar_cells()
    test = split(cells)[1]
    labels, probabilities = cells.labels[test], cells.probabilities[test]
    chosen = {number: chosen_records(by_key, number, (*ROWS, *VARIANTS)) for number in sorted(NUM_EPOCHS)}
    of_levels = chosen_records(by_key, CELLS, list(LEVELS.values()))
    parts = {
        "variants": variants_table(labels, chosen[CELLS]),
        "orders": orders_table(probabilities, chosen),
        "levels": levels_table(probabilities, chosen[CELLS], of_levels),
        "provenance": provenance(records),
    }
    for number, runs in chosen.items():
        parts[f"results_{number}"] = results_table(runs)
        parts[f"differences_{number}"] = differences_table(differences(labels, runs, [row.name for row in ROWS]))
        parts[f"rates_{number}"] = rates_table(by_key, number, (*ROWS, *VARIANTS))
    swin = list(SWIN.values())
    runs = chosen_records(by_key, CELLS, swin)
    parts["results_swin"] = results_table(runs)
    parts["differences_swin"] = differences_table(differences(labels, runs, list(runs), SWIN[REFERENCE].name))
    parts["rates_swin"] = rates_table(by_key, CELLS, swin)
    fill_page(page, MARK, parts)
    draw(chosen, page.with_suffix(".png"))


def chosen_records(by_key: dict[Key, Record], cells: int, rows: Sequence[Row]) -> Chosen:
    """Returns the records at the chosen rates, of the rows whose rate is chosen with that many training cells."""
    found: Chosen = {}
    for row in rows:
        keys = {seed: (row.name, cells, chosen_rate(row, cells, by_key), seed) for seed in SEEDS}
        runs = {seed: by_key[key] for seed, key in keys.items() if key in by_key}
        if runs:
            found[row.name] = runs
    return found


def differences(
    labels: np.ndarray, chosen: Chosen, names: Sequence[str], reference: str = REFERENCE
) -> dict[str, Difference]:
    """Returns Mona minus each of the named others, over the seeds that both have."""
    found = {}
    for name in names:
        shared = sorted(chosen.get(reference, {}).keys() & chosen.get(name, {}).keys())
        if name != reference and shared:
            mine, its = ([np.array(chosen[row][seed]["test_scores"]) for seed in shared] for row in (reference, name))
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
    return table(header, rows) if rows else NOTHING


def orders_table(probabilities: np.ndarray, chosen: dict[int, Chosen]) -> str:
    """Returns how well scores order the test cells as the experts' four levels do, by the number of training cells."""
    rows = []
    for name, row in BY_NAME.items():
        found = [_orders(runs.get(name, {}), probabilities).values() for runs in chosen.values()]
        cells = [_mean(list(one), 3) if one else "" for one in found]
        if any(cells):
            rows.append([row.title, *cells])
    return table(["Spearman's rank correlation", *(f"{number:,} cells" for number in chosen)], rows)


def levels_table(probabilities: np.ndarray, chosen: Chosen, of_levels: Chosen) -> str:
    """Returns what training on four levels changes, over the seeds that were trained both ways; Mona minus others."""
    header = ("", "seeds", "rank correlation, two classes", "four levels", "AUC, two classes", "AUC, four levels")
    rows = []
    orders = {name: _orders(runs, probabilities) for name, runs in of_levels.items()}
    mine = orders.get(LEVELS[REFERENCE].name, {})
    for name, row in LEVELS.items():
        if its := orders.get(row.name):
            runs = {seed: chosen[name][seed] for seed in its}
            aurocs = (_spread(one, "auc", 1, 3) for one in (runs, of_levels[row.name]))
            both = (_mean(list(one.values()), 3) for one in (_orders(runs, probabilities), its))
            within = [mine[seed] - its[seed] for seed in its if seed in mine and row is not LEVELS[REFERENCE]]
            rows.append([row.title, str(len(its)), *both, *aurocs, _mean(within, 3) if within else ""])
    return table([*header, "Mona minus it, rank correlation, four levels"], rows) if rows else NOTHING


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
    return table(header, rows) if rows else NOTHING


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
    return table(header, rows) if rows else NOTHING


def rates_table(by_key: dict[Key, Record], cells: int, rows_of_table: Sequence[Row]) -> str:
    """Returns the validation AUC of the first seed by rate; the chosen one in bold."""
    searched = {row.name: row for row in rows_of_table if not row.rate_of}
    scores = {name: scores_of(row, cells, by_key) for name, row in searched.items()}
    tried = sorted({rate for found in scores.values() for rate in found})
    rows = []
    for name, found in scores.items():
        best = chosen_rate(BY_NAME[name], cells, by_key)
        texts = {rate: f"**{score:.3f}**" if rate == best else f"{score:.3f}" for rate, (score, _) in found.items()}
        if found:
            rows.append([BY_NAME[name].title, *(texts.get(rate, "") for rate in tried)])
    return table(["validation AUC", *(f"{rate:g}" for rate in tried)], rows) if rows else NOTHING


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


def draw(chosen: dict[int, Chosen], path: Path) -> None:
    """Draws the AUC of every run at its chosen rate, mean AUC by the number of training cells, mean training losses."""
    figure = Figure(figsize=(15, 4.5), layout="constrained")
    results, sizes, losses = figure.subplots(1, 3)
    runs = chosen[CELLS]
    _draw_results(results, runs)
    names = [row.name for row in ROWS if row.name in runs]
    for name in names:
        line = {"label": BY_NAME[name].title, **(EMPHASIS if name == REFERENCE else {"linewidth": 1})}
        means = {number: _mean_auc(one[name]) for number, one in chosen.items() if name in one}
        sizes.plot(list(means), list(means.values()), "o-", markersize=4, **line)
        curve = np.mean([run["loss"] for run in runs[name].values()], axis=0)
        losses.plot(range(1, len(curve) + 1), curve, "o-", markersize=3, **line)
    sizes.set(xlabel="training cells", ylabel="AUC on 656 test cells, mean over seeds", xscale="log")
    numbers = [number for number, one in chosen.items() if one]
    sizes.set_xticks(numbers, [f"{number:,}" for number in numbers])
    sizes.minorticks_off()
    losses.set(xlabel="epoch", ylabel=f"training loss, {CELLS} cells, mean over seeds", yscale="log")
    for axes in (sizes, losses):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    save_figure(figure, path)


def _draw_results(axes: Axes, runs: Chosen) -> None:
    names = sorted(runs, key=lambda name: _mean_auc(runs[name]))
    for place, name in enumerate(names):
        values = [_test(run, "auc") for run in runs[name].values()]
        colour = EMPHASIS["color"] if name == REFERENCE else "tab:blue"
        axes.plot(values, [place] * len(values), "o", alpha=0.5, color=colour)
        axes.plot([fmean(values)], [place], "|", markersize=18, markeredgewidth=2, color=colour)
    axes.set_yticks(range(len(names)), [BY_NAME[name].title for name in names])
    axes.set(xlabel=f"AUC, {CELLS} training cells; a dot a seed")
    axes.grid(axis="x", alpha=0.3)


def _orders(runs: dict[int, Record], probabilities: np.ndarray) -> dict[int, float]:
    """Returns Spearman's rank correlation of scores and the experts' levels, by seed."""
    return {seed: spearmanr(run["test_scores"], probabilities).statistic for seed, run in runs.items()}


def _mean_auc(runs: dict[int, Record]) -> float:
    return fmean(_test(run, "auc") for run in runs.values())


def _test(run: Record, metric: str) -> float:
    return run["results"]["test"][metric]


def _spread(runs: dict[int, Record], metric: str, factor: float, digits: int) -> str:
    return _mean([factor * _test(run, metric) for run in runs.values()], digits)


def _mean(values: Sequence[float], digits: int) -> str:
    mean = f"{fmean(values):.{digits}f}"
    return f"{mean} ± {stdev(values):.{digits}f}" if len(values) > 1 else mean


def _interval(bounds: tuple[float, float] | None) -> str:
    return "one seed" if bounds is None else f"{100 * bounds[0]:+.1f} to {100 * bounds[1]:+.1f}"
