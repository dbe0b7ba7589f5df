"""Measure a model: time of a training step and of inference, bytes kept for the backward pass, peak memory."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, mm_flop, sdpa_backward_flop_count, sdpa_flop_count


class Clock:
    """Seconds that work on a device takes.

    On a CPU it is the processor time of this process, which other processes disturb less than they disturb wall time;
    on a GPU the time between two events.

    Args:
        device: The device.
        with_children: Whether to count processor time of this process and of those that it starts, on a GPU too.
    """

    def __init__(self, device: torch.device, with_children: bool = False) -> None:
        self.device = device
        self.with_children = with_children

    def time(self, work: Callable[[], object]) -> float:
        """Run `work` and return how long it took."""
        if self.with_children or self.device.type != "cuda":
            start = self._processor_time()
            work()
            return self._processor_time() - start
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(self.device)
        start.record()
        work()
        end.record()
        torch.cuda.synchronize(self.device)
        return start.elapsed_time(end) / 1e3

    def _processor_time(self) -> float:
        if not self.with_children:
            return time.process_time()
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time() + children.ru_utime + children.ru_stime


def interleaved(
    work: dict[str, Callable[[], object]], clock: Clock, rounds: int, warmup: int
) -> dict[str, list[float]]:
    """Time several kinds of work in turns, forwards and backwards, so that drifts of the machine hit all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for number in range(warmup + rounds):
        for name in list(work)[:: 1 if number % 2 else -1]:
            elapsed = clock.time(work[name])
            if number >= warmup:
                seconds[name].append(elapsed)
    return seconds


def ratios(seconds: dict[str, list[float]], reference: str) -> dict[str, dict[str, Any]]:
    """Return for each kind of work the median and quartiles of its ratio to the reference in the same round."""
    summary = {}
    for name, values in seconds.items():
        relative = [a / b for a, b in zip(values, seconds[reference], strict=True)]
        low, median, high = statistics.quantiles(relative, n=4, method="inclusive")
        summary[name] = {"ratio": median, "low": low, "high": high, "seconds": values}
    return summary


def training_step(
    model: nn.Module, pixel_values: torch.Tensor, labels: torch.Tensor, autocast: torch.dtype | None = None
) -> None:
    """Forward and backward pass of a training step; gradients are dropped, nothing is updated."""
    with torch.autocast(pixel_values.device.type, autocast, enabled=autocast is not None):
        loss = F.cross_entropy(model(pixel_values).logits.float(), labels)
    loss.backward()
    model.zero_grad(set_to_none=True)


def multiplications(step: Callable[[], object]) -> int:
    """Count the multiplications of matrix products, convolutions and attention in a training step.

    They are the same on every machine: by them alone a step takes what a machine needs that does nothing else.
    """
    # PyTorch has these formulas for the attention of GPUs alone.
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    formulas = {
        attention: lambda *shapes, **_: sdpa_flop_count(*shapes[:3]),
        backward: lambda *shapes, **_: sdpa_backward_flop_count(*shapes[:4]),
        torch.ops.aten.addmm_: lambda _, first, second, **__: mm_flop(first, second),
    }
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        # Its hooks, by which it tells modules apart, would have adapters return what they else add in place, and so
        # spare the backward pass a product.
        counter.mod_tracker.__exit__()
        step()
    return counter.get_total_flops() // 2  # which are of multiplications and additions


def peak_bytes(
    model: nn.Module, pixel_values: torch.Tensor, labels: torch.Tensor, autocast: torch.dtype | None = None
) -> int:
    """Return by how much memory rises above its level, of the device, or of this process on a CPU, in a step.

    It is that of a second step: the first one loads libraries. On Linux the process's high-water mark is reset before;
    elsewhere it may be that of an earlier time, so measure in a fresh process.
    """
    training_step(model, pixel_values, labels, autocast)
    device = pixel_values.device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        training_step(model, pixel_values, labels, autocast)
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    marks = Path("/proc/self/clear_refs")
    if marks.exists():
        marks.write_text("5")
    before = _resident_bytes("VmRSS")
    training_step(model, pixel_values, labels, autocast)
    return _resident_bytes("VmHWM") - before


def _resident_bytes(field: str) -> int:
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith(field))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
