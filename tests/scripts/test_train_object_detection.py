"""The detection script: run as a user runs it on tiny data in the real formats, resumed, on two processes."""

import json
import re
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image as PILImage
from transformers import (
    DeformableDetrConfig,
    DeformableDetrForObjectDetection,
    DeformableDetrImageProcessorPil,
    RTDetrImageProcessorPil,
    SwinConfig,
    SwinForImageClassification,
    ViTImageProcessorPil,
)

from mona_peft.tasks.data.augmentation import augmentation
from mona_peft.tasks.data.objects.detection import augment_objects, collate
from mona_peft.tasks.training.arguments import recipe
from scripts.train_object_detection import main, parse
from tests.folders import write_coco, write_voc
from tests.models import FOUR_STAGES
from tests.names import CHECKPOINTING
from tests.script_runs import TORCHRUN, equal_weights, run_python, weights
from tests.test_tuner import detector


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("coco") / "data"
    write_coco(folder, train=6, val=2)
    return folder


@pytest.fixture(scope="module")
def rt_detr(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rt_detr")
    torch.manual_seed(0)
    detector().save_pretrained(folder)
    RTDetrImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


@pytest.fixture
def arguments(rt_detr, coco, tmp_path) -> list[str]:
    """Two steps on the CPU with a narrow Mona."""
    return [
        *("--model_name_or_path", str(rt_detr), "--dataset", str(coco), "--output_dir", str(tmp_path / "run")),
        *("--bottleneck_dim", "4", "--max_steps", "2", "--per_device_train_batch_size", "3"),
        *("--use_cpu", "--disable_tqdm", "true", "--learning_rate", "1e-2", "--warmup_steps", "0"),
    ]


CHECK = """
from mona_peft.tasks.data.objects.loading import ObjectDataArguments, load_objects
from mona_peft.tasks.objects.evaluation import average_precisions, box_detections
from mona_peft.tasks.data.objects.detection import ObjectDetectionDataset, collate
from transformers.models.auto.image_processing_auto import AutoImageProcessor
import json, torch
rows = load_objects(ObjectDataArguments(dataset={data!r}), 42)["validation"]
image_processor = AutoImageProcessor.from_pretrained({adapter!r})
images = ObjectDetectionDataset(rows, image_processor)
batch = collate([images[number] for number in range(len(images))])
with torch.no_grad():
    outputs = model.eval()(**batch)
found = average_precisions(rows, box_detections(image_processor, outputs, batch))
print(json.dumps({{"loss": outputs.loss.item(), **found}}))
"""


def reload_code(run: Path, data: Path, folder: str = "adapter") -> str:
    """The code of a run's card, and an evaluation of what it loads on all validation images at once."""
    code, *_ = re.findall(r"```python\n(.*?)```", ModelCard.load(run / folder / "README.md").text, re.DOTALL)
    return code + CHECK.format(data=str(data), adapter=str(run / folder))


def recorded_results(run: Path) -> dict[str, float]:
    return json.loads((run / "metrics.json").read_text())["results"]["validation"]


def test_run_on_two_processes_and_load_by_the_card_in_a_fresh_one(arguments, tmp_path, coco):
    output = run_python(
        *TORCHRUN, "mona_peft", "train", "object-detection", *arguments, "--per_device_eval_batch_size", "1"
    )
    run = tmp_path / "run"
    record = json.loads((run / "metrics.json").read_text())
    assert '"box_ap"' in output
    assert record["task"] == "object detection"
    assert record["classes"] == ["square", "bar"]
    assert record["num_images"] == {"train": 6, "validation": 2}
    for name in ("curves.png", "predictions.png"):
        with PILImage.open(run / name) as picture:
            assert picture.width > 500
    assert {path.suffix for path in (run / "adapter").iterdir()} == {".json", ".md", ".safetensors"}
    trained = weights(run / "adapter")
    assert {"mona", "class_embed", "enc_score_head"} <= {part for name in trained for part in name.split(".")}
    # Batch norm of the head is trained, and its statistics are saved.
    variances = [value for name, value in trained.items() if "running_var" in name]
    assert any(not torch.equal(value, torch.ones_like(value)) for value in variances)
    reloaded = json.loads(run_python("-c", reload_code(run, coco)).splitlines()[-1])
    # The loss too, though one process has seen the image with two objects and the other the one without.
    assert reloaded == pytest.approx(recorded_results(run), abs=1e-4)


@pytest.mark.filterwarnings("ignore:modules_to_save='task-head' trains:UserWarning")
@pytest.mark.parametrize(
    ("model_type", "method"), [("rt_detr", "mona"), ("deformable_detr", "mona"), ("deformable_detr", "lora")]
)
def test_new_detector_around_a_backbone(arguments, tmp_path, coco, model_type, method, capsys):
    torch.manual_seed(0)
    backbone = tmp_path / "swin"
    SwinForImageClassification(SwinConfig(**FOUR_STAGES)).save_pretrained(backbone)
    ViTImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(backbone)
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "num_queries": 8, "encoder_ffn_dim": 16}
    if model_type == "rt_detr":
        sizes |= {"encoder_hidden_dim": 32, "decoder_in_channels": [32] * 3, "num_denoising": 10}
    options = ["--model_type", model_type, "--backbone", str(backbone), "--model_config", json.dumps(sizes)]
    if model_type == "deformable_detr":
        options += ["--image_size", "48", "70"]
    main([*arguments[2:], *options, "--method", method])
    capsys.readouterr()
    exec(reload_code(tmp_path / "run", coco), {})
    reloaded = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert reloaded == pytest.approx(recorded_results(tmp_path / "run"), abs=1e-4)


@pytest.fixture
def deformable_detr(tmp_path) -> Path:
    """A model without chance: no dropout, no denoising."""
    torch.manual_seed(0)
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    backbone = SwinConfig(**FOUR_STAGES | {"out_features": ["stage2", "stage3", "stage4"], "drop_path_rate": 0.0})
    config = DeformableDetrConfig(backbone_config=backbone, num_queries=5, dropout=0.0, **sizes)
    DeformableDetrForObjectDetection(config).save_pretrained(tmp_path / "deformable")
    size = {"shortest_edge": 96, "longest_edge": 240}
    DeformableDetrImageProcessorPil(size=size).save_pretrained(tmp_path / "deformable")
    return tmp_path / "deformable"


@pytest.mark.filterwarnings("ignore:modules_to_save='task-head' trains:UserWarning")
def test_accumulated_gradients_are_those_of_the_whole_batch(arguments, tmp_path, deformable_detr):
    """Two images of two objects each."""
    write_coco(tmp_path / "data", train=3, val=2)
    annotations = tmp_path / "data" / "annotations" / "instances_train2017.json"
    content = json.loads(annotations.read_text())
    del content["images"][2]
    annotations.write_text(json.dumps(content))
    options = ["--model_name_or_path", str(deformable_detr), "--dataset", str(tmp_path / "data"), "--dropout", "0"]
    options += ["--max_steps", "1", "--optim", "sgd", "--max_grad_norm", "0", "--weight_decay", "0"]
    options += ["--augmentation", "none", "--eval_strategy", "no", "--save_strategy", "no", "--learning_rate", "0.01"]
    trained = {}
    for batch_size, accumulated in ((2, 1), (1, 2)):
        run = tmp_path / f"accumulated{accumulated}"
        sizes = ("--per_device_train_batch_size", str(batch_size), "--gradient_accumulation_steps", str(accumulated))
        main([*arguments, *options, *sizes, "--output_dir", str(run)])
        trained[accumulated] = weights(run / "adapter")
    start = DeformableDetrForObjectDetection.from_pretrained(deformable_detr)
    moved = trained[1]["base_model.model.model.input_proj.0.0.weight"]
    assert (moved - start.model.input_proj[0][0].weight).abs().max() > 1e-4
    for name, value in trained[1].items():
        torch.testing.assert_close(trained[2][name], value, atol=1e-5, rtol=0, msg=name)


def test_pascal_voc_with_gradient_accumulation(arguments, tmp_path):
    write_voc(tmp_path / "voc", trainval=4, test=3)
    options = ["--train_split", "trainval", "--validation_split", "test", "--gradient_accumulation_steps", "2"]
    options += ["--bf16", "--method", "fixed", f"--{CHECKPOINTING}"]
    main([*arguments, "--dataset", str(tmp_path / "voc"), *options])
    record = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert record["classes"] == ["bar", "square"]
    assert not [name for name in weights(tmp_path / "run" / "adapter") if "mona" in name]


def test_resumed_equals_uninterrupted(arguments, tmp_path):
    options = ["--max_steps", "3", "--save_strategy", "steps", "--save_steps", "1", "--eval_strategy", "no"]
    main([*arguments, *options, "--output_dir", str(tmp_path / "straight")])
    # What an interruption after the first of three steps leaves.
    (tmp_path / "run").mkdir()
    (tmp_path / "straight" / "checkpoint-2").rename(tmp_path / "run" / "checkpoint-2")
    main([*arguments, *options, "--resume_from_checkpoint", "last"])
    assert equal_weights(tmp_path / "run" / "adapter", tmp_path / "straight" / "adapter")


def test_images_of_several_sizes_are_padded_and_masked():
    rows = [{"pixel_values": torch.ones(3, height, width), "labels": number} for number, (height, width) in
            enumerate([(4, 6), (5, 3)])]  # fmt: skip
    batch = collate(rows)
    assert batch["labels"] == [0, 1]
    assert batch["pixel_mask"].sum((1, 2)).tolist() == [24, 15]
    assert torch.equal(batch["pixel_values"], batch["pixel_mask"][:, None].expand(2, 3, 5, 6).float())
    assert "pixel_mask" not in collate(rows[:1])


def test_boxes_follow_crop_and_flip():
    """The mean colour under a box stays that of its object."""
    image = PILImage.new("RGB", (60, 40))
    image.paste((255, 0, 0), (10, 5, 30, 25))
    objects = {"bbox": [[10.0, 5.0, 20.0, 20.0]], "category": [1], "area": [200.0], "iscrowd": [False]}

    seen = set()
    for seed in range(20):
        random = Random(seed)
        cropped, changed = augment_objects(augmentation("light"), image, objects, random)
        for box, area in zip(changed["bbox"], changed["area"], strict=True):
            left, top, width, height = box
            inside = cropped.crop((round(left), round(top), round(left + width), round(top + height)))
            assert inside.getextrema()[0] == (255, 255)
            assert area == pytest.approx(width * height / 2)
            red = (np.asarray(cropped)[..., 0] == 255).sum()
            assert red == pytest.approx(width * height)
        seen.add(tuple(map(tuple, changed["bbox"])))
    assert len(seen) > 10
    assert objects["bbox"] == [[10.0, 5.0, 20.0, 20.0]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model_name_or_path", "no/such-model"], "--model no/such-model: neither a folder"),
        (["--image_size", "400", "600"], r"type rt_detr takes images of one size.*--image_size 640"),
        (["--test_split", "minival"], "--test_split minival: the dataset has no such split. It has: train, val"),
        (["--model_type", "rt_detr"], "describe a new model"),
        (["--image_size", "50"], r"the sides of the images must be multiples of \d+ .*and are 50 x 50"),
        (["--image_size", "1", "2", "3"], "--image_size 1 2 3: one number or two"),
    ],
)
def test_wrong_argument_is_named(arguments, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        main([*arguments, *options])
    assert not (tmp_path / "run").exists()


def test_a_model_that_is_given_takes_the_place_of_the_presets():
    model_args, *_ = parse(["--use_cpu", "--preset", "paper_detection", "--model_name_or_path", "somebody/detector"])
    assert model_args.model_name_or_path == "somebody/detector"
    assert (model_args.model_type, model_args.model_config) == (None, None)
    model_args, *_ = parse(["--use_cpu", "--model_type", "rt_detr", "--backbone", "somebody/swin"])
    assert (model_args.model_name_or_path, model_args.model_type) == (None, "rt_detr")
    model_args, *_ = parse(["--use_cpu", "--preset", "paper_detection", "--backbone", "somebody/swin"])
    assert (model_args.backbone, model_args.model_type) == ("somebody/swin", "retinanet")


def test_preset_of_the_paper():
    model_args, data_args, method_args, args = parse(["--preset", "paper_detection", "--use_cpu"])
    assert model_args.model_type == "retinanet"
    assert model_args.backbone == "microsoft/swin-large-patch4-window7-224-in22k"
    assert model_args.model_config == {"backbone_config": {"drop_path_rate": 0.2}}
    assert (method_args.method, method_args.bottleneck_dim, method_args.init_weights) == ("mona", 64, "paper")
    assert (args.learning_rate, args.weight_decay, args.num_train_epochs) == (1e-4, 0.05, 12)
    assert (args.lr_scheduler_kwargs, args.max_grad_norm) == ({"milestones": [9]}, 0)
    assert recipe(args)["lr_scheduler_kwargs"] == {"milestones": [9]}
    assert (data_args.image_size, data_args.augmentation) == ([600, 1000], "none")
    assert data_args.horizontal_flip
    assert (data_args.train_split, data_args.validation_split) == ("trainval", "test")
