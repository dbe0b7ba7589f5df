"""Dense models from the arguments of a script: pre-trained ones, new ones, and what is refused."""

import logging
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file
from transformers import (
    AutoConfig,
    Dinov2Backbone,
    Dinov2Config,
    Dinov2ForImageClassification,
    DINOv3ViTBackbone,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    PreTrainedModel,
    SwinBackbone,
    SwinConfig,
    SwinForImageClassification,
    TrainingArguments,
)
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from mona_peft.tasks.models.architectures import ARCHITECTURES
from mona_peft.tasks.models.arguments import DenseModelArguments
from mona_peft.tasks.models.backbones import checkpoint_backbone
from mona_peft.tasks.models.dpt_segmenter import DPTSegmenterConfig, DPTSegmenterForSemanticSegmentation
from mona_peft.tasks.models.image_processors import load_image_processor
from mona_peft.tasks.models.loading import load_dense_model, rebuild_base
from mona_peft.tasks.segmentation.inference import Segmenter
from mona_peft.tasks.task import OBJECT_DETECTION, SEMANTIC_SEGMENTATION, Task
from tests.models import FOUR_STAGES, images, mask2former, upernet
from tests.names import CHECKPOINTING
from tests.test_detectors import DETECTORS

CLASSES = ["cat", "dog", "owl"]
FOUR_BLOCKS = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "patch_size": 7}
DETECTORS_HERE = ("rt_detr", "rt_detr_v2", "d_fine", "deimv2", "deformable_detr", "retinanet")
MARKS = {
    "retinanet": pytest.mark.torchvision,
    "deimv2": pytest.mark.skipif(not hasattr(transformers, "Deimv2Config"), reason="transformers has no DEIMv2"),
}


def task_of(args: DenseModelArguments) -> Task:
    folder = args.model_name_or_path
    known = folder is not None and Path(folder).is_dir()
    detects = (AutoConfig.from_pretrained(folder).model_type if known else args.model_type) in DETECTORS_HERE
    return OBJECT_DETECTION if detects else SEMANTIC_SEGMENTATION


def load(args: DenseModelArguments, classes: list[str]) -> PreTrainedModel:
    return load_dense_model(task_of(args), args, classes)


@pytest.fixture
def classifier(tmp_path):
    folder = tmp_path / "classifier"
    SwinForImageClassification(SwinConfig(**FOUR_STAGES | {"patch_size": 2})).save_pretrained(folder)
    return folder


def features(backbone: torch.nn.Module) -> list[torch.Tensor]:
    with torch.no_grad():
        return backbone.eval()(images()).feature_maps


@pytest.mark.parametrize(
    "model_type",
    [pytest.param(name, marks=MARKS.get(name, ())) for name in ARCHITECTURES if ARCHITECTURES[name].stages],
)
def test_new_model_around_a_backbone_runs_and_is_built_again(classifier, tmp_path, model_type):
    adapter = tmp_path / "adapter"
    args = DenseModelArguments(backbone=str(classifier), model_type=model_type)
    model = load(args, CLASSES)
    assert model.config.id2label == dict(enumerate(CLASSES))
    model.config.save_pretrained(adapter)
    again = rebuild_base(task_of(args), args, CLASSES, adapter)
    stages = list(ARCHITECTURES[model_type].stages)
    expected = features(SwinBackbone.from_pretrained(classifier, out_features=stages))
    for built in (model, again):
        (backbone,) = [m for m in built.modules() if hasattr(m, "hidden_states_norms")]
        for ours, theirs in zip(features(backbone), expected, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    with torch.no_grad():
        model(images())
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    assert {name: value.shape for name, value in again.state_dict().items()} == shapes


def build_dinov2() -> Dinov2ForImageClassification:
    return Dinov2ForImageClassification(Dinov2Config(**FOUR_BLOCKS, image_size=28))


PLAIN = {
    "dinov2": (Dinov2Backbone, build_dinov2),
    "dinov3": (DINOv3ViTBackbone, lambda: DINOv3ViTModel(DINOv3ViTConfig(**FOUR_BLOCKS, intermediate_size=24))),
}


@pytest.mark.parametrize("stages", [["stage4"], ["stage1", "stage2", "stage3", "stage4"]], ids=["linear", "dpt"])
@pytest.mark.parametrize("name", PLAIN)
def test_segmenter_around_a_plain_vit(tmp_path, name, stages):
    """The linear head on the map of the last block, DPT's on those of four, for images of any size."""
    backbone_class, build = PLAIN[name]
    torch.manual_seed(0)
    build().save_pretrained(tmp_path)
    model_type = "linear_segmenter" if len(stages) == 1 else "dpt"
    model = load(DenseModelArguments(backbone=str(tmp_path), model_type=model_type), CLASSES)
    if model_type == "dpt":  # learns classes by its batch norms
        assert [module for module in model.neck.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    expected = features(backbone_class.from_pretrained(tmp_path, out_features=stages))
    for ours, theirs in zip(features(model.backbone), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    segmenter = Segmenter(SegformerImageProcessorPil(), len(CLASSES))
    seen = []
    model.backbone.embeddings.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    pixels = images(height=20, width=30)
    with torch.no_grad():
        loss, maps = segmenter(
            model, {"pixel_values": pixels, "labels": torch.zeros(2, 20, 30, dtype=torch.long)}, [(20, 30)] * 2
        )
    (padded,) = seen  # whole patches, so that none of the image's pixels is dropped and none moved
    assert padded.shape[-2:] == (21, 35)
    assert torch.equal(padded[..., :20, :30], pixels)
    assert torch.isfinite(loss)
    assert [class_map.shape for class_map in maps] == [(20, 30)] * 2


@pytest.mark.parametrize("seed", range(3))
def test_a_new_dpt_listens_to_deep_blocks(seed):
    """Which know classes. Drawn with one deviation for all widths, a new neck heard next to nothing of them."""
    backbone = {"model_type": "dinov2", **FOUR_BLOCKS, "out_features": [f"stage{depth}" for depth in (1, 2, 3, 4)]}
    settings = {"readout_type": "ignore", "neck_hidden_sizes": [48, 96, 192, 384], "fusion_hidden_size": 64}
    torch.manual_seed(seed)
    model = DPTSegmenterForSemanticSegmentation(DPTSegmenterConfig(backbone_config=backbone, **settings)).eval()
    maps = [torch.randn(4, 16, 4, 4) for _ in range(4)]
    with torch.no_grad():
        before = model.score(maps)
        first, *_, last = (
            (model.score([*maps[:block], torch.randn(4, 16, 4, 4), *maps[block + 1 :]]) - before).norm()
            for block in range(4)
        )
    assert last > 0.2 * first


@pytest.mark.parametrize(
    ("build", "layer", "surplus"),
    [
        (upernet, "decode_head.classifier", 0),
        (mask2former, "class_predictor", 1),
        (DETECTORS["rt-detr"], "model.enc_score_head", 0),
        (DETECTORS["rt-detr"], "model.decoder.class_embed.0", 0),
        (DETECTORS["rt-detr"], "model.denoising_class_embed", 1),
    ],
)
def test_new_head_begins_with_the_classes_that_the_model_knows(tmp_path, build, layer, surplus):
    torch.manual_seed(1)
    pretrained = build()
    pretrained.config.id2label, pretrained.config.label2id = dict(enumerate(CLASSES)), {"cat": 0, "dog": 1, "owl": 2}
    pretrained.save_pretrained(tmp_path)
    args = DenseModelArguments(model_name_or_path=str(tmp_path))
    model = load(args, ["fox", "owl", "hen", "cat"])
    for name, old in pretrained.get_submodule(layer).named_parameters():
        new = model.get_submodule(layer).get_parameter(name)
        assert len(new) == 4 + surplus
        pairs = {1: 2, 3: 0, **({4: 3} if surplus else {})}  # the last one: no object
        for number, old_number in pairs.items():
            assert torch.equal(new[number], old[old_number])
    assert not torch.equal(model.get_submodule(layer).weight[0], pretrained.get_submodule(layer).weight[0])


@pytest.mark.parametrize(("build", "layer"), [(upernet, "decode_head.classifier"), (mask2former, "class_predictor")])
def test_classes_in_another_order_take_their_rows_along(tmp_path, build, layer):
    torch.manual_seed(1)
    pretrained = build()
    pretrained.config.id2label, pretrained.config.label2id = dict(enumerate(CLASSES)), {"cat": 0, "dog": 1, "owl": 2}
    pretrained.save_pretrained(tmp_path)
    args = DenseModelArguments(model_name_or_path=str(tmp_path))
    others = range(len(CLASSES), len(pretrained.get_submodule(layer).weight))
    for classes, rows in ((["owl", "cat", "dog"], [2, 0, 1]), (["owl", "fox", "dog"], [2, 0, 1])):
        model = load(args, classes)
        weight, expected = (some.get_submodule(layer).weight for some in (model, pretrained))
        assert torch.equal(weight, expected[[*rows, *others]])
        assert not torch.equal(weight, expected)


def test_names_of_classes_may_repeat_and_the_inverse_table_be_wrong(tmp_path):
    """As in configs of DETR on the hub: several classes are called N/A, and `label2id` is transformers' own."""
    torch.manual_seed(1)
    pretrained = mask2former()
    pretrained.config.id2label = {0: "N/A", 1: "N/A", 2: "dog"}
    pretrained.config.label2id = {f"LABEL_{number}": number for number in range(3)}
    pretrained.save_pretrained(tmp_path)
    args = DenseModelArguments(model_name_or_path=str(tmp_path))
    model = load(args, ["dog"])
    assert torch.equal(model.class_predictor.weight, pretrained.class_predictor.weight[[2, 3]])


def test_pre_trained_model_keeps_its_head_or_gets_a_new_one_and_another_backbone(tmp_path, monkeypatch, caplog):
    torch.manual_seed(1)
    pretrained = upernet()
    pretrained.save_pretrained(tmp_path / "upernet")
    SwinForImageClassification(SwinConfig(**FOUR_STAGES)).save_pretrained(tmp_path / "other")
    args = DenseModelArguments(model_name_or_path=str(tmp_path / "upernet"))
    model = load(args, CLASSES)
    with torch.no_grad():
        torch.testing.assert_close(model(images()).logits, pretrained.eval()(images()).logits)
    args.backbone = str(tmp_path / "other")
    model = load(args, [*CLASSES, "fox"])
    save_file({}, tmp_path / "adapter_model.safetensors")
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    caplog.clear()
    with pytest.warns(UserWarning, match=r"no weights for .*classifier.bias .*drawn at random"):
        again = rebuild_base(SEMANTIC_SEGMENTATION, args, [*CLASSES, "fox"], tmp_path)
    assert not caplog.records
    theirs = features(SwinBackbone.from_pretrained(tmp_path / "other", out_features=FOUR_STAGES["out_features"]))
    for built in (model, again):
        assert built.config.num_labels == 4
        assert torch.equal(features(built.backbone)[0], theirs[0])


def test_attention_of_new_and_of_loaded_models_is_what_is_asked_for(classifier, tmp_path):
    upernet().save_pretrained(tmp_path / "upernet")
    new = {"backbone": str(classifier), "model_type": "upernet"}
    for given in (new, {"model_name_or_path": str(tmp_path / "upernet")}):
        chosen = []
        for attention in (None, "eager"):
            args = DenseModelArguments(**given, attn_implementation=attention)
            model = load(args, CLASSES)
            chosen.append(model.backbone.config._attn_implementation)
        assert chosen == ["sdpa", "eager"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {},
            r"--model_type None, --backbone None: .* of type upernet or .*`--model_type upernet --backbone",
        ),
        ({"backbone": "CLASSIFIER"}, "--model_type None"),
        ({"backbone": "CLASSIFIER", "model_type": "segformer"}, "--model_type segformer"),
        (
            {"backbone": "CLASSIFIER", "model_type": "upernet", "model_config": "{hidden"},
            "--model_config {hidden: not an object",
        ),
        (
            {"backbone": "CLASSIFIER", "model_type": "upernet", "model_config": '{"hiden_size": 8}'},
            "the config of upernet has no hiden_size",
        ),
        (
            {"backbone": "CLASSIFIER", "model_type": "dpt"},
            "a model of type swin, and the head wants a plain ViT: one of",
        ),
        (
            {"backbone": "DINO", "model_type": "dpt", "model_config": '{"readout_type": "project"}'},
            "the class token plays no part here",
        ),
        ({"backbone": "no/such", "model_type": "upernet"}, "--backbone no/such: neither a folder"),
        ({"model_name_or_path": "no/such"}, "--model no/such: neither a folder"),
        ({"model_name_or_path": "CLASSIFIER"}, "a model of type swin, not one for this task: upernet, "),
        ({"model_name_or_path": "CLASSIFIER", "model_type": "upernet"}, "config of its own, and --model_type would"),
    ],
)
def test_wrong_arguments_are_named(classifier, tmp_path, arguments, message):
    build_dinov2().save_pretrained(tmp_path)
    folders = {"CLASSIFIER": str(classifier), "DINO": str(tmp_path)}
    values = {name: folders.get(value, value) for name, value in arguments.items()}
    with pytest.raises(ValueError, match=message):
        load(DenseModelArguments(**values), CLASSES)


def test_a_backbone_without_an_image_processor_is_named(classifier):
    args = DenseModelArguments(backbone=str(classifier), model_type="upernet")
    with pytest.raises(ValueError, match=f"{classifier.name}: no preprocessor_config.json beside the weights"):
        load_image_processor(args)


def test_settings_of_model_and_backbone(classifier, tmp_path):
    settings = '{"hidden_size": 24, "backbone_config": {"drop_path_rate": 0.3}}'
    args = DenseModelArguments(backbone=str(classifier), model_type="upernet", model_config=settings)
    model = load(args, CLASSES)
    assert model.config.hidden_size == 24
    assert model.backbone.config.drop_path_rate == 0.3


def test_gradient_checkpointing_is_the_backbones(tmp_path):
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = upernet().train()
        args = TrainingArguments(str(tmp_path), **{CHECKPOINTING: checkpointing}, use_cpu=True)
        checkpoint_backbone(model, args)
        assert not getattr(args, CHECKPOINTING)
        calls = []
        block = model.backbone.swin.encoder.layers[0].blocks[0]
        block.attention.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        torch.manual_seed(1)
        model(images(), labels=torch.ones(2, 64, 64, dtype=torch.long)).loss.backward()
        assert (len(calls) > 1) == checkpointing
        gradients.append(model.backbone.swin.embeddings.patch_embeddings.projection.weight.grad)
    torch.testing.assert_close(*gradients)


def test_checkpointing_that_would_lose_gradients_is_refused(tmp_path):
    kind = {CHECKPOINTING: True, f"{CHECKPOINTING}_kwargs": {"use_reentrant": True}}
    args = TrainingArguments(str(tmp_path), **kind, use_cpu=True)
    with pytest.raises(ValueError, match="would get no gradient"):
        checkpoint_backbone(upernet(), args)


def test_backbone_of_another_family_is_refused(tmp_path):
    AutoConfig.for_model("segformer").save_pretrained(tmp_path)
    args = DenseModelArguments(backbone=str(tmp_path), model_type="upernet")
    with pytest.raises(ValueError, match="a model of type segformer, not a Swin or SwinV2"):
        load(args, CLASSES)
