"""Dense heads on plain ViTs by the training scripts: trained, saved, loaded again, and what they refuse."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from transformers import (
    BitImageProcessorPil,
    Dinov2Config,
    Dinov2Model,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    DPTConfig,
    DPTForSemanticSegmentation,
    DPTImageProcessorPil,
    EomtConfig,
    EomtDinov3Config,
    EomtDinov3ForUniversalSegmentation,
    EomtForUniversalSegmentation,
    EomtImageProcessorPil,
    LwDetrConfig,
    LwDetrForObjectDetection,
    LwDetrViTConfig,
    Trainer,
)
from transformers.models.deformable_detr.image_processing_pil_deformable_detr import DeformableDetrImageProcessorPil

import mona_peft
from mona_peft import cli
from scripts import train_instance_segmentation, train_object_detection, train_semantic_segmentation
from tests.script_runs import weights
from tests.test_detectors import DETECTORS, OF_GROUPS
from tests.tiny_configs import LW_DETR
from tests.tiny_runs import FEW_STEPS, RT_DETR, UPERNET, dataset

VIT = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "patch_size": 8}
DINOV3 = {**VIT, "intermediate_size": 24, "num_register_tokens": 2}
EOMT = {"num_blocks": 1, "num_queries": 5, "num_register_tokens": 2, "num_upscale_blocks": 1, "train_num_points": 64}
DPT = {
    **{"image_size": 32, "intermediate_size": 24, "backbone_out_indices": [0, 1, 2, 3], "readout_type": "project"},
    **{"neck_hidden_sizes": [8] * 4, "fusion_hidden_size": 8, "is_hybrid": False},
}
SIZES = ["--image_size", "40", "--crop_size", "32"]


def save(folder: Path, model: torch.nn.Module, processor: object) -> str:
    torch.manual_seed(0)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def eomt(folder: Path, name: str = "eomt") -> str:
    config, model_class = {
        "eomt": (EomtConfig(**VIT, **EOMT, image_size=32, num_labels=7), EomtForUniversalSegmentation),
        "eomt_dinov3": (
            EomtDinov3Config(**DINOV3 | EOMT, image_size=32, num_labels=7),
            EomtDinov3ForUniversalSegmentation,
        ),
    }[name]
    processor = EomtImageProcessorPil(size={"shortest_edge": 32, "longest_edge": 32}, do_split_image=True)
    return save(folder, model_class(config), processor)


def dpt(folder: Path) -> str:
    return save(folder, DPTForSemanticSegmentation(DPTConfig(**VIT | DPT, num_labels=7)), DPTImageProcessorPil())


def dino(folder: Path, name: str) -> str:
    model = (
        Dinov2Model(Dinov2Config(**VIT, image_size=32))
        if name == "dinov2"
        else DINOv3ViTModel(DINOv3ViTConfig(**DINOV3))
    )
    return save(folder, model, BitImageProcessorPil(size={"height": 32, "width": 32}))


def around_dinov2(folder: Path, model_type: str, settings: dict) -> list[str]:
    config = json.dumps({**settings, "pyramid_channels": 8})
    return ["--model_type", model_type, "--backbone", dino(folder, "dinov2"), "--model_config", config]


def around_vit(folder: Path, model_type: str, backbone: str) -> list[str]:
    """An EoMT of a plain ViT; its settings, but for the registers, which are the ViT's."""
    settings = {name: value for name, value in EOMT.items() if name != "num_register_tokens"}
    return ["--model_type", model_type, "--backbone", dino(folder, backbone), "--model_config", json.dumps(settings)]


def segmenter(name: str, folder: Path) -> list[str]:
    head, _, backbone = name.partition("-")
    if head.startswith("eomt") and backbone:
        return [*around_vit(folder / "model", head, backbone), "--eval_mode", "slide"]
    if backbone:
        model_type = {"linear": "linear_segmenter"}.get(head, head)
        return ["--model_type", model_type, "--backbone", dino(folder / "model", backbone)]
    if name == "upernet":
        return around_dinov2(folder / "model", name, UPERNET)
    return ["--model", dpt(folder / "model") if name == "dpt" else eomt(folder / "model", name), "--eval_mode", "slide"]


HEADS = {
    "linear-dinov2": ["decode_head"],
    "linear-dinov3": ["decode_head"],
    "dpt-dinov2": ["neck", "decode_head"],
    "dpt-dinov3": ["neck", "decode_head"],
    "upernet": ["backbone.levels", "decode_head", "auxiliary_head"],
    "dpt": ["neck", *(f"{head}.{part}" for head in ("head.head", "auxiliary_head.head") for part in (0, 1, 4))],
    "eomt": ["query", "upscale_block", "mask_head", "class_predictor"],
    "eomt_dinov3": ["query", "upscale_block", "mask_head", "class_predictor"],
    "eomt-dinov2": ["query", "upscale_block", "mask_head", "class_predictor"],
}


LW_DETR_HEADS = [
    *(f"model.{part}" for part in ("reference_point_embed", "query_feat", "decoder")),
    *(f"model.enc_{kind}" for kind in ("output", "output_norm", "out_bbox_embed", "out_class_embed")),
    *("class_embed", "bbox_embed"),
]
"""Of RF-DETR too."""


def outputs(model: torch.nn.Module) -> list[torch.Tensor]:
    with torch.no_grad():
        found = model.eval()(torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32))
    kinds = ("logits", "pred_boxes", "class_queries_logits", "masks_queries_logits")
    return [found[kind] for kind in kinds if kind in found]


def train(
    main: Callable[[list[str]], None], arguments: list[str], folder: Path, heads: list[str], whole: bool = True
) -> dict[str, float]:
    """Trains; what is loaded from the folder is what was trained, with the whole head. Returns the results.

    `heads` are modules, or without `whole` what their names begin with.
    """
    models = []
    with pytest.MonkeyPatch.context() as patch:
        original = Trainer.train
        patch.setattr(Trainer, "train", lambda self, **given: (models.append(self.model), original(self, **given)))
        main([*arguments, *FEW_STEPS, "--output_dir", str(folder / "run")])
    saved = weights(folder / "run" / "adapter")
    of_head = {name.removeprefix("base_model.model.") for name in saved if ".mona." not in name}
    loaded = mona_peft.load(folder / "run").model
    state = loaded.get_base_model().state_dict()
    stock = {name.replace(".original_module", "") for name in state if ".modules_to_save." not in name}
    assert of_head == {
        name for name in stock if name.startswith(tuple(f"{head}." if whole else head for head in heads))
    }
    for ours, theirs in zip(outputs(loaded), outputs(models[0]), strict=True):
        assert torch.equal(ours, theirs)
    return json.loads((folder / "run" / "metrics.json").read_text())["results"]["validation"]


@pytest.mark.parametrize("name", HEADS)
def test_semantic_segmentation(tmp_path, name):
    arguments = [*segmenter(name, tmp_path), "--dataset", str(dataset("semantic-segmentation")), *SIZES]
    results = train(train_semantic_segmentation.main, arguments, tmp_path, HEADS[name])
    assert 0 < results["mean_iou"] <= 1
    assert 0 < results["loss"] < 100


@pytest.mark.parametrize("name", ["eomt", "eomt_dinov3"])
def test_instance_segmentation(tmp_path, name):
    arguments = ["--model", eomt(tmp_path / "model", name), "--dataset", str(dataset("instance-segmentation"))]
    results = train(train_instance_segmentation.main, arguments, tmp_path, HEADS["eomt"])
    assert 0 <= results["mask_ap"] <= 1


def test_instance_segmentation_of_a_plain_vit(tmp_path):
    arguments = [*around_vit(tmp_path / "model", "eomt_dinov3", "dinov3"), "--image_size", "32"]
    arguments += ["--dataset", str(dataset("instance-segmentation"))]
    results = train(train_instance_segmentation.main, arguments, tmp_path, HEADS["eomt"])
    assert 0 <= results["mask_ap"] <= 1


def test_object_detection(tmp_path):
    torch.manual_seed(0)
    backbone = LwDetrViTConfig(**LW_DETR)
    model = LwDetrForObjectDetection(LwDetrConfig(backbone_config=backbone, projector_scale_factors=[1.0], **OF_GROUPS))
    processor = DeformableDetrImageProcessorPil(size={"height": 64, "width": 64})
    arguments = ["--model", save(tmp_path / "model", model, processor), "--dataset", str(dataset("object-detection"))]
    results = train(train_object_detection.main, arguments, tmp_path, ["model.backbone.projector", *LW_DETR_HEADS])
    assert 0 <= results["box_ap"] <= 1


def test_object_detection_around_a_plain_vit(tmp_path):
    """RT-DETR on ViTDet's pyramid around a DINOv2."""
    arguments = [*around_dinov2(tmp_path / "model", "rt_detr", RT_DETR), "--image_size", "64"]
    parts = ("backbone.model.levels", "encoder", "enc", "denoising", "decoder")
    heads = [f"model.{part}" for part in parts]
    arguments += ["--dataset", str(dataset("object-detection"))]
    results = train(train_object_detection.main, arguments, tmp_path, heads, whole=False)
    assert 0 <= results["box_ap"] <= 1


def rf_detr(folder: Path) -> list[str]:
    torch.manual_seed(0)
    processor = transformers.RfDetrImageProcessor(size={"height": 64, "width": 64})
    return ["--model", save(folder, DETECTORS["rf-detr"](), processor)]


def retinanet(folder: Path) -> list[str]:
    """On images whose sides are no multiples of a patch, nor of the stride of the pyramid's last map."""
    settings = {"fpn_channels": 8, "score_threshold": 0.0}
    return [*around_dinov2(folder, "retinanet", settings), "--image_size", "60", "100"]


@pytest.mark.torchvision
@pytest.mark.parametrize(
    ("build", "heads"),
    [
        (rf_detr, ["model.backbone.projector", *LW_DETR_HEADS]),
        (retinanet, ["detector.backbone.body.levels", "detector.backbone.fpn", "detector.head"]),
    ],
    ids=["rf-detr", "retinanet"],
)
def test_detectors_that_want_torchvision(tmp_path, capsys, build, heads):
    """Typed as a user does: trained, predicted and evaluated."""
    data = dataset("object-detection")
    arguments = [*build(tmp_path / "model"), "--dataset", str(data)]
    trained = train(train_object_detection.main, arguments, tmp_path, heads, whole=False)
    run, pictures = tmp_path / "run", data / "val2017"
    assert cli.run(["predict", str(run), str(pictures), "--output", str(tmp_path / "found"), "--threshold", "0"]) == 0
    lines = (tmp_path / "found" / "predictions.jsonl").read_text().splitlines()
    assert len(lines) == len(list(pictures.iterdir()))
    assert all(json.loads(line)["boxes"] for line in lines)
    capsys.readouterr()
    assert cli.run(["evaluate", str(run), "--dataset", str(data)]) == 0
    assert f"loss: {trained['loss']:.4f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("eomt", ["--eval_mode", "whole"], "takes square images alone.*Give --eval_mode slide"),
        ("eomt", ["--crop_size", "40"], "takes squares of 32 pixels alone. Give --crop_size 32"),
        ("dpt", ["--image_size", "24"], "an --image_size that is not below --crop_size"),
        ("dpt", ["--crop_size", "30"], "the model's patches are 8 pixels wide.*for instance --crop_size 32"),
        ("eomt-dinov2", ["--crop_size", "36"], "patches are 8 pixels wide.*for instance 32"),
        ("eomt-dinov3", [], "made of a dinov2 or dinov2_with_registers. Give --model_type eomt_dinov3"),
    ],
)
def test_sizes_that_do_not_fit(tmp_path, name, options, message):
    arguments = [*segmenter(name, tmp_path), "--dataset", str(dataset("semantic-segmentation")), *SIZES, *options]
    with pytest.raises(ValueError, match=message):
        train_semantic_segmentation.main([*arguments, *FEW_STEPS, "--output_dir", str(tmp_path / "run")])


@pytest.mark.parametrize("size", ["64", "0"])
def test_instances_of_another_size_than_eomt_takes(tmp_path, size):
    arguments = ["--model", eomt(tmp_path / "model"), "--dataset", str(dataset("instance-segmentation"))]
    with pytest.raises(ValueError, match="takes images of 32 x 32 pixels alone"):
        train_instance_segmentation.main(
            [*arguments, *FEW_STEPS, "--image_size", size, "--output_dir", str(tmp_path / "run")]
        )
