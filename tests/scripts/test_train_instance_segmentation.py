"""The instance segmentation script: run as a user runs it, resumed, accumulated, and given what it can't use."""

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from torch import nn
from transformers import (
    DetrConfig,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    MaskFormerConfig,
    MaskFormerForInstanceSegmentation,
    SwinConfig,
    SwinForImageClassification,
    ViTImageProcessorPil,
)
from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil
from transformers.models.maskformer.image_processing_pil_maskformer import MaskFormerImageProcessorPil

from scripts.train_instance_segmentation import main, parse
from tests.folders import write_coco
from tests.models import FOUR_STAGES
from tests.script_runs import TORCHRUN, equal_weights, interrupt, run_python, weights

SIZE = {"height": 64, "width": 64}
BACKBONE = FOUR_STAGES | {"depths": [1, 1, 1, 1], "embed_dim": 8, "num_heads": [1, 1, 2, 2], "drop_path_rate": 0.0}
NUM_LABELS = 5  # more than the data has


HEAD = {
    "feature_size": 32,
    "mask_feature_size": 32,
    "hidden_dim": 32,
    "encoder_feedforward_dim": 16,
    "dim_feedforward": 16,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "num_attention_heads": 2,
    "num_queries": 5,
    "train_num_points": 64,
}


def mask2former() -> nn.Module:
    config = Mask2FormerConfig(backbone_config=SwinConfig(**BACKBONE), num_labels=NUM_LABELS, **HEAD)
    return Mask2FormerForUniversalSegmentation(config)


def maskformer() -> nn.Module:
    decoder = DetrConfig(
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        num_queries=5,
        dropout=0.0,
    )
    config = MaskFormerConfig(
        backbone_config=SwinConfig(**BACKBONE),
        decoder_config=decoder.to_dict(),
        fpn_feature_size=32,
        mask_feature_size=32,
        num_labels=NUM_LABELS,
    )
    return MaskFormerForInstanceSegmentation(config)


@pytest.fixture(scope="session")
def segmenters(tmp_path_factory) -> dict[str, Path]:
    """Folders of random models with heads for five classes, and their image processors."""
    folders = {}
    for build, processor in ((mask2former, Mask2FormerImageProcessorPil), (maskformer, MaskFormerImageProcessorPil)):
        folder = folders[build.__name__] = tmp_path_factory.mktemp(build.__name__)
        torch.manual_seed(0)
        build().save_pretrained(folder)
        processor(size=SIZE).save_pretrained(folder)
    return folders


@pytest.fixture(scope="session")
def coco_folder(tmp_path_factory) -> Path:
    """Six images to train on and four to validate: polygons, RLE of both kinds, a crowd, an image without objects."""
    folder = tmp_path_factory.mktemp("data") / "coco"
    write_coco(folder, train=6, val=4)
    return folder


@pytest.fixture
def arguments(segmenters, coco_folder, tmp_path) -> Callable[..., list[str]]:
    """Makes arguments of a run of two steps on the CPU with a narrow Mona."""

    def make(*more: str, model: str = "mask2former", name: str = "run") -> list[str]:
        return [
            *("--model_name_or_path", str(segmenters[model]), "--dataset", str(coco_folder)),
            *("--output_dir", str(tmp_path / name), "--use_cpu", "--disable_tqdm", "true"),
            *("--bottleneck_dim", "4", "--max_steps", "2", "--per_device_train_batch_size", "2"),
            *more,
        ]

    return make


def test_run_on_two_processes_and_load_by_the_card(arguments, tmp_path, coco_folder):
    # As many steps as it takes to find anything at all.
    options = ["--max_steps", "30", "--learning_rate", "3e-3", "--augmentation", "none", "--eval_strategy", "no"]
    output = run_python(*TORCHRUN, "scripts.train_instance_segmentation", *arguments(*options))
    run = tmp_path / "run"
    record = json.loads((run / "metrics.json").read_text())
    assert record["classes"] == ["square", "bar"]
    assert record["num_images"] == {"train": 6, "validation": 4}
    results = record["results"]["validation"]
    assert {"loss", "mask_ap", "mask_ap50", "mask_ap75", "box_ap", "box_ap50", "box_ap75"} <= results.keys()
    assert output.count('"mask_ap"') == 1  # the other process is silent
    for picture in ("curves.png", "predictions.png"):
        with Image.open(run / picture) as opened:
            assert opened.width > 500
    assert {path.suffix for path in (run / "adapter").iterdir()} == {".json", ".md", ".safetensors"}
    # What stands outside the backbone is trained and saved, the new head for two classes too.
    shapes = {name: tuple(weight.shape) for name, weight in weights(run / "adapter").items()}
    assert shapes["base_model.model.class_predictor.weight"] == (3, 32)
    assert any(".transformer_module." in name for name in shapes)
    assert any(".pixel_level_module.decoder." in name for name in shapes)
    assert any(".mona" in name for name in shapes)

    card = ModelCard.load(run / "adapter" / "README.md")
    assert {"mona", "image-segmentation"} <= set(card.data.tags)
    code, *_ = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    check = f"""
import json
import torch
from mona_peft.tasks.data.objects.loading import ObjectDataArguments, load_objects
from mona_peft.tasks.objects.evaluation import BOXES_AND_MASKS, average_precisions, find_instances
from mona_peft.tasks.data.objects.instances import InstanceDataset, collate_instances
from transformers.models.auto.image_processing_auto import AutoImageProcessor
processor = AutoImageProcessor.from_pretrained({str(run / "adapter")!r})
rows = load_objects(ObjectDataArguments(dataset={str(coco_folder)!r}), 42, with_masks=True)["validation"]
images = InstanceDataset(rows, processor)
batch = collate_instances([images[index] for index in range(len(images))])
with torch.no_grad():
    detections = find_instances(processor, model.eval()(batch["pixel_values"]), batch)
print(json.dumps(average_precisions(rows, detections, BOXES_AND_MASKS)))
"""
    reloaded = json.loads(run_python("-c", code + check).splitlines()[-1])
    assert min(reloaded["box_ap50"], reloaded["mask_ap50"]) > 0.1
    assert reloaded == pytest.approx({name: value for name, value in results.items() if name != "loss"}, abs=1e-4)


def test_interrupted_and_resumed_equals_uninterrupted(arguments, tmp_path, monkeypatch):
    options = ["--max_steps", "4", "--save_strategy", "steps", "--save_steps", "1", "--eval_strategy", "no"]
    main(arguments(*options, name="straight"))
    with monkeypatch.context() as patch:
        interrupt(patch, steps=2)
        with pytest.raises(SystemExit, match="--resume_from_checkpoint last"):
            main(arguments(*options))
    # A picture of what the model found before the training is there from the start.
    assert (tmp_path / "run" / "predictions.png").is_file()
    main(arguments(*options, "--resume_from_checkpoint", "last"))
    assert equal_weights(tmp_path / "run" / "adapter", tmp_path / "straight" / "adapter")
    straight, resumed = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("straight", "run"))
    del straight["results"]["validation"]["loss"], resumed["results"]["validation"]["loss"]  # of points drawn at random
    assert resumed["results"] == straight["results"]


def test_accumulated_batches_train_as_one(arguments, tmp_path):
    # MaskFormer draws no random points for its loss, and each of the first four images has two instances.
    options = [
        *("--max_steps", "1", "--train_sampling_strategy", "sequential", "--augmentation", "none", "--dropout", "0"),
        *("--optim", "sgd", "--learning_rate", "1e-2", "--max_grad_norm", "0", "--warmup_steps", "0"),
    ]
    main(arguments(*options, "--per_device_train_batch_size", "4", model="maskformer", name="one"))
    parts = ["--per_device_train_batch_size", "1", "--gradient_accumulation_steps", "4"]
    main(arguments(*options, *parts, model="maskformer", name="four"))
    one, four = (weights(tmp_path / name / "adapter") for name in ("one", "four"))
    for name in one:
        torch.testing.assert_close(four[name], one[name], atol=2e-6, rtol=1e-4, msg=name)
    losses = [json.loads((tmp_path / name / "metrics.json").read_text())["history"] for name in ("one", "four")]
    one, four = (next(entry["train_loss"] for entry in history if "train_loss" in entry) for history in losses)
    assert four == pytest.approx(one, rel=1e-4)


def test_new_head_around_a_pretrained_classifier_in_bfloat16(arguments, tmp_path):
    folder = tmp_path / "swin"
    SwinForImageClassification(SwinConfig(**BACKBONE | {"out_features": None})).save_pretrained(folder)
    ViTImageProcessorPil(size=SIZE).save_pretrained(folder)
    model = ["--model_type", "mask2former", "--backbone", str(folder), "--model_config", json.dumps(HEAD)]
    main([*model, *arguments("--method", "fixed", "--bf16")[2:]])
    run = tmp_path / "run"
    assert {weight.dtype for weight in weights(run / "adapter").values()} == {torch.float32}
    assert json.loads((run / "adapter" / "config.json").read_text())["num_queries"] == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dataset", "no/such-dataset"], "--dataset no/such-dataset: neither a folder here nor a dataset"),
        (["--model_name_or_path", "no/such-model"], "--model no/such-model: neither a folder"),
        (["--lr_scheduler_kwargs", '{"milestones": [1]}'], "--lr_scheduler_type cosine"),
        (["--validation_split", "dev"], "--validation_split dev: the dataset has no such split"),
    ],
)
def test_wrong_argument_is_named(arguments, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        main(arguments(*options))
    assert not (tmp_path / "run").exists()


def test_a_classifier_is_no_segmenter(arguments, swin_folder):
    with pytest.raises(ValueError, match="a model of type swin, not one for this task: mask2former, maskformer"):
        main(arguments("--model_name_or_path", str(swin_folder)))


def test_images_of_several_sizes_need_one_that_is_given(arguments, tmp_path, segmenters):
    folder = tmp_path / "model"
    torch.manual_seed(0)
    maskformer().save_pretrained(folder)
    MaskFormerImageProcessorPil(size={"shortest_edge": 32, "longest_edge": 64}).save_pretrained(folder)
    with pytest.raises(ValueError, match=r"type maskformer takes images of one size.*32.*--image_size"):
        main(arguments("--model_name_or_path", str(folder)))
    main(arguments("--model_name_or_path", str(folder), "--image_size", "64", "--max_steps", "1"))
    saved = json.loads((tmp_path / "run" / "adapter" / "preprocessor_config.json").read_text())
    assert saved["size"] == SIZE


def test_more_instances_than_queries_are_counted_before_training(arguments, tmp_path, coco_folder, caplog):
    annotation = json.loads((coco_folder / "annotations" / "instances_train2017.json").read_text())
    first = annotation["annotations"][0]
    copies = [{**first, "id": 1000 + number} for number in range(5)]
    folder = tmp_path / "coco"
    write_coco(folder, train=6, val=4)
    annotation["annotations"] += copies
    (folder / "annotations" / "instances_train2017.json").write_text(json.dumps(annotation))
    with caplog.at_level(logging.WARNING):
        main(arguments("--dataset", str(folder), "--max_steps", "1"))
    assert "1 of 6 training images have more objects than the model can find in one (num_queries 5), up to 7" in (
        caplog.text
    )


def test_paper_preset_is_the_papers_schedule():
    model_args, data_args, method_args, args = parse(["--preset", "paper_instance_segmentation", "--use_cpu"])
    assert (model_args.model_type, model_args.backbone) == (
        "mask2former",
        "microsoft/swin-base-patch4-window7-224-in22k",
    )
    assert (method_args.method, method_args.bottleneck_dim, method_args.init_weights) == ("mona", 64, "paper")
    assert (args.optim, args.learning_rate, args.weight_decay) == ("adamw_torch", 1e-4, 0.05)
    assert (args.per_device_train_batch_size, args.num_train_epochs) == (16, 36)
    assert args.lr_scheduler_kwargs == {"milestones": [27, 33]}
    assert (data_args.image_size, data_args.augmentation) == (800, "light")
