"""Tiny models and data of each task, written to disk as a user has them, and the arguments that train on them."""

from __future__ import annotations

import json
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import mkdtemp

import torch
from transformers import SwinConfig, SwinForImageClassification, ViTImageProcessorPil

from tests.folders import SHAPES, write_coco, write_images, write_masks
from tests.models import FOUR_STAGES

UPERNET = {"hidden_size": 16, "pool_scales": [1, 2], "auxiliary_channels": 16}
RT_DETR = {
    **{"d_model": 16, "encoder_hidden_dim": 16, "decoder_in_channels": [16] * 3, "num_queries": 12},
    **{"encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "decoder_layers": 2, "num_denoising": 10},
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2),
}
MASK2FORMER = {
    **dict.fromkeys(("feature_size", "mask_feature_size", "hidden_dim"), 32),
    **dict.fromkeys(("encoder_feedforward_dim", "dim_feedforward"), 16),
    **{"encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 2, "num_queries": 8, "train_num_points": 64},
}
NEW_MODELS = {
    "semantic-segmentation": ("upernet", UPERNET, ("--image_size", "64", "--crop_size", "64")),
    "object-detection": ("rt_detr", RT_DETR, ("--image_size", "64")),
    "instance-segmentation": ("mask2former", MASK2FORMER, ("--image_size", "64")),
}
TASKS = ("image-classification", *NEW_MODELS)
FEW_STEPS = (
    *("--max_steps", "2", "--per_device_train_batch_size", "2", "--per_device_eval_batch_size", "2"),
    *("--bottleneck_dim", "4", "--learning_rate", "1e-2", "--use_cpu", "--disable_tqdm", "true", "--report_to", "none"),
)


@cache
def backbone() -> Path:
    """A random Swin classifier for three classes, with its image processor."""
    folder = Path(mkdtemp(prefix="mona-peft-swin-"))
    torch.manual_seed(0)
    SwinForImageClassification(SwinConfig(**FOUR_STAGES | {"window_size": 2}, num_labels=3)).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


@cache
def dataset(task: str) -> Path:
    """A folder of images for a task: 6 to train on, some to validate on."""
    folder = Path(mkdtemp(prefix="mona-peft-data-"), "data")
    if task == "image-classification":
        write_images(folder, 3)
    elif task == "semantic-segmentation":
        write_masks(folder, {"train": 6, "validation": 2})
        (folder / "classes.txt").write_text("\n".join(SHAPES))
    else:
        write_coco(folder, train=6, val=2)
    return folder


def arguments(task: str) -> list[str]:
    """Those of a short training on a CPU but for the output directory."""
    common = ["--dataset", str(dataset(task)), *FEW_STEPS]
    if task == "image-classification":
        return ["--model", str(backbone()), *common, "--validation_fraction", "0.34"]
    model_type, config, sizes = NEW_MODELS[task]
    model = ["--model_type", model_type, "--backbone", str(backbone()), "--model_config", json.dumps(config)]
    return [*model, *sizes, *common]


def train(task: str, output_dir: Path, *options: str) -> Path:
    """Trains in this process and returns the output directory."""
    script = import_module(f"scripts.train_{task.replace('-', '_')}")
    script.main([*arguments(task), "--output_dir", str(output_dir), *options])
    return output_dir
