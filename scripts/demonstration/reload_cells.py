"""Loads a trained adapter in a fresh process, by the code on its own model card, and scores images with it.

python -m scripts.demonstration.reload_cells ADAPTER_FOLDER PIXELS_FILE SCORES_FILE
"""

import re
import sys
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from torch import nn

PLACEHOLDER = "path/to/this/adapter"
"""What a card says where the folder of the adapter belongs."""


def model_by_card(adapter: Path) -> nn.Module:
    """Runs the first Python code of a card that this project wrote and returns what it calls `model`."""
    code = re.findall(r"```python\n(.*?)```", ModelCard.load(adapter / "README.md").text, re.DOTALL)[0]
    names: dict[str, nn.Module] = {}
    exec(code.replace(PLACEHOLDER, str(adapter)), names)
    return names["model"]


@torch.no_grad()
def predict(model: nn.Module, pixel_values: torch.Tensor) -> np.ndarray:
    """Returns the scores of images, (N, 2), by the whole model."""
    model.eval()
    device = next(model.parameters()).device
    with torch.autocast(device.type, torch.bfloat16):
        batches = [model(pixel_values=pixels.to(device)).logits.float().cpu() for pixels in pixel_values.split(64)]
    return torch.cat(batches).numpy()


def main(adapter: Path, pixels_file: Path, scores_file: Path) -> None:
    """Writes the scores of images to a safetensors file."""
    scores = predict(model_by_card(adapter), load_file(pixels_file)["pixel_values"])
    save_file({"scores": torch.from_numpy(scores)}, scores_file)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
