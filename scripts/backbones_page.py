"""Write docs/backbones.md: which backbones can be adapted, measured on the rows that the tests run on.

What is measured stands in docs/backbones.json, which `python -m scripts.backbone_costs` writes, and in
docs/backbone_times.json, by `python -m scripts.benchmark families --output docs/backbone_times.json`.

    python -m scripts.backbones_page
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from textwrap import fill
from typing import Any

from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

from mona_peft.blocks import KNOWN_BLOCKS, REFUSED_BLOCKS, Layout
from mona_peft.tasks.models.architectures import ARCHITECTURES, AUTO_CLASSES, EOMT, PLAIN_BACKBONES
from scripts.backbone_costs import COSTS, FAMILIES, MODELS, RANK
from scripts.benchmark.provenance import measured_on
from tests.backbones import BACKBONES, Backbone
from tests.composed import COMPOSED

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "backbones.md"
TIMES = DOCS / "backbone_times.json"
"""How long a step on each family took."""
LARGER_BATCHES = ("swin_tiny_224.json", "scaling.json", "backbones.json")
"""Records of the benchmark that tell of the time of a step for some backbones more exactly."""

BESIDE_LORA = ("kept / LoRA", "products / LoRA", "time / LoRA")
WIDTH = 120
"""Of a line of the page, in characters."""

INTRODUCTION = """# Backbones

`MonaConfig()` finds the blocks of every backbone below by itself and adapts them all. This page is written by
`python -m scripts.backbones_page` from the rows that the tests run on.

## Families

Blocks, prefix tokens and trainable share are those of the size named, with `MonaConfig()` and without a head. Prefix
tokens (class token, registers, queries) have no place in the grid of an image: they take Mona's linear path and skip
its convolutions. Where blocks differ, the number is given as a range.

*kept / LoRA* is what the forward pass keeps in memory for the backward pass, beside LoRA of rank {rank}, for one image
of the model's own size; it is exact. LoRA is on query and value, or `qkv`, and in blocks without attention on all
linear layers and all convolutions that are not grouped. Mona keeps two maps as wide as its bottleneck, whatever the
width of the block, which tells most where the first stages are as narrow as that (SegFormer, PVT): a `bottleneck_dim`
below 64 suits them. *tasks*: those with a head by `mona-peft train`, or
[by prompts](tasks/promptable_segmentation.md).

{above}

*products / LoRA* compares the multiplications of forward and backward pass, *time / LoRA* how long both took, measured.
The former tell of the latter only roughly: Mona moves more memory besides, and where a step is short (a third of a
second on Swin-T or a ViT-B/32) it counts that it has more operations to start. Larger batches spread that.

{times}

"""
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

NOTES = """
- ConvNeXt blocks have one residual, so there is one Mona a block, at the site `"mlp"`. So have the blocks of plain
  convolutional nets (ResNet, RegNet, HGNetV2): Mona follows the residual stream after each block, behind its
  activation. The paper's placement, one Mona behind attention and one behind the MLP, has no counterpart there.
- RF-DETR and LW-DETR split an image into windows that are samples of their own. Mona's filters see the whole image and
  reach across windows: tokens are put in order in the bottleneck alone. Stock RF-DETR takes square images.
- The first blocks of the stages of SAM 2's Hiera pool their maps; both Monas work on what is left.
- In the first block of a stage, Hiera pools its tokens; both Monas work on what is left. Its tokens lie in mask units,
  and Mona's filters see them row by row.
- Layer scale and stochastic depth do not touch Mona, in any family.
- Blocks that are given tokens alone (ViT and its relatives) take the grid of the image that went through the patch
  projection in the same call of the model. Where the sizes of several images may be meant, an error says so.
- EoMT's queries enter in its last blocks; they are prefix tokens there. They belong to its head, which stands in the
  same module as its blocks.
- Gradient checkpointing of both kinds is exact wherever transformers has it. Of PVT v2 the reentrant kind loses the
  gradients of the stock model already. Hiera recomputes whole stages: images of several sizes in one backward pass
  are refused with an error.
"""
TIMM = """
## timm

The same blocks through `timm.create_model` (with `get_peft_model`, or PEFT's `inject_adapter_in_model`) and through
transformers' `TimmWrapper` classes. A timm model holds its head itself: `modules_to_save=["head"]` trains it. timm
recomputes blocks by its own means (`set_grad_checkpointing`): there, ViT-like models take images of one size a backward
pass, and refuse several with an error.

| block | known as |
| --- | --- |
"""
OPEN_CLIP = """
## open_clip

The vision towers that open_clip builds itself (`VisionTransformer`, from 2.26 on, and `ModifiedResNet`), alone or in a
whole CLIP or CoCa; its text tower, of the same class as the former, is left alone. Towers of timm are [timm's](#timm).
Adapters need whole maps, so build the model with `patch_dropout=0`. Put a classifier behind the tower and name it:

```python
import open_clip
from collections import OrderedDict
from mona_peft import MonaConfig
from peft import get_peft_model
from torch import nn

clip = open_clip.create_model("ViT-B-16")  # pretrained="..." loads weights
model = nn.Sequential(OrderedDict(tower=clip.visual, classifier=nn.Linear(clip.visual.output_dim, 10)))
model = get_peft_model(model, MonaConfig(modules_to_save=["classifier"]))
```

| block | known as |
| --- | --- |
"""
HEADS = """
## Heads of the training commands

`--model` takes a pre-trained model of these types, with whichever of the backbones above it has; `--backbone` beside
`--model_type` builds a new one around a pre-trained Swin, SwinV2, DINOv2 or DINOv3 ViT. A plain ViT (DINOv2, DINOv3)
keeps one stride. `linear_segmenter` takes the tokens of its last block (a batch norm and a linear layer on them, as
DINOv2's paper measures features), `dpt` those of four blocks (DPT's neck and head); all others are given the simple
feature pyramid of [ViTDet](https://arxiv.org/abs/2203.16527), four maps made of that one, which is trained with the
head. EoMT's blocks are its own: it is loaded whole. It, and a DPT that is loaded with a ViT of its own, take square
images alone: `--eval_mode slide` lets them see others in windows. RF-DETR's image processor wants torchvision.

| task | `--model` | `--model_type`, around a Swin or a plain ViT |
| --- | --- | --- |
"""
PACKED = """
## Images as they are, and videos

Adapters see each image, and each frame of a video, by itself: the same as running one after the other. Images of
differing sizes may lie in one sequence, windows and merged patches included, or be padded (NaFlex, SmolVLM).

For VideoMAE and V-JEPA 2, whose blocks see whole videos, `MonaConfig(temporal_kernel_size=3)` adds a depthwise filter
over time in front of those of each frame. It is zero at the start, and not of the paper. Other blocks refuse it.

`torch.compile` takes a model of videos as one graph. Towers with images in one sequence it breaks into several, as it
does without adapters.

| block | how its tokens lie |
| --- | --- |
"""
VIDEO = {
    "VideoMAELayer": "the frames of a video, of which none may be dropped",
    "VJEPA2Layer": "the frames of a video; its predictor's blocks stay as they are",
}
COMPOSITION = """
## Composed models

The default adapts the blocks of the vision backbone and nothing else; `modules_to_save="task-head"` is all outside it.
Text towers that share a block's class with a vision tower (CLIP, SigLIP, OWL-ViT and others) are left alone, those of a
block that you register too: their configuration tells of a vocabulary and of no image.

| model | backbone | block |
| --- | --- | --- |
"""
REFUSAL = """
## Refused

| block | why |
| --- | --- |
"""
OWN = """
## Another backbone

A block that is not listed, but is a plain residual block, is described once, in the program that attaches or loads the
adapter. Every name is checked when an adapter is attached, before anything is changed:

```python
from mona_peft import BlockAnatomy, register_block

# out = h + mlp(norm2(h)), h = x + attention(norm1(x)); the block is told nothing of the grid
register_block("MyLayer", BlockAnatomy(mlp_entry="norm2", norm="norm1", patch_projection="patch_embed.proj"))
```

The grid comes from `patch_projection` (a convolution in front of the blocks), from `grid_arguments` (arguments of the
block's `forward`, such as `("height", "width")`), or from the block's input itself where that is a map
(`layout="BHWC"` or `"BCHW"`). Prefix tokens must come first. For images of differing sizes, `sizes_argument` names the
argument, of a module around the blocks, that holds their sizes.
"""


def introduction(families: dict[str, dict[str, Any]], times: dict[str, Any]) -> str:
    """Return the first paragraphs, with what of their figures follows from the records."""
    above = ", ".join(BACKBONES[name].family for name, costs in families.items() if costs["kept"] > 1.01)
    above = f"Mona keeps more than 1.01 times what LoRA does in: {above}."
    return INTRODUCTION.format(rank=RANK, above=wrap(above), times=wrap(measured_times(times)))


def wrap(text: str) -> str:
    """Return a paragraph in lines of the page's width; names such as swin-tiny stay whole."""
    return fill(text, WIDTH, break_on_hyphens=False)


def measured_times(record: dict[str, Any]) -> str:
    """Return where the times come from, and what is known of larger batches at 224 pixels."""
    settings = record["settings"]
    source = (
        f"Times are of processor time, one thread: medians of {settings['rounds']} rounds in turns, one image a step, "
        f"random weights, {measured_on(record)}; other programs were running. A family whose step with LoRA takes more "
        f"than {settings['limit']:.0f} billion multiplications was too large for that, and has none."
    )
    records = [json.loads((DOCS / "performance" / name).read_text()) for name in LARGER_BATCHES]
    cases = [case for record in records for case in record["cases"].values() if case["image_size"] == 224]
    ratios = {case["size"]: case["methods"]["Mona"]["step"]["ratio"] for case in cases}
    times = ", ".join(f"{ratio:.2f} on {size}" for size, ratio in ratios.items())
    return (
        f"{source} Of larger batches at 224 pixels, with nothing else running ([performance](performance.md)): {times}."
    )


def family_row(row: Backbone, costs: dict[str, Any], times: dict[str, Any] | None) -> str:
    """Return the line of a family, with what it costs beside LoRA."""
    cells = [
        row.family,
        code(costs["classes"]),
        row.standard[0],
        costs["blocks"],
        " to ".join(map(str, costs["prefix_tokens"])),
        f"{costs['trainable']:,}",
        f"{costs['share']:.1%}",
        f"{costs['kept']:.2f}",
        f"{costs['multiplications']:.2f}",
        "" if times is None else f"{times['Mona']['ratio']:.2f}",
        tasks_of(costs["model_type"]),
    ]
    return f"| {' | '.join(map(str, cells))} |"


def tasks_of(model_type: str) -> str:
    """Return the tasks whose heads stand on a backbone, by the training commands or the script for SAM."""
    tasks = ["classification"] if model_type in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES else []
    return ", ".join([*tasks, *DENSE_TASKS.get(model_type, ())])


def composed_row(name: str, known: dict[str, Any]) -> str:
    """Return the line of a composed model."""
    return f"| `{known['model']}` | `{COMPOSED[name].backbone}` | {code(known['classes'])} |"


def heads_row(task: str, model_types: dict[str, str]) -> str:
    """Return the line of a task that trains dense models."""
    built = [name for name in model_types if name in ARCHITECTURES]
    few = len(model_types) < 10  # detectors are many
    loaded = code(model_types) if few else "those of `AutoModelForObjectDetection` whose backbone is above"
    return f"| {task.replace('-', ' ')} | {loaded} | {code(built)} |"


def code(names: Iterable[str]) -> str:
    """Return names as Markdown's code."""
    return ", ".join(f"`{name}`" for name in names)


def packed_rows() -> list[str]:
    """Return the lines of the blocks whose tokens are those of several maps."""
    packed = {name: anatomy for name, anatomy in KNOWN_BLOCKS.items() if anatomy.sizes_argument is not None}
    rows = {
        name: f"{'one sequence' if anatomy.layout is Layout.NC else 'padded'}, sizes from `{anatomy.sizes_argument}`"
        for name, anatomy in packed.items()
    }
    return [f"| `{name}` | {how} |" for name, how in {**rows, **VIDEO}.items()]


def rows_of(library: str) -> list[str]:
    """Return the lines of the blocks of a library that are known by module and name."""
    return [f"| `{name.rpartition('.')[2]}` | `{name}` |" for name in KNOWN_BLOCKS if name.startswith(f"{library}.")]


def page() -> str:
    """Return the text of the page."""
    known = json.loads(COSTS.read_text())
    families, composed = known[FAMILIES], known[MODELS]
    record = json.loads(TIMES.read_text())
    header = ["family", "block", "size", "blocks", "prefix tokens", "trainable", "share", *BESIDE_LORA, "tasks"]
    lines = [
        f"| {' | '.join(header)} |",
        f"| --- | --- | --- | {'---: | ' * (len(header) - 4)}--- |",
        *(family_row(row, families[name], record["families"].get(name)) for name, row in BACKBONES.items()),
    ]
    refused = [f"| `{name}` | {reason} |" for name, reason in REFUSED_BLOCKS.items()]
    return "".join(
        [
            introduction(families, record),
            "\n".join(lines),
            "\n",
            NOTES,
            TIMM,
            "\n".join(rows_of("timm")),
            "\n",
            OPEN_CLIP,
            "\n".join(rows_of("open_clip")),
            "\n",
            HEADS,
            "\n".join(heads_row(*item) for item in AUTO_CLASSES.items()),
            "\n",
            PACKED,
            "\n".join(packed_rows()),
            "\n",
            COMPOSITION,
            "\n".join(composed_row(name, composed[name]) for name in COMPOSED),
            "\n",
            REFUSAL,
            "\n".join(refused),
            "\n",
            OWN,
        ]
    )


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page())
