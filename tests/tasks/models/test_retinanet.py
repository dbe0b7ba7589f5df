"""RetinaNet around a Swin: torchvision's own loss and boxes, and the detection script run with it as a user runs it.

Those with torchvision run by `make test-torchvision`.
"""

import json
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from PIL import Image
from transformers import DeformableDetrImageProcessorPil, SwinConfig, SwinForImageClassification, ViTImageProcessorPil
from transformers.models.auto.modeling_auto import AutoModelForObjectDetection

from mona_peft import MonaConfig, load_backbone
from mona_peft.integration.checkpointing import enable_checkpointing
from mona_peft.tasks.data.objects.detection import collate, detector_inputs
from mona_peft.tasks.models.arguments import DenseModelArguments
from mona_peft.tasks.models.loading import load_dense_model
from mona_peft.tasks.models.retinanet import RetinaNetConfig, RetinaNetForObjectDetection
from mona_peft.tasks.objects.evaluation import box_detections
from mona_peft.tasks.task import OBJECT_DETECTION
from scripts.train_object_detection import main
from tests.folders import write_coco, write_voc
from tests.models import FOUR_STAGES
from tests.names import CHECKPOINTING
from tests.script_runs import TORCHRUN, equal_weights, run_python, saved_folder, weights
from tests.scripts.test_train_object_detection import recorded_results, reload_code

with_torchvision = pytest.mark.torchvision
SMALL = {"fpn_channels": 16, "score_threshold": 0.0}
SWIN = FOUR_STAGES | {"out_features": ["stage2", "stage3", "stage4"], "drop_path_rate": 0.0}


def new(**settings) -> RetinaNetForObjectDetection:
    torch.manual_seed(0)
    return RetinaNetForObjectDetection(RetinaNetConfig(SwinConfig(**SWIN), **SMALL | settings)).eval()


def retinanet() -> RetinaNetForObjectDetection:
    model = new(num_labels=3)
    with torch.no_grad():  # a new head says nearly the same of every place
        for parameter in model.detector.head.parameters():
            parameter.mul_(10 if parameter.ndim > 1 else 0.5)
    return model


def labels() -> list[dict[str, torch.Tensor]]:
    """Two objects in the first of three images, none in the second."""
    boxes = [torch.tensor([[0.5, 0.5, 0.4, 0.6], [0.2, 0.3, 0.2, 0.2]]), torch.zeros(0, 4), torch.full((1, 4), 0.5)]
    classes = [torch.tensor([0, 2]), torch.zeros(0, dtype=torch.long), torch.tensor([1])]
    return [{"class_labels": label, "boxes": box} for label, box in zip(classes, boxes, strict=True)]


SIZES = [(64, 96), (50, 70), (40, 90)]


def batch() -> dict:
    """Three images of several sizes, and objects in them."""
    images = [torch.randn(3, *size) for size in SIZES]
    return collate([{"pixel_values": image, "labels": label} for image, label in zip(images, labels(), strict=True)])


def test_without_torchvision_it_says_what_to_install(arguments, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ImportError, match=r'pip install "mona-peft\[train,torchvision\]"`, or choose another type of'):
        main(arguments)
    assert not (tmp_path / "run").exists()


def test_unknown_setting_is_named(arguments):
    with pytest.raises(ValueError, match=r"--model_config: the config of retinanet has no fpn_sizes"):
        main([*arguments, "--model_config", '{"fpn_sizes": 3}'])


@with_torchvision
def test_loss_and_detections_are_torchvisions():
    """Its transform, which resizes and normalises, is given images that it leaves as they are but for the padding."""
    model, inputs = retinanet(), batch()
    output = model(**inputs)
    detector = model.detector
    images = [image[:, :height, :width] for image, (height, width) in zip(inputs["pixel_values"], SIZES, strict=True)]
    detector.transform.image_mean, detector.transform.image_std = [0.0] * 3, [1.0] * 3
    detector.transform.resize = lambda image, target: (image, target)
    targets = []
    for label, (height, width) in zip(inputs["labels"], SIZES, strict=True):
        x, y, w, h = label["boxes"].unbind(1)
        corners = torch.stack([(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height], 1)
        targets.append({"labels": label["class_labels"], "boxes": corners})
    found = detector(images)
    detector.training = True  # itself alone: drop path stays off
    losses = detector(images, targets)
    assert losses.keys() == output.loss_dict.keys()
    for name, value in losses.items():
        torch.testing.assert_close(output.loss_dict[name], value)
    torch.testing.assert_close(output.loss, sum(losses.values()))

    sizes = torch.tensor(SIZES)
    ours = DeformableDetrImageProcessorPil().post_process_object_detection(output, threshold=0.0, target_sizes=sizes)
    for one, other in zip(ours, found, strict=True):
        assert len(one["scores"]) == 100
        for name in ("scores", "boxes", "labels"):
            torch.testing.assert_close(one[name], other[name], atol=1e-4, rtol=1e-4)


@with_torchvision
def test_fewer_detections_than_places_for_them():
    model, inputs = retinanet(), batch()
    scores = model(**inputs).logits[:, :40].amax(2).sigmoid()
    model.detector.score_thresh = scores[0, 29:31].mean().item()
    output = model(**inputs)
    found = DeformableDetrImageProcessorPil().post_process_object_detection(output, threshold=0.0)
    counts = [len(image["scores"]) for image in found]
    assert counts[0] == 30
    assert counts == [int(image.isfinite().sum()) for image in output.logits]


@with_torchvision
def test_adapter_and_head_change_the_output_and_survive(tmp_path):
    inputs = batch()
    base = retinanet()(**inputs)
    model = get_peft_model(retinanet(), MonaConfig(bottleneck_dim=4, modules_to_save="task-head", init_weights=False))
    assert model.peft_config["default"].modules_to_save == ["detector.backbone.fpn", "detector.head"]
    adapted = model.eval()(**inputs)
    assert (adapted.loss - base.loss).abs() > 1e-4
    model.train()(**inputs).loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert gradients
    assert all(gradient is not None for gradient in gradients.values())
    with torch.no_grad():
        for name, gradient in gradients.items():
            model.get_parameter(name).sub_(gradient, alpha=0.1)
    trained = model.eval()(**inputs)
    assert (trained.loss - adapted.loss).abs() > 1e-4
    model.save_pretrained(tmp_path)
    reloaded = PeftModel.from_pretrained(retinanet(), tmp_path).eval()(**inputs)
    assert torch.equal(reloaded.loss, trained.loss)
    assert torch.equal(reloaded.logits, trained.logits)
    assert torch.equal(reloaded.pred_boxes, trained.pred_boxes)


@with_torchvision
def test_new_head_of_a_loaded_model_begins_as_torchvisions(tmp_path):
    model = retinanet()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForObjectDetection.from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True)
    new = loaded.detector.head.classification_head.cls_logits
    assert new.bias[0].sigmoid().item() == pytest.approx(0.01)
    assert new.weight.std().item() == pytest.approx(0.01, rel=0.1)
    kept = {name: value for name, value in model.state_dict().items() if "cls_logits" not in name}
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in kept.items())


@with_torchvision
def test_known_classes_keep_their_rows_at_every_anchor(tmp_path):
    pretrained = retinanet()
    pretrained.config.id2label, pretrained.config.label2id = {0: "cat", 1: "dog", 2: "owl"}, {}
    pretrained.save_pretrained(tmp_path)
    args = DenseModelArguments(model_name_or_path=str(tmp_path))
    model = load_dense_model(OBJECT_DETECTION, args, ["fox", "owl", "hen", "cat"])
    old, new = (some.detector.head.classification_head.cls_logits.bias for some in (pretrained, model))
    old, new = old.view(-1, 3), new.view(-1, 4)  # anchors, classes
    assert torch.equal(new[:, [1, 3]], old[:, [2, 0]])
    assert not torch.equal(new[:, 0], old[:, 0])


@with_torchvision
def test_gradient_checkpointing_changes_nothing():
    inputs, gradients = batch(), {}
    for checkpointed in (False, True):
        model = retinanet()
        if checkpointed:
            enable_checkpointing(model, {"use_reentrant": False})
        model.train()(**inputs).loss.backward()
        gradients[checkpointed] = {
            name: value.grad for name, value in model.named_parameters() if value.grad is not None
        }
    assert gradients[True].keys() == gradients[False].keys()
    for name, value in gradients[True].items():
        torch.testing.assert_close(value, gradients[False][name], msg=name)


@with_torchvision
def test_bfloat16_keeps_places():
    """Anchors and boxes of a wide image: in bfloat16 those at the right end would be off by pixels."""
    model, pixel_values = retinanet(), torch.randn(1, 3, 64, 1024)
    label = {"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.9, 0.5, 0.04, 0.5]])}
    plain = model(pixel_values, labels=[label])
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(pixel_values, labels=[label])
    assert mixed.loss.dtype == torch.float32
    torch.testing.assert_close(mixed.loss, plain.loss, rtol=1e-2, atol=0)
    parts = [output.loss_dict["bbox_regression"] for output in (mixed, plain)]
    torch.testing.assert_close(*parts, rtol=1e-2, atol=0)


@with_torchvision
def test_boxes_are_at_their_place_in_the_original_image():
    """Heads that know the object: no loss from its box, and what is found is the object, in pixels of the original."""
    image_processor = DeformableDetrImageProcessorPil(size={"shortest_edge": 60, "longest_edge": 200})
    objects = {"bbox": [[66.0, 10.0, 40.0, 40.0]], "category": [1], "area": [1600.0], "iscrowd": [False]}
    nothing = {name: [] for name in objects}
    pictures = [(Image.new("RGB", (120, 80)), 7, objects), (Image.new("RGB", (50, 140)), 8, nothing)]
    inputs = collate([detector_inputs(image_processor, *picture) for picture in pictures])
    assert inputs["pixel_values"].shape == (2, 3, 168, 90)

    model, anchors = retinanet(), []
    model.detector.anchor_generator.register_forward_hook(lambda module, arguments, output: anchors.extend(output))
    model(**inputs)
    resized = torch.tensor([[49.5, 7.5, 79.5, 37.5]])  # three quarters
    offsets = model.detector.box_coder.encode_single(resized.expand(len(anchors[0]), 4), anchors[0])
    logits = torch.tensor([[-9.0, 9.0, -9.0], [-9.0] * 3])[:, None].expand(2, len(anchors[0]), 3)
    known = {"cls_logits": logits, "bbox_regression": torch.stack([offsets, offsets])}
    model.detector.head.forward = lambda features: known
    model.detector.score_thresh = 0.5
    output = model(**inputs)
    assert output.loss_dict["bbox_regression"].item() == pytest.approx(0, abs=1e-5)
    found = box_detections(image_processor, output, inputs)
    (detection,) = found[7]
    assert detection["category_id"] == 1
    assert detection["bbox"] == pytest.approx(objects["bbox"][0], abs=1e-3)
    assert found[8] == []


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("swin")
    torch.manual_seed(0)
    SwinForImageClassification(SwinConfig(**FOUR_STAGES | {"drop_path_rate": 0.0})).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


@pytest.fixture
def arguments(backbone, tmp_path) -> list[str]:
    """Two steps of a new detector on the CPU."""
    write_coco(tmp_path / "data", train=5, val=2)
    return [
        *("--model_type", "retinanet", "--backbone", str(backbone), "--model_config", json.dumps(SMALL)),
        *("--dataset", str(tmp_path / "data"), "--output_dir", str(tmp_path / "run"), "--image_size", "64", "90"),
        *("--bottleneck_dim", "4", "--max_steps", "2", "--per_device_train_batch_size", "2"),
        *("--use_cpu", "--disable_tqdm", "true", "--learning_rate", "1e-2", "--warmup_steps", "0"),
    ]


DECLARED = "from tests.torchvision_schemas import declare; declare()\n"


@with_torchvision
@pytest.mark.parametrize("method", ["mona", "full"])
def test_run_and_load_by_the_card_in_a_fresh_process(arguments, tmp_path, method):
    main([*arguments, "--method", method, f"--{CHECKPOINTING}"])
    run, folder = tmp_path / "run", saved_folder(method)
    record = json.loads((run / "metrics.json").read_text())
    assert record["classes"] == ["square", "bar"]
    assert record["model_class"] == "RetinaNetForObjectDetection"
    assert (run / "predictions.png").is_file()
    code = reload_code(run, tmp_path / "data", folder)
    reloaded = json.loads(run_python("-c", DECLARED + code).splitlines()[-1])
    assert reloaded == pytest.approx(recorded_results(run), abs=1e-4)


@with_torchvision
def test_pascal_voc_in_bfloat16_with_lora(arguments, tmp_path):
    write_voc(tmp_path / "voc", trainval=4, test=2)
    options = ["--train_split", "trainval", "--validation_split", "test", "--method", "lora", "--bf16"]
    main([*arguments, "--dataset", str(tmp_path / "voc"), *options])
    record = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert record["classes"] == ["bar", "square"]
    trained = weights(tmp_path / "run" / "adapter")
    assert any("lora_A" in name for name in trained)
    assert any("cls_logits" in name for name in trained)


@with_torchvision
@pytest.mark.parametrize("method", ["mona", "full"])
def test_resumed_equals_uninterrupted(arguments, tmp_path, method):
    options = ["--method", method, "--save_strategy", "steps", "--save_steps", "1", "--eval_strategy", "no"]
    main([*arguments, *options, "--output_dir", str(tmp_path / "straight")])
    (tmp_path / "run").mkdir()
    (tmp_path / "straight" / "checkpoint-1").rename(tmp_path / "run" / "checkpoint-1")
    main([*arguments, *options, "--resume_from_checkpoint", "last"])
    folder = saved_folder(method)
    assert equal_weights(tmp_path / "run" / folder, tmp_path / "straight" / folder)


@with_torchvision
def test_accumulated_gradients_and_those_of_two_processes_are_those_of_the_whole_batch(arguments, tmp_path):
    """Of two images, with two objects and none."""
    write_coco(tmp_path / "two", train=2, val=2)
    options = [*arguments, "--dataset", str(tmp_path / "two"), "--dropout", "0", "--max_steps", "1", "--optim", "sgd"]
    options += ["--max_grad_norm", "0", "--weight_decay", "0", "--augmentation", "none", "--eval_strategy", "no"]
    runs = {name: ["--output_dir", str(tmp_path / name)] for name in ("whole", "accumulated", "processes")}
    main([*options, *runs["whole"]])
    main([*options, *runs["accumulated"], "--per_device_train_batch_size", "1", "--gradient_accumulation_steps", "2"])
    script = ["tests.torchvision_schemas", "scripts.train_object_detection"]
    run_python(*TORCHRUN, *script, *options, *runs["processes"], "--per_device_train_batch_size", "1")
    whole = weights(tmp_path / "whole" / "adapter")
    assert whole["base_model.model.detector.head.regression_head.bbox_reg.bias"].abs().max() > 1e-4  # starts at zero
    for name in ("accumulated", "processes"):
        other = weights(tmp_path / name / "adapter")
        for key, value in whole.items():
            torch.testing.assert_close(other[key], value, atol=1e-5, rtol=0, msg=f"{name}: {key}")
    assert recorded_results(tmp_path / "processes") == pytest.approx(recorded_results(tmp_path / "whole"), abs=1e-4)


@with_torchvision
def test_backbone_of_other_sizes_is_refused(backbone):
    wider = RetinaNetForObjectDetection(RetinaNetConfig(SwinConfig(**SWIN | {"embed_dim": 32}), **SMALL))
    with pytest.raises(ValueError, match="can't be the backbone of this RetinaNetForObjectDetection"):
        load_backbone(wider, backbone)
