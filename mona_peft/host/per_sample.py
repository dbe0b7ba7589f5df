"""Another adapter for each sample of a batch: the argument `adapter_names` of a PEFT model's forward pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import torch
from torch import nn

BASE = "__base__"
"""Name that stands for the model without adapters, as everywhere in PEFT."""


def rows_by_adapter(adapter_names: Sequence[str], batch_size: int) -> dict[str, list[int]]:
    """Return the indices of the samples of each adapter, in the order of first appearance.

    Raises:
        ValueError: If there is not one name for each sample.
    """
    if len(adapter_names) != batch_size:
        raise ValueError(
            f"Length of `adapter_names` should be the same as the number of inputs, but got {len(adapter_names)} and "
            f"{batch_size} respectively."
        )
    return {
        name: [row for row, other in enumerate(adapter_names) if other == name] for name in dict.fromkeys(adapter_names)
    }


@contextmanager
def adapters_per_sample(modules: Iterable[nn.Module], adapter_names: Sequence[str]) -> Iterator[None]:
    """Give every call of `modules` the keyword argument `adapter_names` while the context lasts, in this thread only.

    Args:
        modules: Modules whose forward takes that argument.
        adapter_names: One name for each sample.
    """
    thread = get_ident()

    # `kwargs` has a default: PyTorch registers the hook first and that it takes them second, so that another thread
    # may call it in between.
    def add_names(module: nn.Module, args: tuple, kwargs: dict | None = None) -> tuple[tuple, dict] | None:
        return (args, {**kwargs, "adapter_names": adapter_names}) if get_ident() == thread else None

    handles = [module.register_forward_pre_hook(add_names, with_kwargs=True) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def run_per_sample(
    heads: dict[str, nn.Module], adapter_names: Sequence[str], args: tuple, kwargs: dict[str, Any]
) -> Any:
    """Run each sample through the head of its adapter.

    Args:
        heads: Head by adapter, all of the names in `adapter_names`; they map tensors of shape (B, ...), also nested in
            lists, tuples and dicts, to a tensor of shape (B, ...), or to a tuple or list of such.
        adapter_names: B names.
        args: Arguments of the heads.
        kwargs: Keyword arguments of the heads.

    Returns:
        What one head would return for the whole batch.

    Raises:
        TypeError: If a head returns something else.
        ValueError: If an argument holds a tensor that is not of B samples.
    """
    batch_size = len(adapter_names)
    groups = rows_by_adapter(adapter_names, batch_size)
    outputs = [
        heads[name](*_take(args, rows, batch_size), **_take(kwargs, rows, batch_size)) for name, rows in groups.items()
    ]
    order = [row for rows in groups.values() for row in rows]
    head = next(iter(heads.values()))
    return _join(outputs, torch.tensor(order).argsort(), [len(rows) for rows in groups.values()], type(head).__name__)


def _take(value: Any, rows: list[int], batch_size: int) -> Any:
    if isinstance(value, torch.Tensor):
        if not value.ndim or value.shape[0] != batch_size:
            raise ValueError(
                f"`adapter_names` has {batch_size} names, but a trained head was given a tensor of shape "
                f"{tuple(value.shape)}, which cannot be told apart by sample."
            )
        return value[rows]
    if type(value) in (list, tuple):
        return type(value)(_take(item, rows, batch_size) for item in value)
    if type(value) is dict:
        return {key: _take(item, rows, batch_size) for key, item in value.items()}
    return value


def _join(outputs: list[Any], order: torch.Tensor, sizes: list[int], head: str) -> Any:
    if all(
        isinstance(output, torch.Tensor) and output.ndim and output.shape[0] == size
        for output, size in zip(outputs, sizes, strict=True)
    ):
        return torch.cat(outputs)[order.to(outputs[0].device)]
    if type(outputs[0]) in (list, tuple):
        return type(outputs[0])(_join(list(parts), order, sizes, head) for parts in zip(*outputs, strict=True))
    raise TypeError(
        f"`adapter_names` cannot be used with the trained head {head}: it returns a {type(outputs[0]).__name__}, and "
        "only tensors whose first dimension is the sample can be put together again. Call the model once for each "
        "adapter, with set_adapter(), or train adapters without a head of their own."
    )
