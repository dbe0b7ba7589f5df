"""Gradient checkpointing: the same gradients, both kinds, switched on before or after the adapter is attached."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import get_peft_model
from torch import nn

from mona_peft import MonaConfig
from mona_peft.host.block import AdaptedBlock
from mona_peft.integration.checkpointing import enable_checkpointing
from tests.models import build, images

BACKBONE = {"upernet": "backbone", "mask2former": "model.pixel_level_module.encoder"}
NAMES = ["swin", "swin-classifier", "swinv2", "swinv2-backbone", "maskformer-swin", "donut-swin", "upernet"]


def checkpoint(model: nn.Module, name: str, reentrant: bool) -> None:
    """Switch checkpointing on; composed models refuse it as a whole, so there it is the backbone's."""
    enable_checkpointing(model.get_submodule(BACKBONE.get(name, "")), {"use_reentrant": reentrant})


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    model.train()
    torch.manual_seed(5)
    values = model(images()).to_tuple()
    tensors = [t for value in values for t in (value if isinstance(value, tuple) else (value,))]
    sum(tensor.pow(2).mean() for tensor in tensors if tensor.requires_grad).backward()
    return {key: parameter.grad for key, parameter in model.named_parameters() if parameter.requires_grad}


def count_calls(model: nn.Module) -> list[int]:
    calls = [0]

    def count(module, args):
        calls[0] += 1

    for module in model.modules():
        if isinstance(module, AdaptedBlock):
            module.mona.register_forward_pre_hook(count)
    return calls


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("reentrant", [False, True], ids=["non-reentrant", "reentrant"])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_the_same(name, reentrant, when):
    config = MonaConfig(init_weights=False, modules_to_save=[])
    plain = get_peft_model(build(name), copy.deepcopy(config))
    expected = gradients(plain)
    without = len([m for m in plain.modules() if isinstance(m, AdaptedBlock)]) * 2

    model = build(name)
    if when == "before":
        checkpoint(model, name, reentrant)
        torch.manual_seed(0)
    model = get_peft_model(model, config)
    model.load_state_dict(plain.state_dict())
    if when == "after":
        checkpoint(model.base_model.model, name, reentrant)
    calls = count_calls(model)
    ours = gradients(model)

    assert calls[0] > without, "the adapters must have run again in the backward pass"
    assert ours.keys() == expected.keys()
    for key, gradient in expected.items():
        assert ours[key] is not None, key
        assert torch.count_nonzero(gradient) > 0, key
        torch.testing.assert_close(ours[key], gradient, atol=1e-6, rtol=1e-5, msg=lambda m, k=key: f"{k}: {m}")


def test_transformers_own_helper_works_on_tuples():
    """`enable_input_require_grads` fails on a stock Swin, whose patch embeddings return a tuple."""
    stock = build("swin")
    stock.enable_input_require_grads()
    with pytest.raises(AttributeError, match="requires_grad_"):
        stock(images())
    model = get_peft_model(build("swin"), MonaConfig(init_weights=False))
    model.base_model.model.enable_input_require_grads()
    assert model.train()(images()).last_hidden_state.requires_grad
