"""What PEFT expects of every tuner, checked on ours: the habits of a LoRA user that no other test here takes up."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
from peft import (
    PeftModel,
    PeftType,
    get_peft_model,
    get_peft_model_state_dict,
    prepare_model_for_kbit_training,
    set_peft_model_state_dict,
)
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from safetensors.torch import load_file
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from transformers import SwinConfig, SwinForImageClassification

from mona_peft import MonaConfig, MonaLayer, MonaModel
from mona_peft.integration.checkpointing import enable_checkpointing
from tests.models import TWO_STAGES, build, images, largest_difference, outputs
from tests.test_save_load import WEIGHTS, trained

NAMES = ["swin-classifier", "swinv2-classifier", "upernet"]


def adapted(name: str = "swin-classifier", adapter_name: str = "default", **settings) -> PeftModel:
    config = MonaConfig(**{"init_weights": False, "modules_to_save": "task-head", **settings})
    return get_peft_model(build(name), config, adapter_name=adapter_name)


def test_found_in_pefts_tables():
    assert PEFT_TYPE_TO_CONFIG_MAPPING[PeftType.MONA] is MonaConfig
    assert PEFT_TYPE_TO_TUNER_MAPPING[PeftType.MONA] is MonaModel
    assert PEFT_TYPE_TO_PREFIX_MAPPING[PeftType.MONA] == MonaModel.prefix == "mona_"
    assert all(name.startswith(MonaModel.prefix) for name in MonaLayer.adapter_layer_names)


@pytest.mark.parametrize("name", NAMES)
def test_model_looks_like_a_peft_model(name):
    model = adapted(name)
    assert type(model).__name__ == "PeftModel"
    assert isinstance(model, PeftModel)
    assert type(model.get_base_model()) is type(build(name))
    assert model.config is model.get_base_model().config
    assert "MonaSwin" in repr(model)
    assert model.active_adapter == "default"
    assert model.active_peft_config is model.peft_config["default"]
    assert not model.supports_lora_conversion()


def test_names_that_contain_each_other_are_saved_apart(tmp_path):
    model = adapted()
    expected = len(get_peft_model_state_dict(model))
    for adapter_name in ("default2", "other_default", "foodefault_bar", "efaul"):
        model.add_adapter(adapter_name, MonaConfig(modules_to_save="task-head"))
    model.save_pretrained(tmp_path, selected_adapters=["default"])
    assert len(load_file(tmp_path / WEIGHTS)) == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "adapter_config.json", WEIGHTS]
    reloaded = PeftModel.from_pretrained(build("swin-classifier"), tmp_path)
    assert list(reloaded.peft_config) == ["default"]


def test_one_configuration_for_several_adapters():
    config = MonaConfig(init_weights=False, modules_to_save="task-head")
    model = get_peft_model(build("swin-classifier"), config)
    model.add_adapter("second", copy.deepcopy(config))
    model.set_adapter("second")
    assert model.active_adapters == ["second"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize("low_cpu_mem_usage", [True, False])
def test_type_of_the_adapters_numbers(dtype, autocast, low_cpu_mem_usage, tmp_path):
    config = MonaConfig(init_weights=False, modules_to_save=[])
    model = get_peft_model(build("swin-classifier").to(dtype), config, autocast_adapter_dtype=autocast)
    model.add_adapter("added", copy.deepcopy(config), autocast_adapter_dtype=autocast)
    model.save_pretrained(tmp_path)
    ways = {"autocast_adapter_dtype": autocast, "low_cpu_mem_usage": low_cpu_mem_usage}
    model.load_adapter(tmp_path, "loaded", **ways)
    reloaded = PeftModel.from_pretrained(build("swin-classifier").to(dtype), tmp_path, **ways)
    for adapted_model, adapter_names in [(model, ("default", "added", "loaded")), (reloaded, ("default",))]:
        for adapter_name in adapter_names:
            found = {p.dtype for key, p in adapted_model.named_parameters() if f".{adapter_name}." in key}
            assert found == {torch.float32 if autocast else dtype}
        assert adapted_model(images().to(dtype)).logits.dtype is dtype


@pytest.mark.parametrize("name", NAMES)
def test_only_adapters_and_heads_get_gradients(name):
    model = adapted(name).train()
    model(images())[0].pow(2).sum().backward()
    for key, parameter in model.named_parameters():
        # The logits do not pass through UPerNet's auxiliary head.
        has_gradient = parameter.requires_grad and "auxiliary_head" not in key
        assert (parameter.grad is not None) == has_gradient, key
    assert {key.split(".")[-2] for key, p in model.named_parameters() if p.requires_grad and ".mona." in key} == {
        "default"
    }


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointing_switched_on_afterwards(use_reentrant):
    model = adapted(dropout=0.0).train()

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        torch.manual_seed(0)
        model(images())[0].pow(2).sum().backward()
        return [p.grad.clone() for p in model.parameters() if p.requires_grad]

    expected = gradients()
    model.prepare_model_for_gradient_checkpointing(model)
    enable_checkpointing(model, {"use_reentrant": use_reentrant})
    assert largest_difference(gradients(), expected) < 1e-4


def test_unloading_leaves_no_trace():
    model = adapted().eval()
    outside = build("swin-classifier").eval()
    unloaded = model.unload()
    assert not any(isinstance(module, (BaseTunerLayer, ModulesToSaveWrapper)) for module in unloaded.modules())
    assert not hasattr(unloaded, "peft_config")
    # With trained heads unload() keeps the head, as for LoRA; it has not been trained here.
    assert largest_difference(outputs(unloaded, images()), outputs(outside, images())) == 0
    again = get_peft_model(unloaded, MonaConfig(init_weights=False, modules_to_save="task-head")).eval()
    assert largest_difference(outputs(again, images()), outputs(outside, images())) > 1e-4


def test_base_weights_can_be_read_and_set():
    base = build("swin-classifier").state_dict()
    model = adapted()
    try:
        from peft import get_base_model_state_dict, set_base_model_state_dict
    except ImportError:  # new in PEFT 0.21
        assert model.unload().state_dict().keys() == base.keys()
        return
    found = get_base_model_state_dict(model)
    assert found.keys() == base.keys()
    assert all(torch.equal(found[key], base[key]) for key in base)
    with torch.no_grad():
        for parameter in model.get_base_model().parameters():
            parameter.add_(0.1)
    result = set_base_model_state_dict(model, base, strict=False)
    assert not result.missing_keys
    assert not result.unexpected_keys
    assert all(torch.equal(tensor, base[key]) for key, tensor in get_base_model_state_dict(model).items())


def test_prepared_for_low_precision():
    model = prepare_model_for_kbit_training(build("swin-classifier"), use_gradient_checkpointing=False)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    model = get_peft_model(model, MonaConfig(modules_to_save="task-head")).train()
    model(pixel_values=images(), labels=torch.tensor([0, 1])).loss.backward()
    assert all(p.grad is not None for key, p in model.named_parameters() if ".mona." in key)


def test_loaded_by_a_device_map(tmp_path):
    model = trained("swin-classifier")
    model.save_pretrained(tmp_path)
    reloaded = PeftModel.from_pretrained(build("swin-classifier"), tmp_path, device_map={"": "cpu"}).eval()
    assert largest_difference(outputs(reloaded, images()), outputs(model, images())) == 0


def test_a_head_of_another_size_on_request(tmp_path):
    """As LoRA's: what fits is loaded, the head stays as it is."""
    model = trained("swin-classifier")
    model.save_pretrained(tmp_path)
    base = SwinForImageClassification(SwinConfig(**TWO_STAGES | {"num_labels": 2}))
    with pytest.raises(ValueError, match="2 have another shape"):
        PeftModel.from_pretrained(copy.deepcopy(base), tmp_path)
    loaded = PeftModel.from_pretrained(base, tmp_path, ignore_mismatched_sizes=True)
    saved, state = load_file(tmp_path / WEIGHTS), get_peft_model_state_dict(loaded)
    assert state.keys() == saved.keys()
    assert all(torch.equal(tensor, saved[key]) for key, tensor in state.items() if ".mona." in key)
    assert loaded(images()).logits.shape == (2, 2)


@pytest.fixture
def process_group():
    """A group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:.*FSDP.*:FutureWarning", "ignore:.*FullyShardedDataParallel.*")
def test_state_of_a_model_in_fsdp1(process_group):
    model = trained("swin-classifier")
    expected = outputs(model, images())
    state_dict = get_peft_model_state_dict(
        FullyShardedDataParallel(model, use_orig_params=True, device_id=torch.device("cpu"))
    )
    reloaded = adapted().eval()
    assert largest_difference(outputs(reloaded, images()), expected) > 1e-3
    assert set_peft_model_state_dict(reloaded, state_dict).unexpected_keys == []
    assert largest_difference(outputs(reloaded, images()), expected) == 0


def test_card_that_is_there_is_kept(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n\n# Hello\n\nBest model.\n")
    trained("swin-classifier").save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "# Hello\n\nBest model." in card
    for part in ("license: mit", "library_name: peft", "- mona", "import mona_peft", "- PEFT "):
        assert part in card, part
    assert "base_model" not in card
    trained("swin-classifier").save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text().strip() == card.strip()


def test_pickles_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="saved as safetensors only"):
        adapted().save_pretrained(tmp_path / "new", safe_serialization=False)
    assert not (tmp_path / "new").exists()


class Toy(nn.Module):
    """A model that is none of transformers', around a Swin."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = build("swin"), nn.Linear(32, 3)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(pixel_values).pooler_output)


def test_a_model_outside_transformers(tmp_path):
    torch.manual_seed(0)
    toy = Toy().eval()
    state = copy.deepcopy(toy.state_dict())
    before = toy(images()).detach()
    model = get_peft_model(toy, MonaConfig(init_weights=False, modules_to_save=["head"])).eval()
    expected = model(images()).detach()
    assert largest_difference([expected], [before]) > 1e-4
    model.save_pretrained(tmp_path)
    fresh = Toy().eval()
    fresh.load_state_dict(state)
    reloaded = PeftModel.from_pretrained(fresh, tmp_path).eval()
    torch.testing.assert_close(reloaded(images()), expected, atol=1e-6, rtol=0)
    assert "base_model:" not in (tmp_path / "README.md").read_text()
