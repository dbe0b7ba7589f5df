"""The command `export` on every kind of head that the commands train: verified files, or a reason."""

from __future__ import annotations

import json
from functools import partial
from types import SimpleNamespace

import pytest
from torch import nn
from transformers import (
    DeformableDetrImageProcessorPil,
    Dinov2Config,
    DPTConfig,
    DPTForSemanticSegmentation,
    EomtConfig,
    EomtForUniversalSegmentation,
    Mask2FormerImageProcessorPil,
)
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from mona_peft.cli import run as cli
from mona_peft.tasks.export.run import export_model
from mona_peft.tasks.models.dpt_segmenter import DPTSegmenterConfig, DPTSegmenterForSemanticSegmentation
from mona_peft.tasks.models.linear_segmenter import LinearSegmenterConfig, LinearSegmenterForSemanticSegmentation
from mona_peft.tasks.models.retinanet import RetinaNetConfig
from tests import test_detectors
from tests.scripts.test_plain_vits import DPT, EOMT, VIT
from tests.trained_runs import LABELS, SQUARE, Kind, write_run

SIDE = 64
MASKS = {"data": {"image_size": SIDE, "eval_mode": "whole", "crop_size": SIDE}}


def dpt() -> nn.Module:
    return DPTForSemanticSegmentation(DPTConfig(**VIT | DPT | {"image_size": SIDE}, num_labels=len(LABELS)))


def eomt() -> nn.Module:
    return EomtForUniversalSegmentation(EomtConfig(**VIT, **EOMT, image_size=SIDE, num_labels=len(LABELS)))


def linear_segmenter() -> nn.Module:
    backbone = Dinov2Config(**VIT, image_size=SIDE, out_features=["stage4"])
    return LinearSegmenterForSemanticSegmentation(LinearSegmenterConfig(backbone, num_labels=len(LABELS)))


def dpt_segmenter() -> nn.Module:
    backbone = Dinov2Config(**VIT, image_size=SIDE, out_features=[f"stage{block}" for block in range(1, 5)])
    settings = {"neck_hidden_sizes": [8] * 4, "fusion_hidden_size": 8, "readout_type": "ignore"}
    config = DPTSegmenterConfig(backbone_config=backbone, **settings, num_labels=len(LABELS))
    return DPTSegmenterForSemanticSegmentation(config)


def mask_processor() -> Mask2FormerImageProcessorPil:
    return Mask2FormerImageProcessorPil(**SQUARE)


def map_processor() -> SegformerImageProcessorPil:
    return SegformerImageProcessorPil(**SQUARE)


def box_processor() -> DeformableDetrImageProcessorPil:
    return DeformableDetrImageProcessorPil(**SQUARE)


SEMANTIC, DETECTION, INSTANCES = "semantic-segmentation", "object-detection", "instance-segmentation"
HEADS = {
    "linear_segmenter": (SEMANTIC, Kind(linear_segmenter, map_processor, **MASKS)),
    "dpt_segmenter": (SEMANTIC, Kind(dpt_segmenter, map_processor, **MASKS)),
    "dpt": (SEMANTIC, Kind(dpt, map_processor, **MASKS)),
    "eomt-semantic": (SEMANTIC, Kind(eomt, mask_processor, **MASKS)),
    "eomt-instances": (INSTANCES, Kind(eomt, mask_processor)),
    "lw-detr": (DETECTION, Kind(partial(test_detectors.make, "lw-detr"), box_processor)),
    "deformable-detr": (DETECTION, Kind(partial(test_detectors.make, "deformable-detr"), box_processor)),
}
SIZES = {"deformable-detr": ("--image_size", "128", "128")}
"""Images of 64 pixels leave its group norms a single number a channel, which PyTorch refuses."""


@pytest.mark.filterwarnings("ignore:modules_to_save='task-head' trains:UserWarning")
@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("eomt-instances", "torch"),
        *(
            pytest.param(name, format, marks=pytest.mark.slow)
            for name in HEADS
            for format in ("onnx", "torch")
            if (name, format) != ("eomt-instances", "torch")
        ),
    ],
)
def test_verified_file(name, format, tmp_path, capsys):
    task, kind = HEADS[name]
    run, out = write_run(tmp_path, task, kind), tmp_path / "out"
    command = ["export", str(run), "--format", format, "--output_dir", str(out), *SIZES.get(name, ())]
    assert cli(command) == 0, capsys.readouterr().err
    description = json.loads((out / "preprocessing.json").read_text())
    assert description["verification"]["relative"] < 1e-3


@pytest.mark.parametrize(
    ("make", "size", "message"),
    [
        (eomt, (72, 72), "72 x 72 pixels, and a model of type eomt takes images of 64 x 64 pixels alone"),
        (dpt, (64, 72), "64 x 72 pixels, and a model of type dpt takes squares alone"),
    ],
)
def test_sizes_that_a_model_does_not_take_are_refused(make, size, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        export_model(make(), map_processor(), LABELS, SEMANTIC, tmp_path, format="torch", image_size=size)


def test_retinanet_is_refused_with_the_reason(tmp_path):
    model = SimpleNamespace(config=RetinaNetConfig())
    with pytest.raises(
        ValueError, match="type retinanet can't be exported: torchvision finds its boxes image by image"
    ):
        export_model(model, box_processor(), LABELS, DETECTION, tmp_path)
