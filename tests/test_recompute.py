"""Recomputing frozen branches: the same gradients, fewer bytes, and no silence where it cannot be done."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mona_peft import BlockAnatomy, MonaConfig, register_block
from mona_peft.blocks import KNOWN_BLOCKS
from mona_peft.integration.checkpointing import enable_checkpointing
from mona_peft.integration.layer import ResidualAdapterLayer
from mona_peft.tasks.comparison.memory import kept_bytes
from tests import backbones as vision_backbones
from tests.models import BACKBONES, HEADED, build, images


def adapted(name: str, recompute_mlp: bool):
    torch.manual_seed(2)
    settings = {"init_weights": False, "modules_to_save": [] if name in HEADED else None}
    return get_peft_model(build(name), MonaConfig(recompute_mlp=recompute_mlp, **settings)).train()


def gradients(model) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    outputs = model(images()).to_tuple()
    tensors = [t for value in outputs for t in (value if isinstance(value, (tuple, list)) else (value,))]
    tensors = [tensor for tensor in tensors if isinstance(tensor, torch.Tensor)]
    sum((tensor * torch.randn_like(tensor)).sum() for tensor in tensors).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", [*BACKBONES, "upernet"])
def test_same_gradients(name):
    expected = gradients(adapted(name, recompute_mlp=False))
    ours = gradients(adapted(name, recompute_mlp=True))
    assert expected.keys() == ours.keys()
    for key, gradient in expected.items():
        torch.testing.assert_close(ours[key], gradient, rtol=1e-4, atol=1e-4 * gradient.abs().max().item(), msg=key)


@pytest.mark.parametrize("name", ["vit", "dinov2", "dinov3-vit", "clip", "siglip", "segformer", "pvt", "pvt-v2"])
def test_same_gradients_in_vision_transformers(name):
    row = vision_backbones.BACKBONES[name]
    found = []
    for recompute_mlp in (False, True):
        torch.manual_seed(2)
        config = MonaConfig(init_weights=False, modules_to_save=[], recompute_mlp=recompute_mlp)
        model = get_peft_model(vision_backbones.build(name), config).train()
        torch.manual_seed(3)
        model(vision_backbones.image(row.image), **row.arguments)[0].square().sum().backward()
        found.append([parameter.grad for parameter in model.parameters() if parameter.requires_grad])
    for plain, recomputed in zip(*found, strict=True):
        torch.testing.assert_close(recomputed, plain, rtol=1e-4, atol=1e-4 * plain.abs().max().item())


def recomputed_everywhere(name: str, recompute: bool):
    torch.manual_seed(2)
    config = MonaConfig(init_weights=False, modules_to_save=[], recompute_mlp=recompute, recompute_attention=recompute)
    model = get_peft_model(vision_backbones.build(name), config).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.1
        if type(module).__name__.endswith("DropPath"):
            module.drop_prob = 0.2
    return model


def seeded_gradients(model, name: str) -> list[torch.Tensor]:
    row = vision_backbones.BACKBONES[name]
    torch.manual_seed(3)
    model(vision_backbones.image(row.image), **row.arguments)[0].square().sum().backward()
    return [parameter.grad for parameter in model.parameters() if parameter.requires_grad]


@pytest.mark.parametrize("name", ["swin", "swinv2", "donut-swin", "deit", "dinov2", "dinov3-vit", "clip", "siglip"])
def test_both_branches_give_the_same_bits_from_fewer_bytes(name):
    """With dropout and stochastic depth, too."""
    models = [recomputed_everywhere(name, recompute) for recompute in (False, True)]
    plain, recomputed = (seeded_gradients(model, name) for model in models)
    assert all(torch.equal(a, b) for a, b in zip(plain, recomputed, strict=True))
    row = vision_backbones.BACKBONES[name]
    all_kept, kept = (kept_bytes(model, vision_backbones.image(row.image), **row.arguments) for model in models)
    assert kept < (0.6 if "swin" in name else 0.9) * all_kept  # the other models have six patches, so weights weigh


@pytest.mark.parametrize("name", ["swin", "dinov2", "clip"])
def test_no_layer_behind_the_activation_is_computed_again(name):
    def multiplications(recompute_mlp: bool) -> int:
        config = MonaConfig(init_weights=False, modules_to_save=[], recompute_mlp=recompute_mlp)
        model = get_peft_model(vision_backbones.build(name), config).train()
        with FlopCounterMode(display=False) as counter:
            seeded_gradients(model, name)
        return counter.get_total_flops()

    row, first = vision_backbones.BACKBONES[name], []
    model = vision_backbones.build(name)
    for path, module in model.named_modules():
        if path.endswith("mlp.fc1"):
            module.register_forward_hook(
                lambda module, args, _: first.append(2 * args[0].numel() * module.out_features)
            )
    model(vision_backbones.image(row.image), **row.arguments)
    assert multiplications(True) - multiplications(False) == sum(first) > 0


@pytest.mark.parametrize("name", ["swin", "dinov2"])
def test_layers_of_the_branches_may_be_trained(name):
    found = []
    for recompute in (False, True):
        model = recomputed_everywhere(name, recompute)
        for path, parameter in model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad or ".mlp." in path or "norm" in path)
        found.append(seeded_gradients(model, name))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("name", ["swin", "dinov2"])
def test_both_branches_inside_gradient_checkpointing(name):
    plain = seeded_gradients(recomputed_everywhere(name, recompute=False), name)
    model = recomputed_everywhere(name, recompute=True)
    enable_checkpointing(model, {"use_reentrant": False})
    assert all(torch.equal(a, b) for a, b in zip(plain, seeded_gradients(model, name), strict=True))


def test_saved_with_the_adapter_and_off_where_an_older_one_does_not_say(tmp_path):
    recomputed_everywhere("swin", recompute=True).save_pretrained(tmp_path)
    layers = lambda: [m for m in load().modules() if isinstance(m, ResidualAdapterLayer)]  # noqa: E731
    load = lambda: PeftModel.from_pretrained(vision_backbones.build("swin"), tmp_path)  # noqa: E731
    assert all(layer.recomputed_sites() == ["attention", "mlp"] for layer in layers())
    path = tmp_path / "adapter_config.json"
    saved = json.loads(path.read_text())
    del saved["recompute_attention"]
    path.write_text(json.dumps(saved))
    assert all(layer.recomputed_sites() == ["mlp"] for layer in layers())


def test_compiled():
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(2)
        config = MonaConfig(init_weights=False, dropout=0.0, recompute_mlp=recompute, recompute_attention=recompute)
        block = get_peft_model(build("swin"), config).train().base_model.model.encoder.layers[1].blocks[1]
        torch.manual_seed(3)
        hidden = torch.randn(2, 64, 32, requires_grad=True)
        run = torch.compile(block, fullgraph=True, backend="aot_eager") if recompute else block
        gradients.append(torch.autograd.grad(run(hidden, (8, 8))[0].pow(2).sum(), hidden)[0])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["swin", "swinv2", "maskformer-swin", "donut-swin"])
def test_keeps_less(name):
    kept = {recompute: kept_bytes(adapted(name, recompute), images()) for recompute in (False, True)}
    assert kept[True] < 0.9 * kept[False]


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_inside_gradient_checkpointing(use_reentrant):
    expected = gradients(adapted("swin", recompute_mlp=False))
    model = adapted("swin", recompute_mlp=True)
    enable_checkpointing(model, {"use_reentrant": use_reentrant})
    for key, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[key], rtol=1e-4, atol=1e-4 * gradient.abs().max().item())


def test_only_the_active_adapter_asks_for_it():
    model = adapted("swin", recompute_mlp=False)
    model.add_adapter("frugal", MonaConfig(recompute_mlp=True))
    plain = kept_bytes(model, images())
    model.set_adapter("frugal")
    assert kept_bytes(model, images()) < 0.8 * plain


def test_unknown_branch_is_refused_before_anything_changes(monkeypatch):
    monkeypatch.setattr("mona_peft.blocks.lookup.KNOWN_BLOCKS", dict(KNOWN_BLOCKS))
    register_block("SwinLayer", BlockAnatomy("layernorm_after", "layernorm_before", ("input_dimensions",)))
    model = build("swin")
    with pytest.raises(ValueError, match=r"recompute_mlp=True: .* SwinLayer says mlp_branch=\(\)"):
        get_peft_model(model, MonaConfig(recompute_mlp=True))
    assert not any("mona" in name for name, _ in model.named_parameters())
    register_block(
        "SwinLayer",
        BlockAnatomy(
            "layernorm_after", "layernorm_before", ("input_dimensions",), mlp_branch=("layernorm_after", "ffn")
        ),
    )
    with pytest.raises(ValueError, match=r"lacks \['ffn'\]"):
        get_peft_model(model, MonaConfig(recompute_mlp=True))
    with pytest.raises(ValueError, match=r"recompute_attention=True: .* SwinLayer says attention_path=\(\)"):
        get_peft_model(model, MonaConfig(recompute_attention=True))
    with pytest.raises(ValueError, match="recompute_mlp='yes': choose one of"):
        MonaConfig(recompute_mlp="yes")
