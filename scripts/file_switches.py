"""Counts how often one call goes from one file of the package to another: the fewer, the easier it is to follow.

    python -m scripts.file_switches

For attaching, saving, loading and the forward pass of two blocks, on a tiny Swin: how many of our files a call goes
through, and how many switches between them there are.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model
from transformers import SwinConfig, SwinModel

import mona_peft
from mona_peft import MonaConfig

PACKAGE = str(Path(mona_peft.__file__).parent)


def trace(call: Callable[[], object]) -> tuple[int, int]:
    """Returns the numbers of our files that a call goes through, and of switches between them."""
    visited: list[str] = []

    def note(frame, event, argument) -> None:
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(PACKAGE) and (not visited or visited[-1] != name):
            visited.append(name)

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return len(set(visited)), max(0, len(visited) - 1)


def build() -> SwinModel:
    """Returns a Swin of two blocks."""
    torch.manual_seed(0)
    return SwinModel(
        SwinConfig(image_size=32, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[1, 2], window_size=4)
    ).eval()


def main() -> None:
    """Prints a line for each call."""
    config = MonaConfig(bottleneck_dim=8, modules_to_save=[])
    image = torch.zeros(1, 3, 32, 32)
    model = get_peft_model(build(), config).eval()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        calls = {
            "attach": lambda: get_peft_model(build(), config),
            "forward, two blocks": lambda: model(image),
            "save": lambda: model.save_pretrained(folder),
            "load": lambda: PeftModel.from_pretrained(build(), folder),
        }
        print("call | files | switches\n--- | ---: | ---:")
        for name, call in calls.items():
            print(name, *trace(call), sep=" | ")


if __name__ == "__main__":
    main()
