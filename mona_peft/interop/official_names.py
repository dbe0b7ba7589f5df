"""The names that the Mona authors' Swin gives its parameters, beside those of a Swin in transformers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain

from torch import nn

MONA_PARAMETERS = {
    "norm.weight": "norm_weight",
    "norm.bias": "norm_bias",
    "gamma": "gamma",
    "gammax": "gammax",
    "project1.weight": "down_weight",
    "project1.bias": "down_bias",
    "adapter_conv.conv1.weight": "dw3_weight",
    "adapter_conv.conv1.bias": "dw3_bias",
    "adapter_conv.conv2.weight": "dw5_weight",
    "adapter_conv.conv2.bias": "dw5_bias",
    "adapter_conv.conv3.weight": "dw7_weight",
    "adapter_conv.conv3.bias": "dw7_bias",
    "adapter_conv.projector.weight": "pw_weight",
    "adapter_conv.projector.bias": "pw_bias",
    "project2.weight": "up_weight",
    "project2.bias": "up_bias",
}
"""Our name of each parameter of a Mona by the authors'."""

MONA_SITES = {"my_module_1": "mona_attn", "my_module_2": "mona_mlp"}
"""Our name of each Mona of a block by the authors'."""

BLOCK = {"norm1": ("layernorm_before",), "norm2": ("layernorm_after",)}
BLOCK_LAYOUTS = (
    BLOCK
    | {
        "attn.qkv": ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
        "attn.proj": ("attention.o_proj",),
        "attn.relative_position_bias_table": ("attention.relative_position_bias.relative_position_bias_table",),
        "mlp.fc1": ("mlp.fc1",),
        "mlp.fc2": ("mlp.fc2",),
    },
    BLOCK
    | {
        "attn.qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
        "attn.proj": ("attention.output.dense",),
        "attn.relative_position_bias_table": ("attention.self.relative_position_bias_table",),
        "mlp.fc1": ("intermediate.dense",),
        "mlp.fc2": ("output.dense",),
    },
)
"""Parts of a block by the authors' names, in the two layouts of transformers; several parts are one behind another."""

SWIN = {
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "patch_embed.norm": "embeddings.norm",
    "absolute_pos_embed": "embeddings.position_embeddings",
    "norm": "layernorm",
}
"""Parts around the blocks by the authors' names, below the module that holds `encoder`."""

BLOCK_NAME = re.compile(r"(?P<swin>.*?)encoder\.(?P<block>layers\.(?P<stage>\d+)\.blocks\.\d+)")
OUTPUT_NORM = re.compile(r".*\bhidden_states_norms\.(?:stage(?P<number>\d+)|(?P<index>\d+))")


def block_names(model: nn.Module, blocks: list[str]) -> dict[str, str]:
    """Return the authors' name of each block by its name in `model`.

    Raises:
        ValueError: If the blocks are not those of one Swin.
    """
    matches = {name: BLOCK_NAME.fullmatch(name) for name in blocks}
    classes = {type(model.get_submodule(name)).__name__ for name in blocks}
    one_swin = all(matches.values()) and len({match["swin"] for match in matches.values()}) == 1
    if not one_swin or any("v2" in name or "Swin" not in name for name in classes):
        raise ValueError(
            f"The authors' checkpoints are for a Swin, and the blocks of this {type(model).__name__} are "
            f"{', '.join(sorted(classes))}, such as {blocks[0]}."
        )
    return {name: match["block"] for name, match in matches.items()}


def mona_names(blocks: dict[str, str], adapter_name: str) -> dict[str, tuple[str, ...]]:
    """Return our name of each Mona parameter by the authors', for blocks as `block_names` returns them."""
    return {
        f"{official}.{their_site}.{theirs}": (f"{ours}.mona.{site}.{adapter_name}.{parameter}",)
        for ours, official in blocks.items()
        for their_site, site in MONA_SITES.items()
        for theirs, parameter in MONA_PARAMETERS.items()
    }


def backbone_names(model: nn.Module, blocks: dict[str, str]) -> dict[str, tuple[str, ...]]:
    """Return our names of each backbone parameter by the authors', for blocks as `block_names` returns them."""
    swin = BLOCK_NAME.fullmatch(next(iter(blocks)))["swin"]
    parts: dict[str, tuple[str, ...]] = {theirs: (f"{swin}{ours}",) for theirs, ours in SWIN.items()}
    for ours, official in blocks.items():
        block = model.get_submodule(ours)
        present = {name for name, _ in [*block.named_modules(), *block.named_parameters()]}
        layout = next(layout for layout in BLOCK_LAYOUTS if present.issuperset(chain(*layout.values())))
        parts |= {f"{official}.{theirs}": tuple(f"{ours}.{part}" for part in group) for theirs, group in layout.items()}
        stage = f"layers.{BLOCK_NAME.fullmatch(ours)['stage']}.downsample"
        parts |= {f"{stage}.{part}": (f"{swin}encoder.{stage}.{part}",) for part in ("norm", "reduction")}
    for name, _ in model.named_modules():
        if match := OUTPUT_NORM.fullmatch(name):
            index = int(match["index"] or int(match["number"]) - 1)
            parts[f"norm{index}"] = (name,)
    return dict(_parameters(model, parts))


def _parameters(model: nn.Module, parts: dict[str, tuple[str, ...]]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Go from modules to their parameters; leave out what this model does not have."""
    parameters = dict(model.named_parameters())
    for theirs, ours in parts.items():
        for suffix in ("", ".weight", ".bias"):
            if f"{ours[0]}{suffix}" in parameters:
                yield f"{theirs}{suffix}", tuple(f"{name}{suffix}" for name in ours)
