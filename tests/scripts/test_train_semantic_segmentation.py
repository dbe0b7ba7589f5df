"""The segmentation script: run as a user runs it, with every family of models, resumed, on two processes."""

import json
import re
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from transformers import (
    Mask2FormerImageProcessorPil,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SwinConfig,
    SwinForImageClassification,
    TrainingArguments,
    ViTImageProcessorPil,
)
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from mona_peft.tasks.data.segmentation.dataset import IGNORE_INDEX, EvaluationImages, collate
from mona_peft.tasks.data.segmentation.loading import SegmentationDataArguments, load_semantic_segmentation
from mona_peft.tasks.models.arguments import DenseModelArguments
from mona_peft.tasks.models.loading import load_dense_model
from mona_peft.tasks.segmentation.evaluation import SegmentationMetrics, SemanticSegmentationTrainer
from mona_peft.tasks.task import SEMANTIC_SEGMENTATION
from scripts.train_semantic_segmentation import main, parse
from tests.folders import SHAPES, write_masks
from tests.models import FOUR_STAGES, upernet
from tests.script_runs import ROOT, TORCHRUN, equal_weights, interrupt, run_python, saved_folder, weights

SMALL = {
    "upernet": {"hidden_size": 16, "pool_scales": [1, 2], "auxiliary_channels": 16},
    "mask2former": {
        **dict.fromkeys(("feature_size", "mask_feature_size", "hidden_dim"), 32),
        **dict.fromkeys(("encoder_feedforward_dim", "dim_feedforward"), 16),
        **{"encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 2, "num_queries": 5},
        "train_num_points": 64,
    },
    "maskformer": {
        **dict.fromkeys(("fpn_feature_size", "mask_feature_size"), 32),
        "decoder_config": {
            **{"model_type": "detr", "d_model": 32, "num_queries": 5, "dropout": 0.0},
            **dict.fromkeys(("encoder_layers", "decoder_layers"), 1),
            **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 16),
            **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2),
        },
    },
}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("classifier")
    torch.manual_seed(0)
    SwinForImageClassification(SwinConfig(**FOUR_STAGES, drop_path_rate=0.0)).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    write_masks(folder, {"train": 9, "validation": 5})
    (folder / "classes.txt").write_text("\n".join(SHAPES))
    return folder


@pytest.fixture
def common(shapes, tmp_path) -> list[str]:
    """Two steps of four images on the CPU, with a narrow Mona."""
    return [
        *("--dataset", str(shapes), "--output_dir", str(tmp_path / "run"), "--use_cpu", "--disable_tqdm", "true"),
        *("--image_size", "32", "--crop_size", "32", "--bottleneck_dim", "4", "--learning_rate", "1e-2"),
        *("--per_device_train_batch_size", "4", "--per_device_eval_batch_size", "2", "--num_train_epochs", "1"),
    ]


def new_model(model_type: str, backbone: Path) -> list[str]:
    return ["--model_type", model_type, "--backbone", str(backbone), "--model_config", json.dumps(SMALL[model_type])]


SETTINGS = {"num_classes": len(SHAPES)}


def reloaded(run: Path, method: str) -> torch.nn.Module:
    card = ModelCard.load(run / saved_folder(method) / "README.md")
    code, *_ = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    names: dict[str, torch.nn.Module] = {}
    exec(code, names)
    return names["model"].eval()


def evaluate(run: Path, shapes: Path, tmp_path: Path, method: str = "mona") -> dict[str, float]:
    """Metrics on the validation images of what the card of a run loads."""
    processor = AutoImageProcessor.from_pretrained(run / saved_folder(method))
    splits, classes, _ = load_semantic_segmentation(SegmentationDataArguments(dataset=str(shapes)), seed=0)
    images = EvaluationImages(splits["validation"], **SETTINGS, image_processor=processor, image_size=32)
    args = TrainingArguments(
        output_dir=str(tmp_path / "evaluation"),
        use_cpu=True,
        batch_eval_metrics=True,
        report_to="none",
        per_device_eval_batch_size=2,
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    args.label_names = ["labels"]
    metrics = SegmentationMetrics(classes)
    trainer = SemanticSegmentationTrainer(
        model=reloaded(run, method),
        args=args,
        data_collator=collate,
        processing_class=processor,
        compute_metrics=metrics,
        num_classes=len(classes),
    )
    return trainer.evaluate(images)


def record_of(run: Path) -> dict:
    return json.loads((run / "metrics.json").read_text())


def test_batch_norm_of_a_head_alone_is_trained_saved_and_loaded(common, classifier, shapes, tmp_path):
    main(
        [
            *common,
            *new_model("upernet", classifier),
            "--method",
            "fixed",
        ]
    )
    run = tmp_path / "run"
    assert record_of(run)["history"][-1]["step"] == 2  # batches of four of nine images: no batch of a single one
    trained = weights(run / "adapter")
    statistics = {name: value for name, value in trained.items() if name.endswith("running_mean")}
    assert len(statistics) == len(
        [module for module in upernet().modules() if isinstance(module, torch.nn.BatchNorm2d)]
    )
    assert all(value.abs().max() > 0 for value in statistics.values())
    frozen = [name for name in trained if ".backbone." in name and ".mona." not in name]
    assert not frozen
    results, again = record_of(run)["results"]["validation"], evaluate(run, shapes, tmp_path)
    assert {name: again[f"eval_{name}"] for name in results} == pytest.approx(results, abs=1e-5)


def pretrained_segformer(folder: Path) -> list[str]:
    config = SegformerConfig(
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
        num_labels=7,
    )
    SegformerForSemanticSegmentation(config).save_pretrained(folder)
    SegformerImageProcessorPil().save_pretrained(folder)
    return ["--model_name_or_path", str(folder)]


def pretrained_upernet(folder: Path) -> list[str]:
    upernet().save_pretrained(folder)
    SegformerImageProcessorPil(do_reduce_labels=True).save_pretrained(folder)
    return ["--model_name_or_path", str(folder)]


@pytest.mark.parametrize("family", ["segformer", "mask2former", "maskformer"])
def test_other_families_train_and_come_back(common, classifier, shapes, tmp_path, family):
    model = pretrained_segformer(tmp_path / "model") if family == "segformer" else new_model(family, classifier)
    main([*common, *model])
    run = tmp_path / "run"
    results, again = record_of(run)["results"]["validation"], evaluate(run, shapes, tmp_path)
    # Mask2Former draws the points at which its loss compares masks.
    expected = {name: value for name, value in results.items() if name != "loss" or family != "mask2former"}
    assert {name: again[f"eval_{name}"] for name in expected} == pytest.approx(expected, abs=1e-5)


def test_pictures_ask_for_no_loss_which_other_processes_would_have_to_share(classifier, shapes, tmp_path, monkeypatch):
    splits, classes, _ = load_semantic_segmentation(SegmentationDataArguments(dataset=str(shapes)), seed=0)
    args = DenseModelArguments(
        backbone=str(classifier), model_type="mask2former", model_config=json.dumps(SMALL["mask2former"])
    )
    model = load_dense_model(SEMANTIC_SEGMENTATION, args, classes)
    processor = Mask2FormerImageProcessorPil(size={"height": 32, "width": 32}, ignore_index=IGNORE_INDEX)
    trainer = SemanticSegmentationTrainer(
        model=model,
        args=TrainingArguments(str(tmp_path / "run"), use_cpu=True, report_to="none", remove_unused_columns=False),
        data_collator=collate,
        processing_class=processor,
        num_classes=len(classes),
    )
    images = EvaluationImages(splits["validation"], **SETTINGS, image_processor=processor, image_size=32)
    monkeypatch.setattr(model, "get_loss_dict", None)
    class_map = trainer.predict_class_map(images[0])
    assert class_map.shape == images[0]["truth"].shape


def test_pretrained_upernet_in_windows_and_mixed_precision(common, tmp_path):
    model = pretrained_upernet(tmp_path / "model")
    main([*common, *model, "--eval_mode", "slide", "--image_size", "40", "--bf16", "--scales", "1", "1"])
    assert 0 <= record_of(tmp_path / "run")["results"]["validation"]["mean_iou"] < 1
    assert {tensor.dtype for tensor in weights(tmp_path / "run" / "adapter").values()} <= {
        torch.float32,
        torch.int64,
    }


def test_interrupted_and_resumed_equals_uninterrupted(common, classifier, tmp_path, monkeypatch):
    options = ["--num_train_epochs", "2", "--save_strategy", "steps", "--save_steps", "1", "--dropout", "0.5"]
    arguments = [*common, *new_model("upernet", classifier), *options]
    main([*arguments, "--output_dir", str(tmp_path / "straight")])
    with monkeypatch.context() as patch:
        interrupt(patch, steps=3)
        with pytest.raises(SystemExit, match="--resume_from_checkpoint last"):
            main(arguments)
    main([*arguments, "--resume_from_checkpoint", "last"])
    assert equal_weights(tmp_path / "run" / "adapter", tmp_path / "straight" / "adapter")
    assert record_of(tmp_path / "run")["results"] == record_of(tmp_path / "straight")["results"]


def test_full_fine_tuning_is_resumed_and_its_best_model_comes_back(common, classifier, shapes, tmp_path, monkeypatch):
    options = [*new_model("upernet", classifier), "--method", "full", "--max_steps", "4", "--learning_rate", "1e-3"]
    options += ["--eval_strategy", "steps", "--eval_steps", "2", "--save_strategy", "steps", "--save_steps", "2"]
    options += ["--load_best_model_at_end", "--metric_for_best_model", "loss"]
    main([*common, *options, "--output_dir", str(tmp_path / "straight")])
    with monkeypatch.context() as patch:
        interrupt(patch, steps=3)
        with pytest.raises(SystemExit, match="last` goes on"):
            main([*common, *options])
    main([*common, *options, "--resume_from_checkpoint", "last"])
    run = tmp_path / "run"
    assert equal_weights(run / "model", tmp_path / "straight" / "model")
    again = evaluate(run, shapes, tmp_path, "full")
    assert again["eval_mean_iou"] == pytest.approx(record_of(run)["results"]["validation"]["mean_iou"], abs=1e-5)


@pytest.fixture(scope="module")
def equal_images(tmp_path_factory) -> Path:
    """Eight times one training image, so that batch norm sees the same in batches of any size; five to evaluate."""
    folder = tmp_path_factory.mktemp("equal")
    write_masks(folder, {"train": 8, "validation": 5})
    (folder / "classes.txt").write_text("\n".join(SHAPES))
    for kind, suffix in (("images", "jpg"), ("masks", "png")):
        first = (folder / kind / "train" / f"0.{suffix}").read_bytes()
        for number in range(1, 8):
            (folder / kind / "train" / f"{number}.{suffix}").write_bytes(first)
    return folder


@pytest.fixture
def still(common, classifier, equal_images) -> list[str]:
    """A single step, with nothing random: the crop is the whole image."""
    return [
        *common,
        *new_model("upernet", classifier),
        *("--dataset", str(equal_images), "--scales", "1", "1", "--crop_size", "40", "--max_class_share", "1"),
        *("--horizontal_flip", "false", "--dropout", "0", "--max_steps", "1", "--logging_steps", "1"),
        *("--per_device_eval_batch_size", "1"),
    ]


def first_step(run: Path) -> tuple[float, float]:
    entry = next(entry for entry in record_of(run)["history"] if "grad_norm" in entry)
    return entry["loss"], entry["grad_norm"]


def test_run_on_two_processes_as_on_one_and_load_by_the_card(still, equal_images, tmp_path):
    main([*still, "--per_device_train_batch_size", "8", "--output_dir", str(tmp_path / "one")])
    printed = run_python(*TORCHRUN, "scripts.train_semantic_segmentation", *still)  # and loaded in this process
    run = tmp_path / "run"
    record, results = record_of(run), record_of(tmp_path / "one")["results"]["validation"]
    assert first_step(run) == pytest.approx(first_step(tmp_path / "one"), rel=1e-3)
    assert record["results"]["validation"] == pytest.approx(results, rel=1e-4)
    assert record["class_iou"] == record_of(tmp_path / "one")["class_iou"]

    assert '"mean_iou"' in printed
    assert record["classes"] == SHAPES
    assert record["num_images"] == {"train": 8, "validation": 5}
    assert record["class_iou"]["validation"].keys() == set(SHAPES)
    with Image.open(run / "curves.png") as curves, Image.open(run / "predictions.png") as pictures:
        assert curves.width > 500
        assert pictures.width == 5 * 198 + 6  # input, truth, before, at the first evaluation, after
    assert not [path.name for path in run.iterdir() if path.name.startswith(".")]
    assert {path.suffix for path in (run / "adapter").iterdir()} == {".json", ".md", ".safetensors"}
    assert "image-segmentation" in (run / "adapter" / "README.md").read_text()
    again = evaluate(run, equal_images, tmp_path)
    assert {name: again[f"eval_{name}"] for name in results} == pytest.approx(results, rel=1e-4)


def test_loss_does_not_depend_on_accumulation(still, tmp_path):
    batches = {"large": ["8", "1"], "accumulated": ["2", "4"]}
    for name, (size, steps) in batches.items():
        options = ["--per_device_train_batch_size", size, "--gradient_accumulation_steps", steps]
        main([*still, *options, "--eval_strategy", "no", "--output_dir", str(tmp_path / name)])
    assert first_step(tmp_path / "accumulated") == pytest.approx(first_step(tmp_path / "large"), rel=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--per_device_train_batch_size", "10"], "9 training images are fewer than a batch of 10"),
        (["--per_device_train_batch_size", "1"], "need two images at least"),
        (["--scales", "2"], r"--scales 2.0: positive numbers are wanted, and two scales"),
        (["--crop_size", "0"], r"--crop_size 0, .*positive numbers are wanted"),
        (["--dataset", "no/such"], "--dataset no/such: neither a folder"),
        (["--model_config", "{"], "--model_config {: not an object in JSON"),
        (["--backbone", "no/such"], "--backbone no/such: neither a folder"),
        (["--preset", "fast"], "Presets are: .*ade20k"),
    ],
)
def test_wrong_arguments_are_named_before_anything_is_written(common, classifier, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        main([*common, *new_model("upernet", classifier), *options])
    assert not (tmp_path / "run").exists()


def test_ade20k_preset_is_the_authors_schedule():
    model_args, data_args, method_args, args = parse(["--preset", "ade20k", "--use_cpu"])
    assert (model_args.model_type, model_args.backbone) == ("upernet", "microsoft/swin-large-patch4-window7-224-in22k")
    assert (method_args.method, method_args.bottleneck_dim, method_args.init_weights) == ("mona", 64, "paper")
    assert (args.optim, args.learning_rate, args.weight_decay) == ("adamw_torch", 3e-4, 0.01)
    assert (args.max_steps, args.get_warmup_steps(160_000), args.lr_scheduler_type) == (160_000, 1500, "linear")
    assert args.per_device_train_batch_size == 16
    assert (data_args.image_size, data_args.crop_size, data_args.scales) == (512, 512, [0.5, 2.0])
    assert data_args.reduce_labels
    assert data_args.eval_mode == "whole"


def test_default_arguments_are_the_scenes():
    model_args, data_args, method_args, _ = parse(["--use_cpu"])
    assert (ROOT / model_args.model_name_or_path / "model.safetensors").is_file()
    assert data_args.dataset is None
    assert method_args.bottleneck_dim == 8
