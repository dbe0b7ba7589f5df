"""Loads a trained adapter in a fresh process, by the code on its own model card, and scores the test digits with it.

python -m scripts.demonstration.reload ADAPTER_FOLDER SCORES_FILE
"""

import re
import sys
from pathlib import Path

import torch
from datasets import Image
from huggingface_hub import ModelCard
from safetensors.torch import save_file
from torch.utils.data import DataLoader
from transformers import default_data_collator
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from mona_peft.tasks.data.dataset import ImageClassificationDataset
from scripts.demonstration.digits import handwritten_digits


def model_by_card(adapter: Path) -> torch.nn.Module:
    """Runs the Python code of a model card that this project wrote and returns what it calls `model`."""
    code, *_ = re.findall(r"```python\n(.*?)```", ModelCard.load(adapter / "README.md").text, re.DOTALL)
    names: dict[str, torch.nn.Module] = {}
    exec(code, names)
    return names["model"].eval()


@torch.no_grad()
def main(adapter: Path, scores_file: Path) -> None:
    """Writes the scores of the test digits, of shape (B, 10), to a safetensors file."""
    model = model_by_card(adapter)
    images = ImageClassificationDataset(
        handwritten_digits()["test"].cast_column("image", Image(decode=False)),
        AutoImageProcessor.from_pretrained(adapter),
    )
    batches = DataLoader(images, batch_size=100, collate_fn=default_data_collator)
    save_file({"scores": torch.cat([model(batch["pixel_values"]).logits for batch in batches])}, scores_file)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
