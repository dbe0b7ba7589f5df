"""Makes tables and a plot of the benchmark's records.

    python -m scripts.benchmark.report docs/performance/*.json --page docs/performance.md --plot docs/performance.png

The tables replace what stands between the marks `<!-- benchmark: NAME -->` and `<!-- end -->` in the page.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.figure import Figure

from mona_peft.tasks.reporting.pages import fill_page, table
from mona_peft.tasks.reporting.plots import save_figure
from scripts.benchmark.measure import ratios

Methods = Mapping[str, Mapping[str, Any]]
NOTCHES = ("Mona", "Mona, MLP recomputed", "Mona, branches recomputed", "Mona, checkpointed")
"""Ways to keep less, the least saving first."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes page and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", nargs="+", type=Path)
    parser.add_argument("--page", type=Path, default=Path("docs/performance.md"))
    parser.add_argument("--plot", type=Path, default=Path("docs/performance.png"))
    args = parser.parse_args(arguments)
    records = {path: json.loads(path.read_text(encoding="utf-8")) for path in args.records}
    cases = [case for record in records.values() for case in record["cases"].values()]
    tables = {name: make(cases) for name, make in TABLES.items()} | {"provenance": provenance(records)}
    fill_page(args.page, "benchmark", tables)
    draw(_largest(cases), args.plot)
    curves = _with(cases, "step", NOTCHES)
    if curves:
        draw_curves(curves, args.plot.with_stem(f"{args.plot.stem}_recompute"))


def _title(case: Mapping[str, Any]) -> str:
    compiled = ", compiled" if case.get("compile") else ""
    return f"{case['size']}, {case['image_size']} px, batch size {case['batch_size']}{compiled}"


def _largest(cases: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Returns the case with the most methods whose steps were timed."""
    return max(cases, key=lambda case: sum("step" in method for method in case["methods"].values()))


def _with(cases: Sequence[Mapping[str, Any]], field: str, names: Sequence[str]) -> list[Mapping[str, Any]]:
    """Returns the cases in which `field` was measured of all methods named."""
    return [case for case in cases if all(field in case["methods"].get(name, {}) for name in names)]


def _ratio(values: Mapping[str, float]) -> str:
    return f"{values['ratio']:.2f} ({values['low']:.2f}-{values['high']:.2f})"


def _against(method: Mapping[str, Any], reference: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the ratio of two methods' steps, taken within each round."""
    seconds = {"method": method["step"]["seconds"], "reference": reference["step"]["seconds"]}
    return ratios(seconds, "reference")["method"]


def step_table(cases: Sequence[Mapping[str, Any]]) -> str:
    """Returns time and kept bytes of every method in the largest case."""
    case = _largest(cases)
    methods: Methods = {name: method for name, method in case["methods"].items() if "step" in method}
    lora, norm = (case["methods"].get(name, {}).get("kept_bytes", math.nan) for name in ("LoRA", "norm-tuning"))
    rows = [
        [
            name,
            _ratio(method["step"]),
            f"{method['kept_bytes'] / 1e6:.1f} MB",
            f"{method['kept_bytes'] / lora:.3f}",
            f"{method['kept_bytes'] / norm:.3f}",
        ]
        for name, method in methods.items()
    ]
    header = [_title(case), "step / LoRA (quartiles)", "kept", "kept / LoRA", "kept / norm-tuning"]
    return table(header, rows)


def kept_table(cases: Sequence[Mapping[str, Any]]) -> str:
    """Returns what is kept in every case, each once."""
    names = ["LoRA", "norm-tuning", "Mona"]
    header = ["kept for the backward pass, in MB", *names, "Mona / LoRA", "Mona / norm-tuning"]
    rows = {}
    for case in _with([case for case in cases if not case.get("compile")], "kept_bytes", names):
        lora, norm, mona = (case["methods"][name]["kept_bytes"] for name in names)
        figures = [f"{kept / 1e6:.1f}" for kept in (lora, norm, mona)]
        rows.setdefault(_title(case), [*figures, f"{mona / lora:.3f}", f"{mona / norm:.3f}"])
    return table(header, [[title, *figures] for title, figures in rows.items()])


def inference_table(cases: Sequence[Mapping[str, Any]]) -> str:
    """Returns the time of the blocks at inference."""
    header = ["blocks at inference / bare blocks (quartiles)", "Mona, formula", "Mona, folded"]
    names = ("Mona, formula", "Mona")
    rows = [
        [_title(case), *(_ratio(case["methods"][name]["inference"]) for name in names)]
        for case in _with(cases, "inference", names)
    ]
    return table(header, rows)


def peak_table(cases: Sequence[Mapping[str, Any]]) -> str:
    """Returns peak memory."""
    rows = [
        [_title(case), name, f"{method['peak_bytes'] / 1e6:.0f} MB", f"{method['peak_bytes'] / 2**20:.0f} MiB"]
        for case in _with(cases, "peak_bytes", ["LoRA"])
        for name, method in case["methods"].items()
        if "peak_bytes" in method
    ]
    return table(["", "method", "peak over the model", "in MiB"], rows)


def scaling_table(cases: Sequence[Mapping[str, Any]]) -> str:
    """Returns how Mona compares as the work grows."""
    steps = ["step / LoRA, formula", "step / LoRA", "step / norm-tuning"]
    header = ["", *steps, "kept / LoRA, formula", "kept / LoRA", "kept / norm-tuning"]
    rows = []
    for case in _with(cases, "step", ["norm-tuning", "LoRA", "Mona, formula", "Mona"]):
        methods: Methods = case["methods"]
        kept = {name: method.get("kept_bytes", 0) for name, method in methods.items()}
        rows.append(
            [
                _title(case),
                _ratio(methods["Mona, formula"]["step"]),
                _ratio(methods["Mona"]["step"]),
                _ratio(_against(methods["Mona"], methods["norm-tuning"])),
                f"{kept['Mona, formula'] / kept['LoRA']:.3f}",
                f"{kept['Mona'] / kept['LoRA']:.3f}",
                f"{kept['Mona'] / kept['norm-tuning']:.3f}",
            ]
        )
    return table(header, rows)


def compiled_table(cases: Sequence[Mapping[str, Any]]) -> str:
    """Returns how a compiled Mona compares with a compiled LoRA; where no code was generated, in memory alone."""
    header = ["", "kept / LoRA", "step / LoRA", "first two steps / LoRA's"]
    rows = []
    for case in _with([case for case in cases if case.get("compile")], "kept_bytes", ["LoRA", "Mona"]):
        mona, lora = (case["methods"][name] for name in ("Mona", "LoRA"))
        step = _ratio(mona["step"]) if "step" in mona else "-"
        first = f"{mona['first_seconds'] / lora['first_seconds']:.2f}" if "first_seconds" in mona else "-"
        rows.append([_title(case), f"{mona['kept_bytes'] / lora['kept_bytes']:.3f}", step, first])
    return table(header, rows)


def attach_table(cases: Sequence[Mapping[str, Any]]) -> str:
    """Returns how long it takes to attach and to load an adapter."""
    header = ["", "get_peft_model / LoRA's (quartiles)", "seconds", "from_pretrained / LoRA's (quartiles)", "seconds"]
    rows = []
    for case in _with(cases, "load", ["LoRA", "Mona"]):
        ways = [case["methods"]["Mona"][way] for way in ("attach", "load")]
        rows.append([_title(case), *(v for way in ways for v in (_ratio(way), f"{median(way['seconds']):.2f}"))])
    return table(header, rows)


def recompute_table(cases: Sequence[Mapping[str, Any]]) -> str:
    """Returns what less memory costs, by each way."""
    rows = []
    for case in _with(cases, "step", NOTCHES):
        methods: Methods = {name: case["methods"][name] for name in NOTCHES}
        for name, method in methods.items():
            share = method["kept_bytes"] / methods["Mona"]["kept_bytes"]
            figures = (
                f"{method['kept_bytes'] / 1e6:.1f} MB",
                f"{share:.3f}",
                _ratio(_against(method, methods["Mona"])),
                # Records of before are without.
                f"{method['multiplications'] / methods['Mona']['multiplications']:.2f}"
                if "multiplications" in method
                else "-",
            )
            rows.append([_title(case), name, *figures])
    header = ["", "method", "kept", "kept / Mona", "step / Mona (quartiles)", "multiplications / Mona"]
    return table(header, rows)


TABLES = {
    "step": step_table,
    "kept": kept_table,
    "compiled": compiled_table,
    "inference": inference_table,
    "peak": peak_table,
    "scaling": scaling_table,
    "attach": attach_table,
    "recompute": recompute_table,
}


def provenance(records: Mapping[Path, Mapping[str, Any]]) -> str:
    """Returns where the figures come from, a line a record."""
    lines = []
    for path, record in records.items():
        settings, software, hardware = record["settings"], record["software"], record["hardware"]
        versions = ", ".join(f"{name} {software[name]}" for name in ("torch", "transformers", "peft"))
        device = hardware["device"] + (f", {settings['threads']} thread" if settings["device"] == "cpu" else "")
        lines.append(
            f"- `{path.name}`: {device}, {settings['autocast'] or settings['dtype']}, {settings['attention']} "
            f"attention, {settings['rounds']} rounds after {settings['warmup']} of warm-up, seed {settings['seed']}; "
            f"{versions}, commit `{(software['commit'] or 'unknown')[:12]}`"
        )
    return "\n".join(lines)


def draw(case: Mapping[str, Any], path: Path) -> None:
    """Draws kept bytes and step time of every method of a case, relative to LoRA."""
    methods: Methods = {name: method for name, method in case["methods"].items() if "step" in method}
    names = list(methods)
    colours = ["C3" if name.startswith("Mona") else "C0" for name in names]
    kept = [method["kept_bytes"] / methods["LoRA"]["kept_bytes"] for method in methods.values()]
    steps = [method["step"] for method in methods.values()]
    spread = [[s["ratio"] - s["low"] for s in steps], [s["high"] - s["ratio"] for s in steps]]
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    figure.suptitle(_title(case))
    kept_axes, step_axes = figure.subplots(1, 2, sharey=True)
    bars = kept_axes.barh(names, kept, color=colours)
    kept_axes.bar_label(bars, fmt="%.2f", padding=3)
    step_axes.barh(names, [s["ratio"] for s in steps], xerr=spread, color=colours, capsize=3)
    for number, step in enumerate(steps):
        step_axes.text(step["high"] + 0.03, number, f"{step['ratio']:.2f}", va="center")
    for axes, label in ((kept_axes, "kept for the backward pass / LoRA"), (step_axes, "time of a step / LoRA")):
        axes.axvline(1, color="grey", linewidth=0.8, linestyle=":")
        axes.set(xlabel=label)
        axes.margins(x=0.15)
    kept_axes.invert_yaxis()
    save_figure(figure, path)


def draw_curves(cases: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draws kept bytes and step time of each way to keep less, a curve a case."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for case in cases:
        methods: Methods = case["methods"]
        mona = methods["Mona"]
        kept = [methods[name]["kept_bytes"] / mona["kept_bytes"] for name in NOTCHES]
        steps = [_against(methods[name], mona)["ratio"] for name in NOTCHES]
        axes.plot(kept, steps, marker="o", label=_title(case))
        for name, x, y in zip(NOTCHES, kept, steps, strict=True):
            axes.annotate(name.removeprefix("Mona, "), (x, y), textcoords="offset points", xytext=(5, 5))
    axes.set(xlabel="kept for the backward pass / Mona", ylabel="time of a step / Mona")
    axes.margins(x=0.2, y=0.1)
    axes.legend()
    save_figure(figure, path)


if __name__ == "__main__":
    main()
