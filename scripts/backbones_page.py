"""Fill docs/backbones.md in: which backbones can be adapted, measured on the rows that the tests run on.

What is measured stands in docs/backbones.json, which `python -m scripts.backbone_costs` writes, and in
docs/backbone_times.json, by `python -m scripts.benchmark families --output docs/backbone_times.json`.

    python -m scripts.backbones_page
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

from mona_peft.blocks import KNOWN_BLOCKS, REFUSED_BLOCKS, Layout
from mona_peft.tasks.models.architectures import ARCHITECTURES, AUTO_CLASSES, PLAIN_BACKBONES
from mona_peft.tasks.models.eomt import EOMT
from mona_peft.tasks.reporting.pages import fill_page, table
from scripts.backbone_costs import COSTS, FAMILIES, MODELS
from scripts.benchmark.provenance import measured_on
from tests.backbones import BACKBONES, Backbone
from tests.composed import COMPOSED

DOCS = Path(__file__).parents[1] / "docs"
PAGE, MARK = DOCS / "backbones.md", "backbones"
TIMES = DOCS / "backbone_times.json"
"""How long a step on each family took."""
LARGER_BATCHES = ("swin_tiny_224.json", "scaling.json", "backbones.json")
"""Records of the benchmark that tell of the time of a step for some backbones more exactly."""

WIDTH = 120
"""Of a line of the page, in characters."""
HEADER = (
    *("family", "block", "size", "blocks", "prefix tokens", "trainable", "share"),
    *("kept / LoRA", "products / LoRA", "time / LoRA", "tasks"),
)
SWIN_TASKS = ("semantic segmentation", "detection", "instances")
DENSE_TASKS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("swin", "swinv2"), SWIN_TASKS),
    "maskformer-swin": ("semantic segmentation", "instances"),
    **dict.fromkeys(PLAIN_BACKBONES, SWIN_TASKS),
    **dict.fromkeys(("segformer", "dpt", "convnext"), ("semantic segmentation",)),
    **dict.fromkeys(EOMT, ("semantic segmentation", "instances")),
    **dict.fromkeys(("rf_detr_dinov2", "lw_detr_vit", "rt_detr_resnet", "hgnet_v2"), ("detection",)),
    **dict.fromkeys(("sam_vision_model", "sam2_hiera_det_model", "sam3_vit_model"), ("masks by prompts",)),
}
"""By type of backbone, tasks whose heads the training commands or the script for SAM take."""
VIDEO = {
    "VideoMAELayer": "the frames of a video, of which none may be dropped",
    "VJEPA2Layer": "the frames of a video; its predictor's blocks stay as they are",
}


def above_lora(families: dict[str, dict[str, Any]]) -> str:
    """Return which families keep more than LoRA does."""
    above = ", ".join(BACKBONES[name].family for name, costs in families.items() if costs["kept"] > 1.01)
    return f"Mona keeps more than 1.01 times what LoRA does in: {above}."


def wrap(text: str) -> str:
    """Return a paragraph in lines of the page's width; names such as swin-tiny stay whole."""
    return fill(text, WIDTH, break_on_hyphens=False)


def measured_times(record: dict[str, Any]) -> str:
    """Return where the times come from, and what is known of larger batches at 224 pixels."""
    settings = record["settings"]
    beside = "; other programs were running" if record["hardware"]["load"] > 1 else ""
    source = (
        f"Times are of processor time, one thread: medians of {settings['rounds']} rounds in turns, one image a step, "
        f"random weights, {measured_on(record)}{beside}. A family whose step with LoRA takes more than "
        f"{settings['limit']:.0f} billion multiplications was too large for that, and has none."
    )
    records = [json.loads((DOCS / "performance" / name).read_text()) for name in LARGER_BATCHES]
    cases = [case for record in records for case in record["cases"].values() if case["image_size"] == 224]
    ratios = {case["size"]: case["methods"]["Mona"]["step"]["ratio"] for case in cases}
    times = ", ".join(f"{ratio:.2f} on {size}" for size, ratio in ratios.items())
    return (
        f"{source} Of larger batches at 224 pixels, with nothing else running ([performance](performance.md)): {times}."
    )


def family_row(row: Backbone, costs: dict[str, Any], times: dict[str, Any] | None) -> list[str]:
    """Return the line of a family, with what it costs beside LoRA."""
    return [
        row.family,
        code(costs["classes"]),
        row.standard[0],
        str(costs["blocks"]),
        " to ".join(map(str, costs["prefix_tokens"])),
        f"{costs['trainable']:,}",
        f"{costs['share']:.1%}",
        f"{costs['kept']:.2f}",
        f"{costs['multiplications']:.2f}",
        "" if times is None else f"{times['Mona']['ratio']:.2f}",
        tasks_of(costs["model_type"]),
    ]


def tasks_of(model_type: str) -> str:
    """Return the tasks whose heads stand on a backbone, by the training commands or the script for SAM."""
    tasks = ["classification"] if model_type in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES else []
    return ", ".join([*tasks, *DENSE_TASKS.get(model_type, ())])


def composed_row(name: str, known: dict[str, Any]) -> list[str]:
    """Return the line of a composed model."""
    return [code([known["model"]]), code([COMPOSED[name].backbone]), code(known["classes"])]


def heads_row(task: str, model_types: dict[str, str]) -> list[str]:
    """Return the line of a task that trains dense models."""
    built = [name for name in model_types if name in ARCHITECTURES or name in EOMT]
    few = len(model_types) < 10  # detectors are many
    loaded = code(model_types) if few else "those of `AutoModelForObjectDetection` whose backbone is above"
    return [task.replace("-", " "), loaded, code(built)]


def code(names: Iterable[str]) -> str:
    """Return names as Markdown's code."""
    return ", ".join(f"`{name}`" for name in names)


def packed_rows() -> list[list[str]]:
    """Return the lines of the blocks whose tokens are those of several maps."""
    packed = {name: anatomy for name, anatomy in KNOWN_BLOCKS.items() if anatomy.sizes_argument is not None}
    rows = {
        name: f"{'one sequence' if anatomy.layout is Layout.NC else 'padded'}, sizes from `{anatomy.sizes_argument}`"
        for name, anatomy in packed.items()
    }
    return [[f"`{name}`", how] for name, how in {**rows, **VIDEO}.items()]


def rows_of(library: str) -> list[list[str]]:
    """Return the lines of the blocks of a library that are known by module and name."""
    return [[code([name.rpartition(".")[2]]), f"`{name}`"] for name in KNOWN_BLOCKS if name.startswith(f"{library}.")]


def words(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table without numbers."""
    return table(header, rows, header)


def parts() -> dict[str, str]:
    """Return what is generated of the page, by name."""
    known, times = json.loads(COSTS.read_text()), json.loads(TIMES.read_text())
    families, composed = known[FAMILIES], known[MODELS]
    return {
        "above": wrap(above_lora(families)),
        "times": wrap(measured_times(times)),
        "families": table(
            HEADER,
            [family_row(row, families[name], times["families"].get(name)) for name, row in BACKBONES.items()],
            words=("block", "size", "tasks"),
        ),
        "timm": words(["block", "known as"], rows_of("timm")),
        "open_clip": words(["block", "known as"], rows_of("open_clip")),
        "heads": words(
            ["task", "`--model`", "`--model_type`, around a Swin or a plain ViT"],
            [heads_row(*item) for item in AUTO_CLASSES.items()],
        ),
        "packed": words(["block", "how its tokens lie"], packed_rows()),
        "composed": words(["model", "backbone", "block"], [composed_row(name, composed[name]) for name in COMPOSED]),
        "refused": words(["block", "why"], [[code([name]), reason] for name, reason in REFUSED_BLOCKS.items()]),
    }


if __name__ == "__main__":
    fill_page(PAGE, MARK, parts())
