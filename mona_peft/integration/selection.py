"""Which blocks of a model a configuration means, and what stands outside its backbone."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers import PreTrainedModel
from transformers.backbone_utils import BackboneMixin

from mona_peft.blocks import (
    KNOWN_BLOCKS,
    anatomy_of,
    check_token_map,
    is_known_block,
    refusals,
    sees_frames,
    stands_in_its_tower,
)
from mona_peft.config import TASK_HEAD, MethodConfig, ResidualAdapterConfig

IDLE_IN_BACKBONES = {"SwinBackbone": ("swin.layernorm",), "MaskFormerSwinBackbone": ("model.layernorm",)}
"""By class of backbone, modules in it whose output nothing uses: a norm in whose place it has its own."""

_EOMT_HEAD = ("query", "upscale_block", "mask_head", "class_predictor")
HEADS_BESIDE_BLOCKS = {"EomtForUniversalSegmentation": _EOMT_HEAD, "EomtDinov3ForUniversalSegmentation": _EOMT_HEAD}
"""By class of model, the modules of its head, where these stand in the same module as embeddings and blocks."""


@dataclass(frozen=True)
class BlockSelection:
    """Names of the blocks that a configuration chooses, and of those that it leaves out by name."""

    chosen: frozenset[str]
    excluded: frozenset[str]


def known_blocks(model: nn.Module) -> list[str]:
    """Return the names of all known blocks of a model, in the order of its modules.

    Raises:
        ValueError: If it has none.
    """
    blocks = [name for name, module in model.named_modules() if is_known_block(module)]
    names = [name for name in blocks if stands_in_its_tower(model, name)]
    if not names:
        refused = refusals(model)
        if refused:
            raise ValueError(
                f"{type(model).__name__} cannot be adapted. "
                + " ".join(f"{class_name}: {reason}." for class_name, reason in refused.items())
            )
        raise ValueError(
            f"No block of {type(model).__name__} can be adapted: none is of a known class. Known are "
            f"{', '.join(sorted(KNOWN_BLOCKS))}. For another backbone, describe its block once with "
            "`mona_peft.register_block('ItsBlockClass', mona_peft.BlockAnatomy(mlp_entry=..., norm=..., "
            "grid_arguments=... or patch_projection=... or layout=...))`."
        )
    return names


def select_blocks(model: nn.Module, config: ResidualAdapterConfig) -> BlockSelection:
    """Find the blocks that `target_modules`, `exclude_modules` and `layers_to_transform` choose.

    Raises:
        ValueError: If a name matches no block, an ordinal is out of range, or no block is left.
    """
    candidates = known_blocks(model)
    chosen = set(candidates) if config.target_modules is None else _match("target_modules", config, candidates)
    excluded = set() if not config.exclude_modules else _match("exclude_modules", config, candidates)
    # A block inside a module that is trained whole needs no adapter; PEFT's tuners skip such modules too.
    excluded |= {name for name in candidates if is_saved_whole(name, config)}
    if config.layers_to_transform is not None:
        chosen &= {candidates[ordinal] for ordinal in _ordinals(config.layers_to_transform, len(candidates))}
    chosen -= excluded
    if not chosen:
        raise ValueError(
            "No block is left to adapt: "
            f"target_modules={config.target_modules!r}, exclude_modules={config.exclude_modules!r}, "
            f"layers_to_transform={config.layers_to_transform!r} and modules_to_save={config.modules_to_save!r} "
            f"leave none of the model's {_listing(candidates)}."
        )
    for name in sorted(chosen):
        check_token_map(model, name)
        if config.needs_frames and not sees_frames(model, name):
            raise ValueError(
                f"{config.needs_frames}: {name} is a {type(model.get_submodule(name)).__name__}, which sees single "
                "images, or images and frames of differing sizes in one sequence. Leave it out. Blocks that see whole "
                "videos are those of VideoMAE and V-JEPA 2."
            )
        config.placement.check(model.get_submodule(name), config.sites)
    sites = {site for name in chosen for site in config.placement.sites_of(anatomy_of(model.get_submodule(name)))}
    if not sites & set(config.sites):
        kinds = sorted({type(model.get_submodule(name)).__name__ for name in chosen})
        advice = f"Give sites={sorted(sites)!r}." if sites else "Choose another method for this model."
        raise ValueError(
            f"sites={config.sites!r}: the chosen blocks ({', '.join(kinds)}) have one residual each, so the sites of "
            f"this method in them are {sites or 'none'}. {advice}"
        )
    return BlockSelection(frozenset(chosen), frozenset(excluded))


def _match(field: str, config: ResidualAdapterConfig, candidates: list[str]) -> set[str]:
    """Match names by PEFT's rules: a string is a regular expression for the whole name, a list holds names' endings."""
    patterns = getattr(config, field)
    if isinstance(patterns, str):
        matched = {name for name in candidates if re.fullmatch(patterns, name)}
        unmatched = [] if matched else [patterns]
    else:
        by_pattern = {
            pattern: {name for name in candidates if name == pattern or name.endswith(f".{pattern}")}
            for pattern in patterns
        }
        matched = set().union(*by_pattern.values())
        unmatched = sorted(pattern for pattern, names in by_pattern.items() if not names)
    if unmatched:
        raise ValueError(
            f"{field}: {unmatched} matches no block. Adapters go into whole blocks; give a list of names or endings of "
            f"names, or a regular expression for the whole name. This model's blocks are {_listing(candidates)}."
        )
    return matched


def _ordinals(layers_to_transform: int | Iterable[int], count: int) -> list[int]:
    ordinals = [layers_to_transform] if isinstance(layers_to_transform, int) else list(layers_to_transform)
    wrong = [ordinal for ordinal in ordinals if not -count <= ordinal < count]
    if wrong:
        raise ValueError(
            f"layers_to_transform={layers_to_transform!r}: {wrong} is out of range. The model has {count} blocks, "
            f"counted from 0 to {count - 1} (or from -1 backwards)."
        )
    return ordinals


def is_saved_whole(name: str, config: MethodConfig) -> bool:
    """Whether a module is, or lies in, one of those that are named by `modules_to_save`."""
    named = [] if config.modules_to_save in (None, TASK_HEAD) else config.modules_to_save
    return any(f".{container}." in f".{name}." for container in named)


def _listing(names: list[str], most: int = 12) -> str:
    shown = names if len(names) <= most else [*names[: most - 2], "...", names[-1]]
    return f"{len(names)} blocks ({', '.join(shown)})"


def backbone_of(model: nn.Module) -> str:
    """Return the name of the backbone: the module that holds all known blocks (`""` if it is the model itself).

    It is the outermost backbone class (with its output norms) around the blocks or, without one, the innermost model
    that embeds its inputs itself (in transformers 5 encoders are model classes too). Models that embed patches anew in
    each stage (SegFormer, PVT, ConvNeXt) tell of no embeddings; there it is the outermost model's base model.
    """
    blocks = known_blocks(model)
    around = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, PreTrainedModel) and all(not name or block.startswith(f"{name}.") for block in blocks)
    ]
    backbones = [name for name, module in around if isinstance(module, BackboneMixin)]
    if backbones:
        return backbones[0]
    models = [name for name, module in around if input_embeddings(module) is not None]
    if models:
        return models[-1]
    return next((name for name, module in around if module is around[0][1].base_model), "")


def backbone_prefix(model: nn.Module) -> str:
    """Return what the names of all parameters and modules in the backbone begin with."""
    backbone = backbone_of(model)
    return f"{backbone}." if backbone else ""


def in_backbone(model: nn.Module) -> Callable[[str], bool]:
    """Return what says of the name of a parameter or module of a model whether it lies in the backbone."""
    backbone = backbone_of(model)
    inside = f"{backbone}." if backbone else ""
    heads = tuple(f"{inside}{head}." for head in _heads_beside_blocks(model.get_submodule(backbone)))
    return lambda name: name.startswith(inside) and not f"{name}.".startswith(heads)


def _heads_beside_blocks(backbone: nn.Module) -> tuple[str, ...]:
    return HEADS_BESIDE_BLOCKS.get(type(backbone).__name__, ())


def idle_modules(model: nn.Module) -> list[str]:
    """Return the names of modules in the backbone of a model whose output nothing uses; nothing in them is trained."""
    return [
        f"{name}.{idle}".lstrip(".")
        for name, module in model.named_modules()
        for idle in IDLE_IN_BACKBONES.get(type(module).__name__, ())
    ]


def input_embeddings(model: PreTrainedModel) -> nn.Module | None:
    """Return the module that embeds the inputs of a model, or None if the model does not tell.

    Its class is asked: an instance may have been made to answer something else, for PEFT's own methods.
    """
    try:
        return type(model).get_input_embeddings(model)
    except NotImplementedError:
        return None


def modules_outside(model: nn.Module, inner: str) -> list[str]:
    """Return the names of the largest modules with parameters that lie outside of the module `inner`.

    Containers (`ModuleList`, `ModuleDict`), which PEFT cannot wrap, are given by their members. So are modules whose
    name is the ending of another's in `inner`, since PEFT takes all modules that end in a name: RT-DETR's
    `model.encoder` would be that of its backbone too, where this is `model.backbone.model.encoder`. And so are those
    whose name is the ending of one inside them all, which would be saved twice: DPT's `head` has a child `head`.
    """
    if not inner:
        return list(_heads_beside_blocks(model))
    inside = [name for name in _stock_names(model) if f"{name}.".startswith(f"{inner}.")]
    return without_nested(model, list(_outside(model, "", inner, inside)))


def without_nested(model: nn.Module, outside: list[str]) -> list[str]:
    """Return names of modules so that none is the ending of one inside them all: those that are, by their members."""
    names, outside = _stock_names(model), list(outside)
    while nested := next(
        ((name, inside) for name in outside for inside in nested_matches([name], outside, names)[:1]), None
    ):
        divided, inside = nested
        # A module without children goes if its weights are those of the one inside. If not, what is around that one is
        # divided: DPT's `head.head.0` is an ending of its `auxiliary_head.head.0`.
        ours, theirs = _module(model, divided), _module(model, inside)
        if not any(ours.children()) and not {*map(id, ours.parameters())} & {*map(id, theirs.parameters())}:
            divided = next(name for name in outside if inside.startswith(f"{name}."))
        index = outside.index(divided)
        outside[index : index + 1] = _outside(model.get_submodule(divided), f"{divided}.", "", ())
    return outside


def _module(model: nn.Module, stock_name: str) -> nn.Module:
    """Return the module that has a name in the model without PEFT's wrappers around trained heads."""
    module = model
    for part in stock_name.split("."):
        module = getattr(module, part)
        module = module.original_module if isinstance(module, ModulesToSaveWrapper) else module
    return module


def _stock_names(model: nn.Module) -> list[str]:
    """Return the names of all modules, as they are without PEFT's wrappers around trained heads."""
    names = (name for name, _ in model.named_modules(remove_duplicate=False) if ".modules_to_save" not in name)
    return [re.sub(r"\.original_module\b", "", name) for name in names]


def nested_matches(endings: Iterable[str], modules: Iterable[str], names: Iterable[str]) -> list[str]:
    """Return the names with one of the endings that lie inside of one of the modules."""
    endings, containers = tuple(endings), tuple(f"{name}." for name in modules)
    return [name for name in names if name.endswith(endings) and name.startswith(containers)]


def _outside(module: nn.Module, prefix: str, inner: str, all_inner: Collection[str]) -> Iterator[str]:
    for child_name, child in module.named_children():
        name = f"{prefix}{child_name}"
        if name == inner or next(child.parameters(), None) is None:
            continue
        is_container = inner.startswith(f"{name}.") or isinstance(child, (nn.ModuleList, nn.ModuleDict))
        if is_container or any(other.endswith(name) for other in all_inner):
            yield from _outside(child, f"{name}.", inner, all_inner)
        else:
            yield name


def parameters_outside(model: nn.Module, inner: str, modules: Iterable[str]) -> list[str]:
    """Return the names of parameters outside of `inner` that lie in none of `modules`: those that PEFT can't save."""
    covered = tuple(f"{name}." for name in [*modules, inner])
    return [name for name, _ in model.named_parameters() if not name.startswith(covered)] if inner else []
