"""Look-up of blocks: whether one is known, its anatomy, why one is refused; and how users add their own."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

from torch import nn

from mona_peft.blocks.anatomy import ATTENTION, MLP, BlockAnatomy
from mona_peft.blocks.families import KNOWN_BLOCKS, REFUSED_BLOCKS

_BUILT_IN = dict(KNOWN_BLOCKS)


def register_block(class_name: str, anatomy: BlockAnatomy) -> None:
    """Make the blocks of a further backbone known.

    Args:
        class_name: Name of the block's class, or its module and name (`"timm.models.eva.EvaBlock"`).
        anatomy: Its anatomy; checked against each block when an adapter is attached.
    """
    KNOWN_BLOCKS[class_name] = anatomy


def _row(block: nn.Module) -> str | None:
    """Return the key of the row for `block`; subclasses of a known block are known too."""
    return next((name for name in _names_of(type(block)) if name in KNOWN_BLOCKS), None)


@cache
def _names_of(block_class: type[nn.Module]) -> tuple[str, ...]:
    return tuple(name for cls in block_class.__mro__ for name in (f"{cls.__module__}.{cls.__qualname__}", cls.__name__))


def _runs_known_forward(block: nn.Module, class_name: str) -> bool:
    """Whether the `forward` of a block is that of the class which the row `class_name` was written for.

    A subclass, and another library's class of the same name, may skip a branch or use a sum once more.
    """
    known = next(
        cls for cls in type(block).__mro__ if class_name in (cls.__name__, f"{cls.__module__}.{cls.__qualname__}")
    )
    if KNOWN_BLOCKS[class_name] is _BUILT_IN.get(class_name) and not known.__module__.startswith("transformers."):
        return False
    # transformers wraps `forward` anew in each subclass of a block.
    return inspect.unwrap(type(block).forward) is inspect.unwrap(known.forward)


def is_known_block(module: nn.Module) -> bool:
    """Whether `module` is a block whose anatomy is known and that sees images: no text tower's, no predictor's.

    Of a block whose anatomy names a tower, the modules around it tell: `stands_in_its_tower`.
    """
    return _row(module) is not None and not _reads_text(module) and not _predicts(module)


def stands_in_its_tower(model: nn.Module, name: str) -> bool:
    """Whether the known block called `name` stands in a tower of the class that its anatomy names, if it names one."""
    tower = KNOWN_BLOCKS[_row(model.get_submodule(name))].tower
    return tower is None or any(type(module).__name__ == tower for _, module in modules_around(model, name))


def modules_around(model: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules around the module called `name`, with their names, from the inside out."""
    parts = name.split(".") if name else []
    for length in reversed(range(len(parts))):
        around = ".".join(parts[:length])
        yield around, model.get_submodule(around)


def modules_beside_blocks(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules in a module, with their names behind `prefix`, but for those inside of known blocks.

    A model has some ten times as many modules as blocks, and who looks around each block looks at all of them.
    """
    for name, child in module.named_children():
        yield f"{prefix}{name}", child
        if _row(child) is None:
            yield from modules_beside_blocks(child, f"{prefix}{name}.")


def _reads_text(block: nn.Module) -> bool:
    """Whether a block belongs to a text tower: its configuration tells of a vocabulary, and of no image.

    In CLIP, OWL-ViT and others the text tower is made of the same class as that for images.
    """
    configs = (getattr(module, "config", None) for module in block.modules())
    return any(hasattr(config, "vocab_size") and not hasattr(config, "image_size") for config in configs)


def _predicts(block: nn.Module) -> bool:
    """Whether a block is one of V-JEPA 2's predictor: its tokens are chosen and sorted, and lie in no grid."""
    config = getattr(block, "config", None)
    return hasattr(config, "pred_hidden_size") and block.hidden_size != config.hidden_size


def refusals(model: nn.Module) -> dict[str, str]:
    """Return, by class name, why blocks of `model` cannot be adapted."""
    names = {type(module).__name__ for module in model.modules()}
    return {name: reason for name, reason in REFUSED_BLOCKS.items() if name in names}


def anatomy_of(block: nn.Module) -> BlockAnatomy:
    """Return the anatomy of a known block, checked against this very block.

    What depends on the block is settled: `post_norm_flag` has chosen `mlp_entry`, `mlp_exit` is there or None.

    Raises:
        ValueError: If a submodule that the anatomy names does not exist.
    """
    class_name = _row(block)
    anatomy = KNOWN_BLOCKS[class_name]
    if anatomy.fresh_sums and not _runs_known_forward(block, class_name):
        anatomy = replace(anatomy, fresh_sums=False)
    if anatomy.post_norm_flag is not None and getattr(block, anatomy.post_norm_flag):
        anatomy = replace(anatomy, mlp_entry=anatomy.post_norm_mlp_entry)
    if anatomy.mlp_exit is not None and not hasattr(block, anatomy.mlp_exit):
        anatomy = replace(anatomy, mlp_exit=None)
    for field in ("mlp_entry", "norm"):
        name = getattr(anatomy, field)
        if name is not None and _submodule(block, name) is None:
            children = [child for child, _ in block.named_children()]
            raise ValueError(
                f"The anatomy of {class_name} says {field}={name!r}, but this block has no such submodule. It has "
                f"{children}. Register the right one: `mona_peft.register_block({class_name!r}, BlockAnatomy(...))`."
            )
    return anatomy


def check_branch(block: nn.Module, site: str) -> None:
    """Check that the branch of a site of a known block is known too, so that it can be recomputed.

    Raises:
        ValueError: If it is not, or names a submodule that does not exist.
    """
    anatomy = anatomy_of(block)
    field = {ATTENTION: "attention_path", MLP: "mlp_branch"}[site]
    names = getattr(anatomy, field)
    missing = [name for name in names if _submodule(block, name) is None]
    if missing or not names:
        raise ValueError(
            f"recompute_{site}=True: the anatomy of {type(block).__name__} says {field}={names!r}, which "
            f"{f'this block lacks {missing} of' if missing else 'names nothing'}. Leave recompute_{site} out, or "
            "register the block with the names of the submodules of this branch: "
            f"`mona_peft.register_block(..., BlockAnatomy({field}=(...)))`."
        )


def norm_of(block: nn.Module) -> nn.Module:
    """Return the norm of a known block that tells its width, device and type."""
    return block.get_submodule(anatomy_of(block).norm)


def width_of(block: nn.Module) -> int:
    """Return the number of channels C of a known block."""
    return norm_of(block).weight.shape[0]


def _submodule(block: nn.Module, name: str) -> nn.Module | None:
    try:
        return block.get_submodule(name)
    except AttributeError:
        return None
