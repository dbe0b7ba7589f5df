"""The demonstration detector: what its files are, what it finds, and the script that trains it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from transformers import AutoModelForObjectDetection
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from scripts.common.coco_evaluation import average_precisions, box_detections
from scripts.common.object_dataset import ObjectDetectionDataset, collate
from scripts.demonstration import pretrain_detector
from scripts.demonstration.scene_objects import scene_rows
from scripts.demonstration.scenes import SymbolScenes
from scripts.demonstration.symbols import GROUP_OF, GROUPS
from scripts.train_object_detection import parse

DETECTOR = Path(pretrain_detector.__file__).parent / "detector"


def test_files_are_small_and_hold_half_precision():
    assert sum(path.stat().st_size for path in DETECTOR.iterdir()) < 6_510_000
    weights = load_file(DETECTOR / "model.safetensors")
    assert {weight.dtype for weight in weights.values() if weight.is_floating_point()} == {torch.float16}
    assert {path.suffix for path in DETECTOR.iterdir()} == {".json", ".md", ".safetensors"}


@torch.no_grad()
def test_finds_symbols_as_its_record_says():
    model = AutoModelForObjectDetection.from_pretrained(DETECTOR).eval()
    assert model.dtype == torch.float32
    processor = AutoImageProcessor.from_pretrained(DETECTOR)
    record = json.loads((DETECTOR / "training.json").read_text())
    scenes = SymbolScenes(seed=record["seed"] + 1)
    rows = scene_rows(scenes, range(64), list(GROUPS), GROUP_OF, with_masks=False)
    detections = {}
    for batch in DataLoader(ObjectDetectionDataset(rows, processor), 32, collate_fn=collate):
        detections |= box_detections(processor, model(batch["pixel_values"]), batch)
    metrics = average_precisions(rows, detections)
    for name in ("box_ap", "box_ap50", "box_ap75"):
        assert metrics[name] == pytest.approx(record["results"][name], abs=0.1)


def test_pretraining_writes_a_model_and_its_card(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain_detector, "NUM_EVALUATION_SCENES", 2)
    arguments = ["--max_steps", "2", "--per_device_train_batch_size", "2", "--warmup_steps", "1", "--use_cpu"]
    schedule = ["--lr_scheduler_kwargs", '{"num_decay_steps": 1}', "--dataloader_num_workers", "0", "--bf16", "false"]
    pretrain_detector.main([*arguments, *schedule, "--disable_tqdm", "true", "--output_dir", str(tmp_path / "run")])
    folder = tmp_path / "run" / "detector"
    assert AutoModelForObjectDetection.from_pretrained(folder).config.num_queries == 30
    record = json.loads((folder / "training.json").read_text())
    assert (record["num_pictures"], record["training"]["max_steps"]) == (4, 2)
    card = (folder / "README.md").read_text()
    assert "2 steps of 2, seed 42" in " ".join(card.split())
    assert "{" not in card
    # It begins with the demonstration backbone and trains that, too.
    name = "encoder.layers.0.blocks.0.intermediate.dense.weight"
    before = load_file(pretrain_detector.BACKBONE / "model.safetensors")[f"swin.{name}"].float()
    after = load_file(folder / "model.safetensors")[f"model.backbone.model.{name}"].float()
    assert 0 < (after - before).abs().max() < 0.01


def test_default_arguments_are_the_preset_of_the_digits():
    model_args, data_args, method_args, _ = parse(["--use_cpu"])
    assert Path(model_args.model_name_or_path).resolve() == DETECTOR
    assert data_args.dataset is None
    assert (method_args.method, method_args.bottleneck_dim) == ("mona", 16)
