"""Adapters saved under one version of transformers and PEFT load under the others.

Swin's blocks kept their names over the supported versions, ViT's moved just before them: `vit.encoder.layer.0` of
transformers 5.8 is `vit.layers.0` since 5.9. `python -m tests.test_versions` adds records by the versions it runs with
to `tests/versions`, of Mona for both and of the other methods for Swin; that of 5.8 was made there, outside of the
supported range. A record stays for ever: what a user has saved has to load.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
import transformers
from peft import PeftConfig, PeftModel, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    PreTrainedModel,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from mona_peft import AdapterConfig, AdaptFormerConfig, BitFitConfig, CoLinConfig, LoRandConfig, MonaConfig

FOLDER = Path(__file__).parent / "versions"
SWIN = {"image_size": 32, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 1], "window_size": 2, "num_labels": 3}
VIT = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 8,
    "num_hidden_layers": 11,
    "num_attention_heads": 1,
    "intermediate_size": 8,
    "num_labels": 3,
}
CLASSES: dict[str, type[PreTrainedModel]] = {"swin": SwinForImageClassification, "vit": ViTForImageClassification}
MAKE: dict[str, Callable[[], nn.Module]] = {
    "swin": lambda: SwinForImageClassification(SwinConfig(**SWIN)),
    "vit": lambda: ViTForImageClassification(ViTConfig(**VIT)),
}
CONFIGS: dict[str, Callable[[], PeftConfig]] = {
    "mona": lambda: MonaConfig(bottleneck_dim=4, init_weights=False, modules_to_save="task-head"),
    "mona-design": lambda: MonaConfig(
        bottleneck_dim=4,
        kernel_sizes=[1, 3],
        sites=["mlp"],
        norm_position="bottleneck",
        filter_reduction="sum",
        layers_to_transform=[1],
        modules_to_save="task-head",
    ),
    "adapter": lambda: AdapterConfig(bottleneck_dim=4, modules_to_save="task-head"),
    "adaptformer": lambda: AdaptFormerConfig(bottleneck_dim=4, modules_to_save="task-head"),
    "lorand": lambda: LoRandConfig(modules_to_save="task-head"),
    "colin": lambda: CoLinConfig(bottleneck_dim=4, rank=2, modules_to_save="task-head"),
    "bitfit": lambda: BitFitConfig(modules_to_save="task-head"),
}
RECORDS = sorted(FOLDER.glob("*/transformers-*"))


def base_model(family: str) -> PreTrainedModel:
    return CLASSES[family].from_pretrained(FOLDER / family / "base").eval()


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)).logits


def assert_as_recorded(model: nn.Module, folder: Path) -> None:
    expected = load_file(folder / "outputs.safetensors")["logits"]
    assert (logits(base_model(folder.parent.name)) - expected).abs().max() > 1e-2
    torch.testing.assert_close(logits(model.eval()), expected, atol=1e-6, rtol=0)


@pytest.mark.filterwarnings("ignore:The adapter was saved for blocks of other names")
@pytest.mark.parametrize("folder", RECORDS, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def test_saved_under_another_version(folder):
    assert_as_recorded(PeftModel.from_pretrained(base_model(folder.parent.name), folder), folder)


def test_blocks_that_moved_are_told():
    (folder,) = (folder for folder in RECORDS if folder.parent.name == "vit" and "5.8.0" in folder.name)
    assert any(".vit.encoder.layer.10.mona." in key for key in load_file(folder / "adapter_model.safetensors"))
    with pytest.warns(UserWarning, match=r"such as vit\.encoder\.layer\.0; its 11 blocks .* for vit\.layers\.0"):
        PeftModel.from_pretrained(base_model("vit"), folder)


def test_blocks_that_moved_are_loaded_by_transformers_too(tmp_path):
    (folder,) = (folder for folder in RECORDS if folder.parent.name == "vit" and "5.8.0" in folder.name)
    # Before 5.17 transformers' own load_adapter() leaves trained heads out.
    tensors = load_file(folder / "adapter_model.safetensors")
    heads = {key.removeprefix("base_model.model."): tensors.pop(key) for key in list(tensors) if ".mona." not in key}
    config = (folder / "adapter_config.json").read_text()
    (tmp_path / "adapter_config.json").write_text(config.replace('[\n    "classifier"\n  ]', "[]"))
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    model = base_model("vit")
    model.load_state_dict(heads, strict=False)
    with pytest.warns(UserWarning, match="saved for blocks of other names"):
        model.load_adapter(str(tmp_path))
    assert_as_recorded(model, folder)


def test_deprecations_of_other_libraries_are_errors_on_request(request):
    """`make test-versions` asks; transformers attributes the use of its old names to its own files."""
    on_request = request.config.getoption("deprecations")
    with pytest.raises(FutureWarning) if on_request else pytest.warns(FutureWarning):
        warnings.warn_explicit("old", FutureWarning, "transformers/file.py", 1, module="transformers.file")


def folder_of(family: str, method: str) -> Path:
    versions = f"transformers-{transformers.__version__}-peft-{peft.__version__}"
    return FOLDER / family / (versions if method == "mona" else f"{versions}-{method}")


def test_every_method_has_a_record():
    recorded = {json.loads((folder / "adapter_config.json").read_text())["peft_type"] for folder in RECORDS}
    methods = {kind for kind, cls in PEFT_TYPE_TO_CONFIG_MAPPING.items() if cls.__module__.startswith("mona_peft.")}
    assert recorded == {kind.value for kind in methods}


def record(family: str, method: str) -> None:
    torch.manual_seed(0)
    if not (FOLDER / family / "base").is_dir():
        MAKE[family]().save_pretrained(FOLDER / family / "base")
    model = get_peft_model(base_model(family), CONFIGS[method]()).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.1 if "classifier" in name else 0.3)
    model.peft_config["default"].base_model_name_or_path = "base"  # not a path of one machine
    folder = folder_of(family, method)
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    (folder / "README.md").unlink()
    save_file({"logits": logits(model)}, folder / "outputs.safetensors")


if __name__ == "__main__":
    for family, method in (("vit", "mona"), *(("swin", method) for method in CONFIGS)):
        if not folder_of(family, method).is_dir():
            record(family, method)
