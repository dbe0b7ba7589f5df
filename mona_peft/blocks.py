"""Anatomy of transformer blocks, as data: where the MLP branch enters, how wide the block is, where its grid is."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

Grid = tuple[int, int]
"""Height and width of a token map, in tokens."""


@dataclass(frozen=True)
class BlockAnatomy:
    """What a residual adapter has to know of a block `h = x + attn(norm(x)); out = h + mlp(norm(h))`.

    The block takes hidden states of shape (B, N, C), N = H * W, as its first argument and returns them alone or first
    in a tuple.

    Attributes:
        mlp_entry: Name of the submodule that alone receives `h`: the norm before the MLP, or the MLP's first part in
            blocks that normalise after it.
        norm: Name of a norm of the block; the length of its weight is the width C.
        grid_arguments: Names of the arguments of the block's `forward` that hold (H, W): one that holds the pair, or
            two.
        mlp_branch: Names of the submodules of the MLP branch, `mlp_entry` first, in the order in which hidden states go
            through them and nothing else; without them the branch cannot be recomputed (`recompute_mlp`).
    """

    mlp_entry: str
    norm: str = "layernorm_before"
    grid_arguments: tuple[str, ...] = ("input_dimensions",)
    mlp_branch: tuple[str, ...] = ()


KNOWN_BLOCKS: dict[str, BlockAnatomy] = {
    "SwinLayer": BlockAnatomy("layernorm_after", mlp_branch=("layernorm_after", "mlp")),
    "Swinv2Layer": BlockAnatomy("intermediate", mlp_branch=("intermediate", "output")),
    "MaskFormerSwinLayer": BlockAnatomy("layernorm_after", mlp_branch=("layernorm_after", "intermediate", "output")),
    "DonutSwinLayer": BlockAnatomy("layernorm_after", mlp_branch=("layernorm_after", "intermediate", "output")),
}
"""Anatomy by the name of the block's class."""


def register_block(class_name: str, anatomy: BlockAnatomy) -> None:
    """Make the blocks of a further backbone known.

    Args:
        class_name: Name of the block's class.
        anatomy: Its anatomy; checked against each block when an adapter is attached.
    """
    KNOWN_BLOCKS[class_name] = anatomy


def is_known_block(module: nn.Module) -> bool:
    """Whether `module` is a block whose anatomy is known; subclasses of a known block are known too."""
    return any(cls.__name__ in KNOWN_BLOCKS for cls in type(module).__mro__)


def anatomy_of(block: nn.Module) -> BlockAnatomy:
    """Return the anatomy of a known block, checked against this very block.

    Raises:
        ValueError: If a submodule or an argument that the anatomy names does not exist.
    """
    class_name = next(cls.__name__ for cls in type(block).__mro__ if cls.__name__ in KNOWN_BLOCKS)
    anatomy = KNOWN_BLOCKS[class_name]
    for field in ("mlp_entry", "norm"):
        name = getattr(anatomy, field)
        if not isinstance(getattr(block, name, None), nn.Module):
            children = [child for child, _ in block.named_children()]
            raise ValueError(
                f"The anatomy of {class_name} says {field}={name!r}, but this block has no such submodule. It has "
                f"{children}. Register the right one: `mona_peft.register_block({class_name!r}, BlockAnatomy(...))`."
            )
    return anatomy


def check_mlp_branch(block: nn.Module) -> None:
    """Check that the MLP branch of a known block is known too.

    Raises:
        ValueError: If it is not, or names a submodule that does not exist.
    """
    anatomy = anatomy_of(block)
    missing = [name for name in anatomy.mlp_branch if not isinstance(getattr(block, name, None), nn.Module)]
    if missing or not anatomy.mlp_branch:
        raise ValueError(
            f"recompute_mlp=True: the anatomy of {type(block).__name__} says mlp_branch={anatomy.mlp_branch!r}, which "
            f"{f'this block lacks {missing} of' if missing else 'names nothing'}. Leave recompute_mlp out, or register "
            "the block with the names of the submodules of its MLP branch: "
            "`mona_peft.register_block(..., BlockAnatomy(mlp_branch=(...)))`."
        )


def width_of(block: nn.Module) -> int:
    """Return the number of channels C of a known block."""
    return getattr(block, anatomy_of(block).norm).weight.shape[0]


@dataclass(frozen=True)
class GridArguments:
    """Reads (H, W) from the arguments with which a block is called.

    Attributes:
        names: Names of the arguments that hold the grid.
        positions: Their positions among the positional arguments behind the hidden states.
    """

    names: tuple[str, ...]
    positions: tuple[int, ...]

    @classmethod
    def of(cls, block: nn.Module) -> GridArguments:
        """Find the arguments that the anatomy of `block` names in the signature of its `forward`.

        Raises:
            ValueError: If `forward` has no such argument.
        """
        names = anatomy_of(block).grid_arguments
        arguments = list(inspect.signature(block.forward).parameters)[1:]
        missing = [name for name in names if name not in arguments]
        if missing:
            raise ValueError(
                f"The anatomy of {type(block).__name__} takes the grid from the argument(s) {missing}, but its forward "
                f"has {arguments}. Register the right one: `mona_peft.register_block(...)`."
            )
        return cls(names, tuple(arguments.index(name) for name in names))

    def read(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Grid:
        """Return (H, W).

        Args:
            args: Positional arguments of the call behind the hidden states.
            kwargs: Keyword arguments of the call.
        """
        values = [
            kwargs[name] if name in kwargs else args[position]
            for name, position in zip(self.names, self.positions, strict=True)
        ]
        height, width = values[0] if len(values) == 1 else values
        return height, width
