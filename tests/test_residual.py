"""Adapters that add to a block's hidden states in place: only where nobody else sees it."""

from __future__ import annotations

import pytest
import torch
from peft import get_peft_model
from torch import nn
from transformers import ViTConfig, ViTModel
from transformers.models.vit.modeling_vit import ViTLayer

from mona_peft import MonaConfig
from mona_peft.blocks import anatomy_of
from mona_peft.host.block import may_be_overwritten
from mona_peft.methods.mona import Mona
from scripts.benchmark.models import FormulaMona
from tests import backbones as vision_backbones
from tests.models import BACKBONES, build, images, largest_difference, outputs


class WithoutPrivateNames(torch.Tensor):
    """As a release of PyTorch might have it."""

    @property
    def _is_view(self):
        raise AttributeError


def test_what_may_be_overwritten():
    assert not may_be_overwritten(torch.zeros(2, 3).as_subclass(WithoutPrivateNames))
    x = torch.randn(2, 6, 4, requires_grad=True)
    assert may_be_overwritten(x + 1)
    assert may_be_overwritten((x + 1).unflatten(1, (2, 3)).flatten(1, 2))
    assert not may_be_overwritten(x)
    assert not may_be_overwritten(x.exp()), "exp keeps its result"
    assert not may_be_overwritten((x + 1)[:, 1:])
    assert not may_be_overwritten((x + 1).transpose(1, 2))
    channels_last = (x + 1).unflatten(1, (2, 3)).permute(0, 3, 1, 2)
    assert may_be_overwritten(channels_last)
    assert not may_be_overwritten(channels_last.contiguous() + 1), "a map that is channels first in memory"
    assert not may_be_overwritten((x + 1)[:0])


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("training", [True, False])
def test_equals_a_host_that_adds_deltas(name, training):
    """In place or not, outputs, recorded hidden states and gradients are the same."""
    torch.manual_seed(2)
    config = MonaConfig(init_weights=False, dropout=0.0)
    model = get_peft_model(build(name), config).double().train(training)
    for module in model.modules():
        if "Drop" in type(module).__name__:
            module.eval()
    pixel_values = images().double()
    ours = outputs(model, pixel_values, output_hidden_states=True)
    ours_grads = _gradients(model, pixel_values)
    for module in model.modules():
        if type(module).__name__ == "Mona":
            module.__class__ = FormulaMona
    theirs = outputs(model, pixel_values, output_hidden_states=True)
    assert largest_difference(ours, theirs) < 1e-10
    for our, their in zip(ours_grads, _gradients(model, pixel_values), strict=True):
        torch.testing.assert_close(our, their, rtol=1e-7, atol=1e-9)
    assert torch.equal(pixel_values, images().double())


@pytest.mark.parametrize("name", ["convnext", "convnextv2", "dinov3-convnext"])
@pytest.mark.parametrize("channels_last", [True, False])
def test_equals_a_host_of_maps_that_adds_deltas(name, channels_last):
    """Likewise where hidden states are maps, however these lie in memory."""
    row = vision_backbones.BACKBONES[name]
    config = MonaConfig(init_weights=False, dropout=0.0, modules_to_save=[])
    model = get_peft_model(vision_backbones.build(name), config).double().eval()
    if not channels_last:
        for module in model.modules():
            if type(module).__name__ == "ConvNextLayer":
                module.register_forward_pre_hook(lambda _, args: (args[0].contiguous(), *args[1:]))
    pixel_values = vision_backbones.image(row.image).double()
    ours, ours_grads = outputs(model, pixel_values, output_hidden_states=True), _gradients(model, pixel_values)
    for module in model.modules():
        if type(module).__name__ == "Mona":
            module.__class__ = FormulaMona
    assert largest_difference(ours, outputs(model, pixel_values, output_hidden_states=True)) < 1e-10
    for our, their in zip(ours_grads, _gradients(model, pixel_values), strict=True):
        torch.testing.assert_close(our, their, rtol=1e-7, atol=1e-9)


def _gradients(model, pixel_values) -> list[torch.Tensor]:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    values = model(pixel_values).to_tuple()
    tensors = [t for value in values for t in (value if isinstance(value, tuple) else (value,)) if t is not None]
    torch.manual_seed(4)
    return torch.autograd.grad(sum((tensor * torch.randn_like(tensor)).sum() for tensor in tensors), parameters)


def test_compiles_without_a_graph_break():
    model = get_peft_model(build("swin"), MonaConfig(init_weights=False, dropout=0.0)).train()
    block = model.base_model.model.encoder.layers[1].blocks[1]
    hidden = torch.randn(2, 64, 32, requires_grad=True)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    ours, expected = compiled(hidden, (8, 8))[0], block(hidden, (8, 8))[0]
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    ours, expected = (torch.autograd.grad(output.pow(2).sum(), hidden)[0] for output in (ours, expected))
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_compiles_in_half_precision():
    """What the backward pass keeps is the input there, which the sum must not overwrite."""
    model = get_peft_model(build("swin"), MonaConfig(init_weights=False, dropout=0.0)).train()
    block = model.base_model.model.encoder.layers[1].blocks[1].bfloat16()
    hidden = torch.randn(2, 64, 32, dtype=torch.bfloat16, requires_grad=True)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    found = [torch.autograd.grad(run(hidden, (8, 8))[0].float().pow(2).sum(), hidden)[0] for run in (compiled, block)]
    ours, expected = (gradient.float() for gradient in found)
    assert (ours - expected).norm() < 0.02 * expected.norm()


class WithoutAttention(ViTLayer):
    """Its `h` is the block's input itself."""

    def forward(self, hidden_states, *args, **kwargs):
        return hidden_states + self.mlp(self.layernorm_after(hidden_states))


class CallsParent(ViTLayer):
    def forward(self, hidden_states, *args, **kwargs):
        return super().forward(hidden_states, *args, **kwargs)


class CallsGrandparent(CallsParent):
    pass


def vit(block_class: type[nn.Module]) -> ViTModel:
    torch.manual_seed(0)
    settings = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    model = ViTModel(ViTConfig(**settings, image_size=32, patch_size=8)).double().eval()
    for block in model.layers:
        block.__class__ = block_class
    return model


def test_block_that_skips_attention_keeps_its_input():
    assert anatomy_of(ViTLayer(ViTConfig())).fresh_sums
    pixel_values = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    model = get_peft_model(vit(WithoutAttention), MonaConfig(init_weights=False, dropout=0.0)).eval()
    inputs, before = [], []
    for block in model.base_model.model.layers:
        block.register_forward_pre_hook(lambda _, args: inputs.append(args[0]) or before.append(args[0].clone()))
    ours = _gradients(model, pixel_values)
    assert all(torch.equal(now, then) for now, then in zip(inputs, before, strict=True))
    for module in model.modules():
        if type(module).__name__ == "Mona":
            module.__class__ = FormulaMona
    for our, their in zip(ours, _gradients(model, pixel_values), strict=True):
        torch.testing.assert_close(our, their)


def test_class_that_only_has_the_name_of_a_known_one_may_do_otherwise():
    namesake = type("ViTLayer", (nn.Module,), {"forward": WithoutAttention.forward})()
    namesake.layernorm_before = namesake.layernorm_after = nn.LayerNorm(4)
    assert not anatomy_of(namesake).fresh_sums


@pytest.mark.parametrize("block_class", [CallsParent, CallsGrandparent])
def test_block_that_calls_its_parents_forward(block_class):
    pixel_values = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    models = []
    for cls in (ViTLayer, block_class):
        model = vit(cls)
        torch.manual_seed(1)
        models.append(get_peft_model(model, MonaConfig(init_weights=False, dropout=0.0)).eval())
    for ours, expected in zip(*(_gradients(model, pixel_values) for model in models), strict=True):
        torch.testing.assert_close(ours, expected)


def scale_input(module, args):
    return (args[0] * 2, *args[1:])


def scale_output(module, args, output):
    return output * 2


HOOKS = {
    "backward": lambda module: module.register_full_backward_hook(lambda *_: None),
    "backward pre": lambda module: module.register_full_backward_pre_hook(lambda *_: None),
    "forward": lambda module: module.register_forward_hook(scale_output),
    "forward pre": lambda module: module.register_forward_pre_hook(scale_input),
}


@pytest.mark.parametrize("register", HOOKS.values(), ids=HOOKS)
@pytest.mark.parametrize("target", ["Mona", "MonaLayer"])
def test_hooks_on_adapters_see_and_change_what_they_do_elsewhere(register, target):
    """What they return is not lost, as it would be if an adapter wrote into a tensor of the block."""
    pixel_values = images().double().requires_grad_()
    torch.manual_seed(2)
    model = get_peft_model(build("swin"), MonaConfig(init_weights=False, dropout=0.0)).double().eval()
    for module in model.modules():
        if type(module).__name__ == target:
            register(module)
    ours = _gradients(model, pixel_values)
    for module in model.modules():
        if type(module).__name__ == "Mona":
            module.__class__ = FormulaMona
    for our, their in zip(ours, _gradients(model, pixel_values), strict=True):
        torch.testing.assert_close(our, their, rtol=1e-7, atol=1e-9)


@pytest.mark.filterwarnings("ignore:For backward hooks to be called")
def test_backward_hooks_on_all_modules():
    model = get_peft_model(build("swin"), MonaConfig(init_weights=False, dropout=0.0)).double().eval()
    expected = _gradients(model, images().double().requires_grad_())
    seen = []
    handle = nn.modules.module.register_module_full_backward_hook(lambda module, *_: seen.append(type(module).__name__))
    try:
        ours = _gradients(model, images().double().requires_grad_())
    finally:
        handle.remove()
    assert {"Mona", "MonaLayer", "SwinLayer"} <= set(seen)
    for our, their in zip(ours, expected, strict=True):
        torch.testing.assert_close(our, their)


ADDED_TO = ("siglip", "ijepa", "vit", "segformer", "focalnet", "aimv2", "sam", "vitdet", "hiera", "rf-detr", "lw-detr")


@pytest.mark.parametrize("name", ADDED_TO)
def test_tokens_in_which_no_class_token_or_no_row_is_first(name, monkeypatch):
    """Whether a projection leaves them channel by channel or they lie in windows, all adapters add in place."""
    row = vision_backbones.BACKBONES[name]
    model = get_peft_model(vision_backbones.build(name), MonaConfig(modules_to_save=[])).train()
    original, ways = Mona.forward, []
    monkeypatch.setattr(
        Mona, "forward", lambda self, *args, **given: (ways.append(given), original(self, *args, **given))[1]
    )
    model(vision_backbones.image(row.image), **row.arguments)
    assert ways == [{"in_place": True}] * 2 * len(row.strides)
