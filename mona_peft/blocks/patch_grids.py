"""The grids of patches: which belongs to the tokens that a block is given, where the block itself is told nothing.

Blocks of a ViT are given tokens alone. Their grid (H, W) is known where the patch projection ends, so a hook there
remembers it, and a block asks for it when it is called, outside of gradient checkpointing.

Several images may be under way at once: in several threads, in one thread (embed a, embed b, encode a), or because a
hook runs another image in between. So grids are kept by the call of the model in which patches were embedded, and calls
by thread. Where more than one grid can be meant, the number of tokens decides, and where that does not, an error says
so: a block never takes a grid that may be another image's.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from mona_peft.blocks.calls import EnterCall, LeaveCall, forget_hooks, watch_calls
from mona_peft.blocks.layout import Grid


class Reader(Protocol):
    """A block, as it asks for its grid."""

    num_prefix: int | None
    windows: int

    def pooled(self, grid: Grid) -> Grid:
        """Return the grid of the block's tokens, given that of the patches."""


class _Passage:
    """The grids that were embedded in one call of a model, and how often each block has read each."""

    def __init__(self) -> None:
        self.embedded: dict[Grid, int] = {}
        self.read: dict[tuple[Grid, int], int] = {}

    def add(self, grid: Grid) -> None:
        self.embedded[grid] = self.embedded.get(grid, 0) + 1

    def candidates(self, reader: Reader) -> list[Grid]:
        """Return the grids that a block may be given now: each embedding passes each block once."""
        waiting = [grid for grid, times in self.embedded.items() if self.read.get((grid, id(reader)), 0) < times]
        return waiting or list(self.embedded)

    def note(self, grid: Grid, reader: Reader) -> None:
        key = (grid, id(reader))
        self.read[key] = self.read.get(key, 0) + 1


class _Calls(threading.local):
    """The calls of the model that this thread is in, what it has embedded outside of any, and grids of past calls."""

    def __init__(self) -> None:
        self.stack: list[_Passage] = []
        self.outside = _Passage()
        self.finished: dict[Grid, None] = {}


class PatchGrids:
    """Forward hook of a patch projection: remembers the grid (H, W) of each of its outputs."""

    def __init__(self) -> None:
        self.last: Grid | None = None
        self._calls = _Calls()
        self._outside_anywhere: dict[Grid, None] = {}
        self._awaiting_backward: set[Grid] = set()
        self._was_recomputed = False

    def __reduce__(self) -> tuple:
        """Copies and files hold no grid: it belongs to a call."""
        return PatchGrids, ()

    def __call__(self, projection: nn.Module, args: tuple, output: torch.Tensor) -> None:
        """Remember the grid of `output`, of shape (B, C, H, W), or (B, C, T, H, W) of a video."""
        grid = tuple(output.shape[2:])
        self.last = grid  # what a graph reads that is recorded for one size
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return
        if self._calls.stack:
            self._calls.stack[-1].add(grid)
        else:
            self._calls.outside.add(grid)
            self._outside_anywhere[grid] = None
        if torch.is_grad_enabled():
            if self._was_recomputed:
                self._awaiting_backward, self._was_recomputed = set(), False
            self._awaiting_backward.add(grid)

    def enter(self, model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Begin a call of the model around projection and blocks, in this thread."""
        if not torch.compiler.is_compiling():
            self._calls.stack.append(_Passage())

    def leave(self) -> None:
        """End the innermost call."""
        if not torch.compiler.is_compiling() and self._calls.stack:
            self._calls.finished.update(dict.fromkeys(self._calls.stack.pop().embedded))

    def read(self, reader: Reader, hidden_states: torch.Tensor) -> Grid:
        """Return the grid of the patches that the hidden states of a block come from.

        Args:
            reader: The block.
            hidden_states: Its tokens, of shape (B, N, C), or windows of them.

        Raises:
            RuntimeError: If no image went through the patch projection, or it is not known which of several did.
        """
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return self._known([self.last] if self.last is not None else [])[0]
        num_tokens = hidden_states.shape[1] * reader.windows
        if self._calls.stack and self._calls.stack[-1].embedded:
            passage = self._calls.stack[-1]
            candidates = passage.candidates(reader)
            if len(candidates) == 1:
                grid = candidates[0]
                reader.num_prefix = num_tokens - _count(reader, grid)
            else:
                grid = _only(candidates, reader, num_tokens)
            passage.note(grid, reader)
            return grid
        is_recomputed = _in_backward_pass()
        if is_recomputed:
            self._was_recomputed = True
            return _only(self._known(self._awaiting_backward), reader, num_tokens)
        passage = self._calls.outside
        candidates = passage.candidates(reader) or self._calls.finished or self._outside_anywhere
        if is_recomputed is None:
            candidates = {*candidates, *self._awaiting_backward}
        grid = _only(self._known(candidates), reader, num_tokens)
        passage.note(grid, reader)
        return grid

    @staticmethod
    def _known(grids: Iterable[Grid]) -> list[Grid]:
        if not grids:
            raise RuntimeError(
                "The grid of the patches is not known: no image went through the patch projection. Call the whole "
                "model, not a block of it."
            )
        return list(grids)


def _count(reader: Reader, grid: Grid) -> int:
    return math.prod(reader.pooled(grid))


def _only(candidates: list[Grid], reader: Reader, num_tokens: int) -> Grid:
    """Return the one grid that goes with a number of tokens.

    Raises:
        RuntimeError: If none does, or several do.
    """
    if reader.num_prefix is None:
        fitting = [grid for grid in candidates if _count(reader, grid) <= num_tokens]
    else:
        fitting = [grid for grid in candidates if _count(reader, grid) + reader.num_prefix == num_tokens]
    if len(fitting) != 1:
        raise RuntimeError(
            f"A block got {num_tokens} tokens, and it is not known which grid they lie in: images of the grids "
            f"{sorted(candidates)} were embedded, and {'several' if fitting else 'none'} of them may be meant. Call "
            "the whole model for one size after the other, not its embeddings for several sizes at once; with "
            "gradient checkpointing around more than single blocks, call backward() after each size."
        )
    return fitting[0]


def _in_backward_pass() -> bool | None:
    # Not a public name: where it is gone, None, so that the grids of both cases count and no wrong one is taken.
    task = getattr(torch._C, "_current_graph_task_id", lambda: None)()
    return None if task is None else task != -1


def patch_grids_of(projection: nn.Module, model: nn.Module) -> PatchGrids:
    """Return the hook that remembers the grids of a patch projection, registering it if there is none yet.

    Args:
        projection: The convolution whose output map has the tokens' grid.
        model: The nearest module around it and the blocks.
    """
    grids = next((hook for hook in projection._forward_hooks.values() if isinstance(hook, PatchGrids)), None)
    if grids is None:
        grids = PatchGrids()
        projection.register_forward_hook(grids)
    watch_calls(model, grids)
    return grids


def forget_patch_grids(model: nn.Module) -> None:
    """Take all hooks that tell blocks of their grids off a model."""
    forget_hooks(model, (PatchGrids, EnterCall, LeaveCall))
