"""The demonstration models of the dense tasks: their files, what they can do, and the scripts that train them."""

import json
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import torch
import transformers
from safetensors.torch import load_file

from mona_peft.tasks.task import INSTANCE_SEGMENTATION, OBJECT_DETECTION, SEMANTIC_SEGMENTATION, Task
from scripts import train_instance_segmentation, train_object_detection, train_semantic_segmentation
from scripts.demonstration import pretrain_detector, pretrain_segmenter, pretrain_semantic_segmenter
from scripts.demonstration.pretraining import BACKBONE, parse


@dataclass(frozen=True)
class Pretrained:
    """A demonstration model, the script that makes it, and the one whose default adapts it."""

    name: str
    script: ModuleType
    task: Task
    training: ModuleType
    backbone: str
    metrics: tuple[str, ...]
    num_scenes: int

    @property
    def folder(self) -> Path:
        return Path(self.script.__file__).parent / self.name

    def load(self, folder: Path) -> transformers.PreTrainedModel:
        return getattr(transformers, self.task.auto_class).from_pretrained(folder)


MODELS = [
    Pretrained(
        name="detector",
        script=pretrain_detector,
        task=OBJECT_DETECTION,
        training=train_object_detection,
        backbone="model.backbone.model",
        metrics=("box_ap", "box_ap50", "box_ap75"),
        num_scenes=64,
    ),
    Pretrained(
        name="segmenter",
        script=pretrain_segmenter,
        task=INSTANCE_SEGMENTATION,
        training=train_instance_segmentation,
        backbone="model.pixel_level_module.encoder",
        metrics=("mask_ap", "mask_ap50", "box_ap"),
        num_scenes=36,
    ),
    Pretrained(
        name="semantic_segmenter",
        script=pretrain_semantic_segmenter,
        task=SEMANTIC_SEGMENTATION,
        training=train_semantic_segmentation,
        backbone="backbone",
        metrics=("mean_iou", "pixel_accuracy"),
        num_scenes=64,
    ),
]
pytestmark = pytest.mark.parametrize("pretrained", MODELS, ids=lambda pretrained: pretrained.name)
QUIET = ["--use_cpu", "--bf16", "false", "--dataloader_num_workers", "0", "--disable_tqdm", "true"]


def test_files_are_small_and_hold_half_precision(pretrained):
    files = list(pretrained.folder.iterdir())
    assert sum(file.stat().st_size for file in files) < 6_000_000
    assert {file.suffix for file in files} == {".json", ".md", ".safetensors"}
    weights = load_file(pretrained.folder / "model.safetensors").values()
    assert {weight.dtype for weight in weights if weight.is_floating_point()} == {torch.float16}


def test_is_as_good_as_its_record_says(pretrained, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained.script, "NUM_EVALUATION_SCENES", pretrained.num_scenes)
    model = pretrained.load(pretrained.folder)
    assert model.dtype == torch.float32
    record = json.loads((pretrained.folder / "training.json").read_text())
    arguments = [*QUIET, "--output_dir", str(tmp_path), "--seed", str(record["seed"])]
    metrics = pretrained.script.make_trainer(parse(arguments, pretrained.script.DEFAULTS), model).evaluate()
    for name in pretrained.metrics:
        # Of a part of the scenes one sees the metric of all but for chance.
        assert metrics[f"eval_{name}"] == pytest.approx(record["results"][name], abs=0.1)


def test_pretraining_writes_a_model_and_its_card(pretrained, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained.script, "NUM_EVALUATION_SCENES", 2)
    arguments = ["--max_steps", "2", "--per_device_train_batch_size", "2", "--warmup_steps", "1", *QUIET]
    arguments += ["--lr_scheduler_kwargs", '{"num_decay_steps": 1}', "--output_dir", str(tmp_path)]
    pretrained.script.main(arguments)
    folder = tmp_path / pretrained.name
    assert pretrained.load(folder).config.id2label == pretrained.load(pretrained.folder).config.id2label
    record = json.loads((folder / "training.json").read_text())
    assert (record["num_pictures"], record["training"]["max_steps"]) == (4, 2)
    card = (folder / "README.md").read_text()
    assert "2 steps of 2, seed 42" in " ".join(card.split())
    assert "{" not in card
    # It begins with the demonstration backbone and trains that, too.
    name = "encoder.layers.0.blocks.0.intermediate.dense.weight"
    before = load_file(Path(BACKBONE, "model.safetensors"))[f"swin.{name}"].float()
    after = load_file(folder / "model.safetensors")[f"{pretrained.backbone}.{name}"].float()
    assert 0 < (after - before).abs().max() < 0.01


def test_is_the_default_of_its_training_script(pretrained):
    model_args, data_args, method_args, _ = pretrained.training.parse(["--use_cpu"])
    assert Path(model_args.model_name_or_path).resolve() == pretrained.folder
    assert data_args.dataset is None
    assert (method_args.method, method_args.bottleneck_dim) == ("mona", 8)
