"""Several maps in one sequence of tokens: images of differing sizes behind each other, or padded to one length.

Vision towers of language models (Qwen2.5-VL, GLM-4V) and NaFlex models (SigLIP 2) take images as they are. The module
around the blocks is told their sizes, and a hook there works out, once a call, where in the sequence the tokens of each
map lie. The blocks ask it when they are called, outside of gradient checkpointing; calls are kept by thread.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import nn
from transformers.vision_utils import get_vision_window_index

from mona_peft.blocks.calls import EnterCall, watch_calls
from mona_peft.blocks.layout import Grid, VideoGrid
from mona_peft.blocks.order import ReorderedGrid


@dataclass(frozen=True)
class PackedMaps:
    """Where the tokens of several maps lie in one sequence, or in one batch of padded sequences.

    Attributes:
        runs: (number of maps, H, W) for each run of maps of one size.
        places: Place of each token, map after map and row by row, among the tokens of the whole batch.
        num_tokens: Number of tokens of the whole batch.
    """

    runs: tuple[VideoGrid, ...]
    places: torch.Tensor
    num_tokens: int

    def each(self, compute: Callable[[torch.Tensor, Grid], torch.Tensor], tokens: torch.Tensor) -> torch.Tensor:
        """Return what `compute(tokens, grid)` gives for each map by itself, zero where no map lies (padding).

        Args:
            compute: Takes tokens of shape (number of maps, H * W, C), and (H, W).
            tokens: Of shape (B, N, C).

        Raises:
            ValueError: If these are not the tokens of the whole batch.
        """
        flat = tokens.flatten(0, 1)
        if flat.shape[0] != self.num_tokens:
            raise ValueError(
                f"A block got {flat.shape[0]} tokens of images that have {self.num_tokens}. Were tokens dropped before "
                "the block? Adapters need whole maps."
            )
        parts = flat[self.places].split([count * height * width for count, height, width in self.runs])
        outputs = [
            compute(part.unflatten(0, (count, height * width)), (height, width)).flatten(0, 1)
            for part, (count, height, width) in zip(parts, self.runs, strict=True)
        ]
        output = torch.cat(outputs)
        return output.new_zeros(flat.shape).index_copy(0, self.places, output).view(tokens.shape)


Maps = Grid | VideoGrid | ReorderedGrid | PackedMaps
"""What an adapter is told of its tokens: the grid of an image, of a video, or where one map or several lie."""


def is_one_map(maps: Maps) -> bool:
    """Whether all tokens of a sample are those of one image."""
    return isinstance(maps, ReorderedGrid) or (isinstance(maps, tuple) and len(maps) == 2)


def on_each_map(
    compute: Callable[[torch.Tensor, Grid], torch.Tensor],
    tokens: torch.Tensor,
    maps: Maps,
    whole_videos: bool = False,
    any_order: bool = False,
) -> torch.Tensor:
    """Return what `compute(tokens, grid)` gives, for each frame or packed map by itself.

    Args:
        compute: Takes tokens of shape (B, N, C), row by row, and their grid (H, W).
        tokens: Of shape (B, N, C).
        maps: What is known of them.
        whole_videos: `compute` takes the frames of a video together, with their grid (T, H, W).
        any_order: `compute` takes tokens that do not lie row by row as they are, with their `ReorderedGrid`.

    Raises:
        ValueError: If the tokens of a video or of packed maps are not all there.
    """
    if isinstance(maps, PackedMaps) or (isinstance(maps, ReorderedGrid) and not any_order):
        return maps.each(compute, tokens)
    if is_one_map(maps):
        return compute(tokens, maps)
    frames, height, width = maps
    if tokens.shape[1] != frames * height * width:
        raise ValueError(
            f"A block got {tokens.shape[1]} tokens of a video of {frames} x {height} x {width}. Were tokens dropped "
            "before the block (masked pre-training)? Adapters need whole frames."
        )
    if whole_videos:
        return compute(tokens, maps)
    return compute(tokens.unflatten(1, (frames, -1)).flatten(0, 1), (height, width)).view(tokens.shape)


@dataclass
class _Call:
    """One call of the module around the blocks.

    Attributes:
        module: That module.
        told: What it was told of the images: (frames, height, width) or (height, width) of each, in patches, or a mask
            (B, H, W) of those patches that are none of the padding.
        keywords: Keyword arguments of the call.
        maps: What has been worked out, by the shape of the hidden states.
    """

    module: nn.Module
    told: torch.Tensor
    keywords: Mapping[str, Any]
    maps: dict[tuple[int, ...], PackedMaps] = field(default_factory=dict)

    def maps_in(self, hidden_states: torch.Tensor) -> PackedMaps:
        """Return where the maps lie in the hidden states of a block.

        Raises:
            ValueError: If a mask tells of no whole images.
        """
        shape = tuple(hidden_states.shape[:-1])
        if shape not in self.maps:
            sizes = self._sizes()
            places = self._places(sizes, shape)
            if len(places) != sum(frames * height * width for frames, height, width in sizes):
                raise ValueError(
                    "The mask of patches is no rectangle in each image, so their tokens lie in no grid. Adapters need "
                    "images that are padded on the right and below."
                )
            runs = tuple(
                (sum(count for count, _, _ in run), *grid) for grid, run in groupby(sizes, key=lambda size: size[1:])
            )
            self.maps[shape] = PackedMaps(runs, places.to(hidden_states.device), hidden_states.shape[:-1].numel())
        return self.maps[shape]

    def _places(self, sizes: list[VideoGrid], shape: tuple[int, ...]) -> torch.Tensor:
        """Return where the tokens lie in hidden states of shape (N, C) or (B, N, C), without C."""
        if self.told.ndim == 3:
            return self.told.flatten().nonzero().squeeze(1)
        if len(shape) == 1:
            return self._packed(sizes)
        counts = [height * width for _, height, width in sizes]
        return torch.cat([torch.arange(count) + image * shape[1] for image, count in enumerate(counts)])

    def _sizes(self) -> list[VideoGrid]:
        """Return (frames, height, width) of each image, in patches."""
        told = self.told
        if told.ndim == 3:
            told = torch.stack([told.any(2).sum(1), told.any(1).sum(1)], dim=1)
        return [(*size,) if len(size) == 3 else (1, *size) for size in told.tolist()]

    def _packed(self, sizes: list[VideoGrid]) -> torch.Tensor:
        """One image behind the other; patches that will be merged are neighbours, and windows may be."""
        merged = getattr(self.module, "spatial_merge_size", 1)
        places, start = [], 0
        for frames, height, width in sizes:
            count = frames * height * width
            units = torch.arange(start, start + count).view(frames, height // merged, width // merged, merged, merged)
            places.append(units.transpose(2, 3).flatten())
            start += count
        found = torch.cat(places)
        if not hasattr(self.module, "window_size"):
            return found
        windows, _ = get_vision_window_index(
            self.told,
            spatial_merge_size=merged,
            window_size=self.module.window_size,
            patch_size=self.module.patch_size,
            kwargs=dict(self.keywords),
        )
        unit = merged**2
        return torch.argsort(windows.to(found.device))[found // unit] * unit + found % unit


class _Calls(threading.local):
    def __init__(self) -> None:
        self.stack: list[_Call] = []


class PackedCalls:
    """The calls of the module around the blocks that are under way in this thread.

    Args:
        argument: Name of the argument of the module's `forward` that holds the sizes, of shape (images, 2 or 3), or a
            mask of the patches of shape (images, H, W).
        position: Its place among the positional arguments.
    """

    def __init__(self, argument: str, position: int) -> None:
        self.argument = argument
        self.position = position
        self._calls = _Calls()

    def __reduce__(self) -> tuple:
        """Copies and files hold no call."""
        return PackedCalls, (self.argument, self.position)

    def enter(self, module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Begin a call of the module."""
        told = kwargs.get(self.argument, args[self.position] if len(args) > self.position else None)
        if told is None:  # no padding
            pixels = kwargs["pixel_values"] if "pixel_values" in kwargs else args[0]
            height, width = (side // module.config.patch_size for side in pixels.shape[-2:])
            told = torch.ones(pixels.shape[0], height, width, dtype=torch.bool, device=pixels.device)
        self._calls.stack.append(_Call(module, told, kwargs))

    def leave(self) -> None:
        """End the innermost call."""
        if self._calls.stack:
            self._calls.stack.pop()

    def read(self, hidden_states: torch.Tensor) -> PackedMaps:
        """Return where the maps of the images lie in the hidden states of a block.

        Raises:
            RuntimeError: If the block was not called by the module around it.
        """
        if not self._calls.stack:
            raise RuntimeError(
                f"The sizes of the images are not known: they are what the module around the blocks is given as "
                f"{self.argument!r}. Call the whole model, not a block of it."
            )
        return self._calls.stack[-1].maps_in(hidden_states)


def position_of(module: nn.Module, argument: str) -> int | None:
    """Return the place of an argument of a module's `forward` among the positional ones, None if it has none."""
    names = list(inspect.signature(module.forward).parameters)
    return names.index(argument) if argument in names else None


def packed_calls_of(module: nn.Module, argument: str) -> PackedCalls:
    """Return the record of a module's calls, registering its hooks if there are none yet."""
    records = (hook.record for hook in module._forward_pre_hooks.values() if isinstance(hook, EnterCall))
    calls = next((record for record in records if isinstance(record, PackedCalls)), None)
    if calls is None:
        calls = PackedCalls(argument, position_of(module, argument))
        watch_calls(module, calls)
    return calls
