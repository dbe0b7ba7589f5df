"""What PEFT does with Mona it does with its rivals: one row each."""

from __future__ import annotations

import copy
import json
import subprocess
import sys

import pytest
import torch
from peft import PeftConfig, PeftModel, PeftType, get_peft_model
from safetensors.torch import load_file, save_file

from mona_peft import AdapterConfig, AdaptFormerConfig, BitFitConfig, CoLinConfig, LoRandConfig, hotswap_adapter
from mona_peft.integration.checkpointing import enable_checkpointing
from tests.backbones import BACKBONES
from tests.models import build, images
from tests.test_several_adapters import logits

WEIGHTS = "adapter_model.safetensors"
RIVALS = {
    "adapter": (AdapterConfig, {}),
    "adaptformer": (AdaptFormerConfig, {}),
    "lorand": (LoRandConfig, {}),
    "colin": (CoLinConfig, {"bottleneck_dim": 20, "rank": 7}),
    "bitfit": (BitFitConfig, {}),
}
RESIDUAL = [name for name in RIVALS if name != "bitfit"]


def config(name: str, **settings) -> PeftConfig:
    config_cls, own = RIVALS[name]
    return config_cls(**{"modules_to_save": ["classifier"], **own, **settings})


def trained(name: str, model: str = "swin-classifier", seed: int = 7, **settings) -> PeftModel:
    """An adapted model whose every trainable weight is away from where a fresh one would be."""
    model = get_peft_model(build(model), config(name, **settings))
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model.eval()


@pytest.mark.parametrize("model", ["swin-classifier", "swinv2-classifier"])
@pytest.mark.parametrize("name", RIVALS)
def test_starts_equal_to_the_base(name, model):
    assert torch.equal(
        logits(get_peft_model(build(model), config(name)).eval(), images()), logits(build(model), images())
    )


@pytest.mark.parametrize("name", RIVALS)
def test_round_trip(name, tmp_path):
    model, base = trained(name), build("swin-classifier")
    expected = logits(model, images())
    assert (expected - logits(base, images())).abs().max() > 1e-2
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == name.upper()
    sizes = {key: tensor.numel() for key, tensor in load_file(tmp_path / WEIGHTS).items()}
    assert sum(sizes.values()) == sum(p.numel() for p in model.parameters() if p.requires_grad)

    for kwargs in ({}, {"low_cpu_mem_usage": True}):
        reloaded = PeftModel.from_pretrained(build("swin-classifier"), tmp_path, **kwargs).eval()
        torch.testing.assert_close(logits(reloaded, images()), expected, atol=1e-6, rtol=0)
        assert not any(parameter.requires_grad for parameter in reloaded.parameters())


FRESH_PROCESS = """
import sys
import mona_peft
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import SwinForImageClassification

torch.set_num_threads(1)
folder = sys.argv[1]
record = load_file(f"{folder}/record.safetensors")
images = record.pop("images")
for name, expected in record.items():
    base = SwinForImageClassification.from_pretrained(f"{folder}/base")
    model = PeftModel.from_pretrained(base, f"{folder}/{name}").eval()
    with torch.no_grad():
        torch.testing.assert_close(model(images).logits, expected, atol=1e-6, rtol=0)
    print(name)
"""


def test_fresh_process_gives_equal_outputs(tmp_path):
    build("swin-classifier").save_pretrained(tmp_path / "base")
    record = {"images": images()}
    for name in RIVALS:
        model = trained(name)
        model.save_pretrained(tmp_path / name)
        record[name] = logits(model, images())
    save_file(record, tmp_path / "record.safetensors")
    result = subprocess.run([sys.executable, "-c", FRESH_PROCESS, str(tmp_path)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert set(result.stdout.split()) == set(RIVALS)


@pytest.mark.parametrize("name", RIVALS)
def test_several_adapters(name):
    model, base = trained(name, modules_to_save=[]), build("swin-classifier")
    first = logits(model, images())
    model.add_adapter("second", config(name, modules_to_save=[]))
    assert torch.equal(logits(model, images()), first), "another adapter is added, not made active"
    model.set_adapter("second")
    assert torch.equal(logits(model, images()), logits(base, images()))
    assert any(".second" in key and parameter.requires_grad for key, parameter in model.named_parameters())
    assert not any(".default" in key and parameter.requires_grad for key, parameter in model.named_parameters())
    model.set_adapter("default")
    with model.disable_adapter():
        assert torch.equal(logits(model, images()), logits(base, images()))
    model.delete_adapter("second")
    assert not any(".second" in key for key in model.state_dict())
    torch.testing.assert_close(logits(copy.deepcopy(model), images()), first, atol=1e-6, rtol=0)
    torch.testing.assert_close(logits(model, images()), first, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", RIVALS)
def test_unloading_leaves_no_trace(name):
    stock, model = build("swin-classifier"), trained(name, modules_to_save=[])
    other = copy.deepcopy(model)
    unloaded = model.unload()
    assert [type(module) for module in unloaded.modules()] == [type(module) for module in stock.modules()]
    assert unloaded.state_dict().keys() == stock.state_dict().keys()
    assert torch.equal(logits(unloaded, images()), logits(stock, images()))
    assert not torch.equal(logits(other, images()), logits(stock, images())), "a copy keeps its adapter"


@pytest.mark.parametrize("name", RESIDUAL)
def test_merging_is_refused(name):
    with pytest.raises(NotImplementedError, match="not linear"):
        trained(name).merge_and_unload()


def test_trained_biases_can_be_merged():
    model = trained("bitfit")
    expected = logits(model, images())
    merged = model.merge_and_unload()
    assert merged.state_dict().keys() == build("swin-classifier").state_dict().keys()
    torch.testing.assert_close(logits(merged, images()), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", RIVALS)
def test_gradient_checkpointing_changes_no_gradient(name):
    gradients = []
    for checkpointing in (False, True):
        model = trained(name, dropout=0.0) if name in ("adapter", "adaptformer") else trained(name)
        if checkpointing:
            enable_checkpointing(model, {"use_reentrant": False})
        model.train()
        model(images()).logits.square().sum().backward()
        trainable = [(key, parameter) for key, parameter in model.named_parameters() if parameter.requires_grad]
        assert all(
            parameter.grad.abs().max() > 0 for key, parameter in trainable if "key" not in key and "k_proj" not in key
        )
        gradients.append([parameter.grad for _, parameter in trainable])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", RIVALS)
def test_card_names_the_method(name, tmp_path):
    trained(name).save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert f"- {name}\n" in card.split("---")[1]
    assert f"# {RIVALS[name][0].title} for " in card
    assert "import mona_peft" in card
    assert f"KeyError: '{name.upper()}'" in card


@pytest.mark.parametrize("second", RESIDUAL)
def test_blocks_run_with_the_adapters_of_one_method(second):
    model = trained("adapter" if second == "adaptformer" else "adaptformer")
    expected = logits(model, images())
    with pytest.raises(ValueError, match=r"adapters of another method already.*unload\(\) before"):
        get_peft_model(model.get_base_model(), config(second, modules_to_save=[]))
    assert torch.equal(logits(model, images()), expected)


def test_rank_that_a_block_is_too_narrow_for_changes_nothing():
    model = build("swin-classifier")
    classes = [type(module) for module in model.modules()]
    with pytest.raises(ValueError, match="has a rank of at most 16"):
        get_peft_model(model, CoLinConfig(modules_to_save=[]))
    assert [type(module) for module in model.modules()] == classes


@pytest.mark.parametrize("name", RESIDUAL)
def test_hotswap(name, tmp_path):
    other = trained(name, seed=8, modules_to_save=[])
    other.save_pretrained(tmp_path)
    model = trained(name, modules_to_save=[])
    hotswap_adapter(model, tmp_path, "default")
    torch.testing.assert_close(logits(model, images()), logits(other, images()), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", RIVALS)
def test_another_backbones_adapter_is_refused(name, tmp_path):
    trained(name, modules_to_save=[]).save_pretrained(tmp_path)
    base, stock = build("upernet"), build("upernet")
    for load in (lambda: PeftModel.from_pretrained(base, tmp_path), lambda: base.load_adapter(str(tmp_path))):
        with pytest.raises(ValueError, match="does not fit this model"):
            load()
        assert base.state_dict().keys() == stock.state_dict().keys()
        trainable = [name for name, parameter in base.named_parameters() if parameter.requires_grad]
        assert trainable == [name for name, parameter in stock.named_parameters() if parameter.requires_grad]


@pytest.mark.parametrize("name", RIVALS)
def test_a_file_that_lacks_something_is_refused(name, tmp_path):
    model = trained(name)
    expected = logits(model, images())
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    lost = next(key for key in tensors if "classifier" not in key)
    for broken in (
        {key: tensor for key, tensor in tensors.items() if key != lost},
        {**tensors, lost.replace("swin.", "swing."): tensors[lost].clone()},
    ):
        save_file(broken, tmp_path / WEIGHTS)
        with pytest.raises(ValueError, match="does not fit this model, and nothing was loaded"):
            PeftModel.from_pretrained(build("swin-classifier"), tmp_path)
        with pytest.raises(ValueError, match="does not fit this model, and nothing was loaded"):
            model.load_adapter(tmp_path, "default")
        assert torch.equal(logits(model, images()), expected)
    with pytest.raises(ValueError, match="safetensors only"):
        model.save_pretrained(tmp_path, safe_serialization=False)


@pytest.mark.parametrize("name", RIVALS)
def test_found_in_pefts_tables(name):
    assert PeftType(name.upper()) is config(name).peft_type
    assert copy.deepcopy(config(name)) == config(name)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("adapter", {"bottleneck_dim": 0}, "bottleneck_dim=0: give a whole number of at least 1"),
        ("adapter", {"dropout": 1.0}, r"dropout=1.0: give a probability"),
        ("adaptformer", {"sites": ("attention",)}, r"sites=\('attention',\): choose from \('mlp',\)"),
        ("adapter", {"sites": None}, r"sites=None: choose from"),
        ("adaptformer", {"scale": -0.1}, "scale=-0.1: give a number of at least 0"),
        ("lorand", {"kernel_dim": "8"}, "kernel_dim='8': give a whole number"),
        ("lorand", {"num_branches": 0}, "num_branches=0"),
        ("colin", {"kernel_size": 4}, "kernel_size=4: give an odd number"),
        ("colin", {"orthogonality_weight": float("inf")}, "orthogonality_weight=inf"),
        ("bitfit", {"modules_to_save": "classifier"}, "modules_to_save='classifier': give a list"),
        ("bitfit", {"target_modules": "["}, r"target_modules='\[' is no regular expression"),
        ("bitfit", {"target_modules": "all-linear"}, "this method adapts modules with biases"),
        ("bitfit", {"relative_position_bias": "no"}, "relative_position_bias='no': choose one of"),
    ],
)
def test_values_out_of_range(name, settings, message):
    with pytest.raises(ValueError, match=message):
        config(name, **settings)


class TestBitFit:
    def test_what_is_trained(self):
        model = get_peft_model(build("swin-classifier"), BitFitConfig(modules_to_save=[]))
        trainable = [key for key, parameter in model.named_parameters() if parameter.requires_grad]
        assert trainable
        assert all(".bitfit_shift." in key for key in trainable)
        assert any("relative_position_bias_table" in key for key in trainable)
        assert not any("classifier" in key for key in trainable), "the head is no part of the backbone"

    def test_without_relative_position_bias(self):
        model = get_peft_model(build("swin-classifier"), BitFitConfig(relative_position_bias=False, modules_to_save=[]))
        assert not any("relative_position_bias_table.0" in key for key in model.state_dict())

    def test_target_modules(self):
        targets = ["layernorm_before"]
        model = get_peft_model(build("swin-classifier"), BitFitConfig(target_modules=targets, modules_to_save=[]))
        shifts = [key for key in model.state_dict() if "bitfit_shift" in key]
        assert shifts
        assert all("layernorm_before" in key for key in shifts)
        with pytest.raises(ValueError, match=r"has no bias in target_modules=\['nothing'\]"):
            get_peft_model(build("swin-classifier"), BitFitConfig(target_modules=["nothing"]))
        with pytest.raises(ValueError, match=r"\['nothing'\] names no module with a bias"):
            get_peft_model(build("swin-classifier"), BitFitConfig(target_modules=[*targets, "nothing"]))

    def test_biases_of_another_name_are_trained(self):
        backbone, pixel_values = BACKBONES["siglip"].make().eval(), images(height=32, width=32)
        expected = backbone(pixel_values).pooler_output
        model = get_peft_model(backbone, BitFitConfig()).eval()
        (packed,) = [p for name, p in model.named_parameters() if "in_proj_bias" in name and "bitfit" in name]
        torch.testing.assert_close(model(pixel_values).pooler_output, expected)
        with torch.no_grad():
            packed.add_(0.1 * torch.randn_like(packed))
        assert (model(pixel_values).pooler_output - expected).abs().max() > 1e-4

    def test_the_head(self):
        with pytest.warns(UserWarning, match=r"Only the biases will be trained: \['classifier'\] outside"):
            get_peft_model(build("swin-classifier"), BitFitConfig())
        with pytest.raises(ValueError, match=r"\['clasifier'\] matches no module"):
            get_peft_model(build("swin-classifier"), BitFitConfig(modules_to_save=["clasifier"]))
        model = get_peft_model(build("swin-classifier"), BitFitConfig(modules_to_save="task-head"))
        assert any(p.requires_grad for name, p in model.named_parameters() if "classifier" in name)

    def test_what_is_saved_whole_is_trained_once(self, tmp_path):
        model = trained("bitfit", modules_to_save=["swin.layernorm"])
        assert not any("bitfit" in name for name, _ in model.named_parameters() if ".swin.layernorm." in name)
        model.save_pretrained(tmp_path)
        reloaded = PeftModel.from_pretrained(build("swin-classifier"), tmp_path).eval()
        torch.testing.assert_close(logits(reloaded, images()), logits(model, images()), atol=1e-6, rtol=0)

    def test_one_adapter_for_a_whole_batch(self):
        model = trained("bitfit")
        with pytest.raises(NotImplementedError, match="can't take an adapter for each sample"):
            model(images(), adapter_names=["default", "__base__"])
        for refused in (model.merge_adapter, model.unmerge_adapter):
            with pytest.raises(NotImplementedError, match="merge_and_unload"):
                refused()

    @pytest.mark.parametrize("modules_to_save", [[], ["classifier"]])
    def test_the_adapter_asked_for_is_merged(self, modules_to_save):
        model = trained("bitfit", modules_to_save=modules_to_save)
        model.add_adapter("second", config("bitfit", modules_to_save=modules_to_save))
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if ".second" in key:
                    parameter.add_(0.1)
        first = logits(model, images())
        model.set_adapter("second")
        second = logits(model, images())
        model.set_adapter("default")
        with pytest.raises(ValueError, match=r"there is no \['third'\]. Adapters are \['default', 'second'\]"):
            model.merge_and_unload(adapter_names=["third"])
        merged = logits(model.merge_and_unload(adapter_names=["second"]), images())
        assert (merged - first).abs().max() > 1e-3
        torch.testing.assert_close(merged, second, atol=1e-6, rtol=0)

    def test_a_broken_adapter_is_not_merged(self):
        model = trained("bitfit")
        key, shift = next(item for item in model.named_parameters() if "bitfit_shift" in item[0])
        with torch.no_grad():
            shift[0] = torch.nan
        with pytest.raises(ValueError, match="would not be numbers, and nothing was merged"):
            model.merge_and_unload(safe_merge=True)
        assert key in dict(model.named_parameters())

    def test_norm_that_nothing_uses_is_left_out(self):
        model = get_peft_model(build("swin-backbone"), BitFitConfig()).train()
        sum(feature_map.sum() for feature_map in model(images()).feature_maps).backward()
        assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
