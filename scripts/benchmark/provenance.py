"""Where and with what something was measured, for the records and the pages of benchmarks on a CPU."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from mona_peft.tasks.training.records import hardware, software


def surroundings() -> dict[str, Any]:
    """Returns what a record says of machine and software; the load is that of the moment, before anything is run."""
    machine = {**hardware(torch.device("cpu")), "cores": os.cpu_count(), "load": os.getloadavg()[0]}
    return {"software": software(), "hardware": machine}


def measured_on(record: Mapping[str, Any]) -> str:
    """Returns the same in words."""
    software_, hardware_ = record["software"], record["hardware"]
    return (
        f"{hardware_['device']}, {hardware_['cores']} cores, load {hardware_['load']:.1f} at the start, torch "
        f"{software_['torch']}, transformers {software_['transformers']}, commit "
        f"`{(software_['commit'] or 'unknown')[:12]}`"
    )
