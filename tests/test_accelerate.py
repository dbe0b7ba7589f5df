"""accelerate's hooks: on a base before the adapter comes, on an adapted model, and gone again; devices and offloading.

`device_map` of `from_pretrained` is made of these hooks.
"""

from __future__ import annotations

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from peft import PeftModel, get_peft_model
from torch import nn

from mona_peft import Mona, MonaConfig
from tests.models import build, images, largest_difference, outputs

BASE = "swin-classifier"
CONFIG = {"init_weights": False, "modules_to_save": [], "bottleneck_dim": 4}
CPU = torch.device("cpu")
PLACES = dict.fromkeys(
    [
        "swin.embeddings",
        "swin.encoder.layers.0",
        "swin.encoder.layers.1",
        "swin.layernorm",
        "swin.pooler",
        "classifier",
    ],
    "cpu",
)


def adapted(base: nn.Module) -> PeftModel:
    torch.manual_seed(1)
    return get_peft_model(base, MonaConfig(**CONFIG)).eval()


def hooked(model: nn.Module) -> nn.Module:
    for module in model.modules():
        add_hook_to_module(module, ModelHook())
    return model


def freed(model: nn.Module) -> nn.Module:
    """Without hooks again, which may leave a bound `forward` in a module's dict."""
    remove_hook_from_module(model, recurse=True)
    assert any("forward" in vars(module) for module in model.modules())
    return model


@pytest.fixture(scope="module")
def expected() -> list[torch.Tensor]:
    return outputs(adapted(build(BASE)), images())


def stock_outputs() -> list[torch.Tensor]:
    return outputs(build(BASE), images())


def hooks_come_and_go_first() -> PeftModel:
    return adapted(freed(hooked(build(BASE))))


def hooks_come_and_go_later() -> PeftModel:
    model = adapted(build(BASE))
    freed(hooked(model.get_base_model()))
    return model


def adapter_comes_while_hooked() -> PeftModel:
    model = adapted(hooked(build(BASE)))
    freed(model.get_base_model())
    return model


@pytest.mark.parametrize("make", [hooks_come_and_go_first, hooks_come_and_go_later, adapter_comes_while_hooked])
def test_hooks_that_were_removed_make_no_difference(make, expected, monkeypatch):
    ways, forward = [], Mona.forward

    def spy(self, hidden_states, grid, in_place=False):
        ways.append(in_place)
        return forward(self, hidden_states, grid, in_place)

    monkeypatch.setattr(Mona, "forward", spy)
    model = make()
    assert largest_difference(outputs(model, images()), expected) == 0
    assert ways
    assert all(ways), "the way that keeps less memory is taken as before"

    model.add_adapter("second", MonaConfig(**CONFIG))
    model.set_adapter("second")
    assert largest_difference(outputs(model, images()), expected) > 1e-3
    assert largest_difference(outputs(model.unload(), images()), stock_outputs()) == 0


@pytest.mark.parametrize("remove_first", [False, True])
def test_unloading_a_hooked_model(remove_first, expected):
    model = adapted(build(BASE))
    hooked(model.get_base_model())
    assert largest_difference(outputs(model, images()), expected) < 1e-6
    if remove_first:
        freed(model.get_base_model())
    base = model.unload()
    assert largest_difference(outputs(base, images()), stock_outputs()) == 0
    assert largest_difference(outputs(freed(base), images()), stock_outputs()) == 0


def test_training_under_hooks():
    model = adapted(build(BASE)).eval()
    gradients = []
    for change in (lambda model: model, hooked):
        change(model)
        model.zero_grad()
        model(images()).logits.sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
    assert gradients[0]
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-6, rtol=1e-4)


def laid_over_devices() -> nn.Module:
    """As `from_pretrained(device_map=...)` leaves a model."""
    model = dispatch_model(build(BASE), PLACES, force_hooks=True)
    model.hf_device_map = PLACES
    return model


def test_a_base_over_several_devices(expected, tmp_path):
    assert largest_difference(outputs(adapted(laid_over_devices()), images()), expected) < 1e-6
    adapted(build(BASE)).save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(laid_over_devices(), tmp_path).eval()
    assert largest_difference(outputs(loaded, images()), expected) < 1e-6


@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.parametrize("first", ["offload", "adapter"])
def test_offloaded_weights(first, where, expected, tmp_path):
    def offload(model: nn.Module) -> None:
        if where == "memory":
            cpu_offload(model, execution_device=CPU)
        else:
            disk_offload(model, tmp_path, execution_device=CPU)

    base = build(BASE)
    if first == "offload":
        offload(base)
        model = adapted(base)
        tensors = [p for name, p in model.named_parameters() if ".mona_" in name]
        assert {tensor.device.type for tensor in tensors} == {"cpu"}, "adapters are where they can be trained"
    else:
        model = adapted(base)
        offload(model)
    for _ in range(2):
        assert largest_difference(outputs(model, images()), expected) < 1e-6
