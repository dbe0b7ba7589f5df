"""The table of methods: how many parameters each trains, which, and that a file holds these alone."""

import copy

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn
from transformers import SwinBackbone, SwinConfig, VitDetBackbone, VitDetConfig

from mona_peft.tasks.models.arguments import MethodArguments
from mona_peft.tasks.models.backbones import tell_embeddings
from mona_peft.tasks.models.methods import METHODS
from mona_peft.tasks.training.records import parameter_counts
from tests.composed import build as build_composed
from tests.models import build, images, largest_difference, outputs

SWIN_B = {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32]}
STAGES = ["stage1", "stage2", "stage3", "stage4"]
COUNTS = {
    "fixed": 0,
    "bitfit": 201_656,
    "norm-tuning": 59_392,
    "partial-1": 12_601_632,
    "adapter": 3_107_328,
    "lora": 3_080_192,
    "adaptformer": 1_553_664,
    "lorand": 2_370_816,
    "mona": 3_667_456,
    "colin": 1_703_424,
}
HEADS = {"swin-classifier": "classifier.", "upernet": ("decode_head.", "auxiliary_head.")}
LABELS = {"swin-classifier": torch.tensor([0, 1]), "upernet": torch.zeros(2, 64, 64, dtype=torch.long)}


def adapt(method: str, model: str = "swin-classifier", **settings) -> nn.Module:
    torch.manual_seed(0)
    return METHODS[method](build(model), MethodArguments(method=method, **{"bottleneck_dim": 16, **settings}))


@pytest.mark.parametrize("method", COUNTS)
def test_number_of_parameters_of_swin_b(method):
    with torch.device("meta"):
        backbone = SwinBackbone(SwinConfig(**SWIN_B, out_features=STAGES))
        counts = parameter_counts(METHODS[method](backbone, MethodArguments(method=method)))
    assert counts["trainable"] == counts["adapter"] == COUNTS[method]
    assert counts["base"] == 86_747_064


@pytest.mark.parametrize("model", HEADS)
@pytest.mark.parametrize("method", METHODS)
def test_every_trained_parameter_is_used_and_the_head_is_trained(method, model):
    adapted = adapt(method, model, init_weights="paper").train()
    trained = {name: parameter for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    head = {name for name in trained if name.removeprefix("base_model.model.").startswith(HEADS[model])}
    base_head = [name for name, _ in build(model).named_parameters() if name.startswith(HEADS[model])]
    assert len(head) == len(base_head)
    assert parameter_counts(adapted)["adapter"] == sum(trained[name].numel() for name in trained.keys() - head)
    adapted(images(), labels=LABELS[model]).loss.backward()
    assert [name for name, parameter in trained.items() if parameter.grad is None] == []


@pytest.mark.parametrize("method", [name for name in METHODS if name != "full"])
def test_a_file_holds_what_is_trained_and_gives_it_back(method, tmp_path):
    model = adapt(method)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    expected = outputs(model.eval(), images())
    assert largest_difference(expected, outputs(build("swin-classifier"), images())) > 1e-3
    model.save_pretrained(tmp_path)
    saved = sum(tensor.numel() for tensor in load_file(tmp_path / "adapter_model.safetensors").values())
    assert saved == parameter_counts(model)["trainable"]
    reloaded = PeftModel.from_pretrained(build("swin-classifier"), tmp_path).eval()
    assert largest_difference(outputs(reloaded, images()), expected) < 1e-6


def test_full_trains_the_model_itself():
    model = adapt("full")
    assert type(model) is type(build("swin-classifier"))
    assert parameter_counts(model)["trainable_share"] == 1


def test_settings_are_those_that_the_method_takes():
    args = MethodArguments(bottleneck_dim=8, kernel_sizes=[3])
    assert METHODS["lora"].settings(args) == {"bottleneck_dim": 8}
    assert METHODS["full"].settings(args) == {}
    assert METHODS["mona"].settings(args)["kernel_sizes"] == [3]
    assert METHODS["mona-128"].settings(args)["bottleneck_dim"] == 128
    assert METHODS["mona-v1"].settings(args)["filter_reduction"] == "sum"


def test_norms_of_a_models_own_kind_are_tuned_too():
    config = VitDetConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=32, residual_block_indices=[0]
    )
    model = VitDetBackbone(config)
    norms = [module for name, module in model.named_modules() if ".norm" in name]
    adapted = METHODS["norm-tuning"](model, MethodArguments(method="norm-tuning"))
    assert parameter_counts(adapted)["trainable"] == sum(norm.weight.numel() + norm.bias.numel() for norm in norms)


@pytest.mark.parametrize("method", ["lorand", "colin"])
def test_rivals_shrink_with_the_bottleneck(method):
    """To the widths of a small backbone belong a quarter of the sizes that the authors chose for Swin-B."""
    config = adapt(method).peft_config["default"]
    sizes = {"lorand": {"kernel_dim": 2}, "colin": {"bottleneck_dim": 25, "rank": 7}}
    assert {name: getattr(config, name) for name in sizes[method]} == sizes[method]


@pytest.mark.parametrize("model", ["swin-classifier", "swinv2-classifier", "maskformer"])
def test_lora_adapts_query_and_value_by_the_authors_scaling(model):
    adapted = adapt("lora", model)
    layers = [module for module in adapted.modules() if hasattr(module, "lora_A")]
    blocks = [name for name, module in build(model).named_modules() if type(module).__name__.endswith("SwinLayer")]
    assert len(layers) == 2 * (len(blocks) or 4)
    assert {layer.scaling["default"] for layer in layers} == {1 / 16}


@pytest.mark.filterwarnings("ignore:modules_to_save='task-head' trains:UserWarning")
@pytest.mark.parametrize("method", ["lora", "bitfit", "norm-tuning", "partial-1", "fixed"])
@pytest.mark.parametrize("detector", ["rt-detr-v2", "deformable-detr", "rt-detr-v2-swinv2"])
def test_detectors_that_do_not_tell_of_their_embeddings(detector, method):
    _check_detector(detector, method)


@pytest.mark.parametrize("method", ["bitfit", "norm-tuning", "partial-1", "fixed"])
def test_a_detector_around_convnext(method):
    """Nothing in it tells of embeddings, and LoRA finds no attention there."""
    _check_detector("rt-detr-v2-convnext", method)


def _check_detector(name: str, method: str) -> None:
    model = build_composed(name)
    tell_embeddings(model)
    adapted = METHODS[method](model, MethodArguments(method=method, bottleneck_dim=4))
    with torch.no_grad():
        assert copy.deepcopy(adapted).eval()(images()).logits.isfinite().all()
    assert (parameter_counts(adapted)["adapter"] > 0) == (method != "fixed")
