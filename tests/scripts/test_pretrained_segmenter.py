"""The demonstration segmenter: what its files are, what it finds, and the script that trains it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForUniversalSegmentation
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from scripts.common.coco_evaluation import BOXES_AND_MASKS, average_precisions
from scripts.common.instance_masks import InstanceDataset, collate_instances, find_instances
from scripts.demonstration import pretrain_segmenter
from scripts.demonstration.scene_objects import scene_rows
from scripts.demonstration.scenes import SymbolScenes
from scripts.demonstration.symbols import GROUP_OF, GROUPS
from scripts.train_instance_segmentation import parse

SEGMENTER = Path(pretrain_segmenter.__file__).parent / "segmenter"


def test_files_are_small_and_hold_half_precision():
    assert sum(path.stat().st_size for path in SEGMENTER.iterdir()) < 6_000_000
    weights = load_file(SEGMENTER / "model.safetensors")
    assert {weight.dtype for weight in weights.values() if weight.is_floating_point()} == {torch.float16}
    assert {path.suffix for path in SEGMENTER.iterdir()} == {".json", ".md", ".safetensors"}


@torch.no_grad()
def test_finds_symbols_as_its_record_says():
    model = AutoModelForUniversalSegmentation.from_pretrained(SEGMENTER).eval()
    assert model.dtype == torch.float32
    assert list(model.config.id2label.values()) == list(GROUPS)
    processor = AutoImageProcessor.from_pretrained(SEGMENTER)
    record = json.loads((SEGMENTER / "training.json").read_text())
    rows = scene_rows(SymbolScenes(seed=record["seed"] + 1), range(36), list(GROUPS), GROUP_OF)
    batch = collate_instances(list(InstanceDataset(rows, processor)))
    metrics = average_precisions(rows, find_instances(processor, model(batch["pixel_values"]), batch), BOXES_AND_MASKS)
    for name in ("mask_ap", "mask_ap50", "box_ap"):
        assert metrics[name] == pytest.approx(record["results"][name], abs=0.1)


def test_pretraining_writes_a_model_and_its_card(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain_segmenter, "NUM_EVALUATION_SCENES", 2)
    arguments = ["--max_steps", "2", "--per_device_train_batch_size", "2", "--warmup_steps", "1", "--use_cpu"]
    schedule = ["--lr_scheduler_kwargs", '{"num_decay_steps": 1}', "--dataloader_num_workers", "0", "--bf16", "false"]
    pretrain_segmenter.main([*arguments, *schedule, "--disable_tqdm", "true", "--output_dir", str(tmp_path / "run")])
    folder = tmp_path / "run" / "segmenter"
    assert AutoModelForUniversalSegmentation.from_pretrained(folder).config.num_queries == 12
    record = json.loads((folder / "training.json").read_text())
    assert (record["num_pictures"], record["training"]["max_steps"]) == (4, 2)
    card = (folder / "README.md").read_text()
    assert "2 steps of 2, seed 42" in card
    assert "{" not in card.replace("`{`", "")
    # It begins with the demonstration backbone and trains that, too.
    name = "encoder.layers.0.blocks.0.intermediate.dense.weight"
    before = load_file(pretrain_segmenter.BACKBONE / "model.safetensors")[f"swin.{name}"].float()
    after = load_file(folder / "model.safetensors")[f"model.pixel_level_module.encoder.{name}"].float()
    assert 0 < (after - before).abs().max() < 0.01


def test_default_arguments_are_the_preset_of_the_digits():
    model_args, data_args, method_args, _ = parse(["--use_cpu"])
    assert Path(model_args.model_name_or_path).resolve() == SEGMENTER
    assert data_args.dataset is None
    assert (method_args.method, method_args.bottleneck_dim) == ("mona", 16)
