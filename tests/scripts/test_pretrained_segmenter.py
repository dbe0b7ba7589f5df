"""The demonstration segmenter: what its files are, what it finds, and the script that trains it."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForUniversalSegmentation
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from scripts.common.coco_evaluation import BOXES_AND_MASKS, average_precisions
from scripts.common.instance_masks import InstanceDataset, collate_instances, find_instances
from scripts.demonstration import pretrain_segmenter
from scripts.demonstration.scene_objects import scene_rows
from scripts.demonstration.scenes import SymbolScenes
from scripts.train_instance_segmentation import parse

SEGMENTER = Path(pretrain_segmenter.__file__).parent / "segmenter"


def test_files_are_small_and_hold_half_precision():
    assert sum(path.stat().st_size for path in SEGMENTER.iterdir()) < 6_000_000
    weights = load_file(SEGMENTER / "model.safetensors")
    assert {weight.dtype for weight in weights.values() if weight.is_floating_point()} == {torch.float16}
    assert {path.suffix for path in SEGMENTER.iterdir()} == {".json", ".md", ".safetensors"}


@torch.no_grad()
def test_finds_symbols_that_it_has_not_seen():
    model = AutoModelForUniversalSegmentation.from_pretrained(SEGMENTER).eval()
    assert model.dtype == torch.float32
    processor = AutoImageProcessor.from_pretrained(SEGMENTER)
    scenes = SymbolScenes(seed=7)
    rows = scene_rows(scenes, range(36), ["symbol"], class_of=[0] * len(scenes.classes))
    batch = collate_instances(list(InstanceDataset(rows, processor)))
    detections = find_instances(processor, model(batch["pixel_values"]), batch)
    # Found is what counts here, whatever it is taken for.
    found = {image: [{**entry, "category_id": 0} for entry in entries] for image, entries in detections.items()}
    assert average_precisions(rows, found, BOXES_AND_MASKS)["mask_ap50"] > 0.5


def test_pretraining_writes_a_model_and_its_card(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain_segmenter, "NUM_EVALUATION_SCENES", 2)
    arguments = ["--max_steps", "2", "--per_device_train_batch_size", "2", "--warmup_steps", "1", "--use_cpu"]
    schedule = ["--lr_scheduler_kwargs", '{"num_decay_steps": 1}', "--dataloader_num_workers", "0", "--bf16", "false"]
    arguments += [*schedule, "--disable_tqdm", "true"]
    first, folder = (tmp_path / name / "segmenter" for name in ("first", "second"))
    pretrain_segmenter.main([*arguments, "--output_dir", str(first.parent)])
    assert AutoModelForUniversalSegmentation.from_pretrained(first).config.id2label == {0: "symbol"}
    pretrain_segmenter.main([*arguments, "--output_dir", str(folder.parent), "--start_from", str(first)])
    assert (folder / "training_first_stage.json").read_bytes() == (first / "training.json").read_bytes()
    assert AutoModelForUniversalSegmentation.from_pretrained(folder).config.num_queries == 12
    record = json.loads((folder / "training.json").read_text())
    assert (record["num_pictures"], record["training"]["max_steps"]) == (4, 2)
    card = (folder / "README.md").read_text()
    assert "2 steps of\n  2 with seed 42" in card
    assert "{" not in card
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
