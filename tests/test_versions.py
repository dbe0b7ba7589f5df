"""Adapters saved under one supported version of transformers and PEFT load under the others.

`python -m tests.test_versions` adds a record by the versions it runs with to `tests/versions`.
"""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
import transformers
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import SwinConfig, SwinForImageClassification

from mona_peft import MonaConfig

FOLDER = Path(__file__).parent / "versions"
CONFIG = {"image_size": 32, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 1], "window_size": 2, "num_labels": 3}


def base_model() -> SwinForImageClassification:
    return SwinForImageClassification.from_pretrained(FOLDER / "base").eval()


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)).logits


@pytest.mark.parametrize("folder", sorted(FOLDER.glob("transformers-*")), ids=lambda folder: folder.name)
def test_saved_under_another_version(folder):
    model = PeftModel.from_pretrained(base_model(), folder).eval()
    expected = load_file(folder / "outputs.safetensors")["logits"]
    assert (logits(base_model()) - expected).abs().max() > 1e-2
    torch.testing.assert_close(logits(model), expected, atol=1e-6, rtol=0)


def main() -> None:
    torch.manual_seed(0)
    if not (FOLDER / "base").is_dir():
        SwinForImageClassification(SwinConfig(**CONFIG)).save_pretrained(FOLDER / "base")
    config = MonaConfig(bottleneck_dim=4, init_weights=False, modules_to_save="task-head")
    model = get_peft_model(base_model(), config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.3 if "mona" in name else 0.1)
    model.peft_config["default"].base_model_name_or_path = "base"  # not a path of one machine
    folder = FOLDER / f"transformers-{transformers.__version__}-peft-{peft.__version__}"
    model.save_pretrained(folder)
    (folder / "README.md").unlink()
    save_file({"logits": logits(model)}, folder / "outputs.safetensors")


if __name__ == "__main__":
    main()
