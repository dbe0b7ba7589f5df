"""Attaching: what is adapted, trained, counted and taken off again."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from peft import PeftType, get_peft_model
from torch import nn
from transformers import (
    RTDetrConfig,
    RTDetrForObjectDetection,
    SwinConfig,
    SwinForImageClassification,
    SwinModel,
)

from mona_peft import BlockAnatomy, MonaConfig, register_block
from mona_peft.blocks import KNOWN_BLOCKS
from tests.models import FOUR_STAGES, HEADED, HEADS, MODELS, TWO_STAGES, build, images, largest_difference, outputs

BLOCKS = [f"encoder.layers.{stage}.blocks.{index}" for stage in (0, 1) for index in (0, 1)]


def adapted_blocks(model: nn.Module) -> list[str]:
    return model.base_model.targeted_module_names


def config_for(name: str, **settings) -> MonaConfig:
    return MonaConfig(modules_to_save="task-head" if name in HEADED else None, **settings)


@pytest.mark.parametrize("name", MODELS)
def test_starts_equal_to_the_base_and_learns(name):
    model = build(name)
    base = outputs(model, images())
    model = get_peft_model(model, config_for(name)).eval()
    for ours, theirs in zip(outputs(model, images()), base, strict=True):
        assert torch.equal(ours, theirs)

    changed = get_peft_model(build(name), config_for(name, init_weights=False)).eval()
    assert largest_difference(outputs(changed, images()), base) > 1e-4
    with changed.disable_adapter():
        # Not bit-equal in models whose heads stand in PEFT's wrappers: convolutions round otherwise.
        assert largest_difference(outputs(changed, images()), base) < 1e-5
    unloaded = changed.unload()
    for ours, theirs in zip(outputs(unloaded, images()), base, strict=True):
        assert torch.equal(ours, theirs)
    assert type(unloaded) is type(build(name))
    assert unloaded.state_dict().keys() == build(name).state_dict().keys()
    assert {type(module) for module in unloaded.modules()} == {type(module) for module in build(name).modules()}


@pytest.mark.parametrize("name", MODELS)
def test_every_block_is_adapted_and_nothing_else_is_trained(name):
    blocks = [key for key, module in build(name).named_modules() if type(module).__name__ in KNOWN_BLOCKS]
    model = get_peft_model(build(name), config_for(name, init_weights=False)).train()
    assert adapted_blocks(model) == blocks
    assert len(blocks) >= 4
    saved = tuple(f"base_model.model.{head}.modules_to_save.default." for head in HEADS.get(name, []))
    for key, parameter in model.named_parameters():
        assert parameter.requires_grad == (".mona.mona_" in key or any(key.startswith(head) for head in saved)), key
    sum(tensor.float().pow(2).mean() for tensor in floating_outputs(model(images()))).backward()
    for key, parameter in model.named_parameters():
        if ".mona.mona_" in key:
            assert parameter.grad is not None, key
            assert torch.count_nonzero(parameter.grad) > 0, key


def floating_outputs(output) -> list[torch.Tensor]:
    values = output.to_tuple()
    nested = [tensor for value in values for tensor in (value if isinstance(value, (tuple, list)) else [value])]
    return [tensor for tensor in nested if isinstance(tensor, torch.Tensor) and tensor.requires_grad]


@pytest.mark.parametrize(
    ("embed_dim", "depths", "parameters"),
    [
        pytest.param(96, (2, 2, 6, 2), 1_408_128, id="tiny"),
        pytest.param(128, (2, 2, 18, 2), 3_667_456, id="base"),
        pytest.param(192, (2, 2, 18, 2), 5_267_712, id="large"),
    ],
)
def test_parameter_counts_of_the_paper(embed_dim, depths, parameters):
    heads = tuple(embed_dim // 32 * 2**stage for stage in range(4))
    config = SwinConfig(embed_dim=embed_dim, depths=depths, num_heads=heads, window_size=7)
    with torch.device("meta"):
        model = get_peft_model(SwinModel(config), MonaConfig())
    trainable, total = model.get_nb_trainable_parameters()
    assert trainable == parameters
    assert trainable / total < 0.05


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, BLOCKS),
        ({"target_modules": ["blocks.0"]}, BLOCKS[::2]),
        ({"target_modules": ["layers.1.blocks.1", "encoder.layers.0.blocks.0"]}, [BLOCKS[0], BLOCKS[3]]),
        ({"target_modules": r".*layers\.1.*"}, BLOCKS[2:]),
        ({"exclude_modules": ["layers.0.blocks.1"]}, [BLOCKS[0], *BLOCKS[2:]]),
        ({"exclude_modules": r".*layers\.0\..*"}, BLOCKS[2:]),
        ({"layers_to_transform": 2}, [BLOCKS[2]]),
        ({"layers_to_transform": [0, -1]}, [BLOCKS[0], BLOCKS[3]]),
        ({"target_modules": ["blocks.1"], "layers_to_transform": [1, 2]}, [BLOCKS[1]]),
    ],
    ids=str,
)
def test_choice_of_blocks(settings, expected):
    model = get_peft_model(build("swin"), MonaConfig(**settings))
    assert adapted_blocks(model) == expected
    holders = [key.removesuffix(".mona") for key, _ in model.base_model.model.named_modules() if key.endswith(".mona")]
    assert holders == expected


@pytest.mark.parametrize("name", HEADED)
def test_task_head_is_all_that_stands_outside_the_backbone(name):
    model = get_peft_model(build(name), MonaConfig(modules_to_save="task-head"))
    assert model.peft_config["default"].modules_to_save == HEADS[name]
    named_by_hand = get_peft_model(build(name), MonaConfig(modules_to_save=HEADS[name]))
    trainable, _ = model.get_nb_trainable_parameters()
    assert trainable == named_by_hand.get_nb_trainable_parameters()[0]
    stock = build(name)
    head = sum(p.numel() for key, p in stock.named_parameters() if key.startswith(tuple(f"{h}." for h in HEADS[name])))
    adapters = sum(p.numel() for key, p in model.named_parameters() if ".mona." in key)
    assert trainable == head + adapters


def test_frozen_head_warns_and_says_what_to_write():
    with pytest.warns(UserWarning, match=r"'classifier'.*stay frozen.*modules_to_save='task-head'"):
        get_peft_model(build("swin-classifier"), MonaConfig())


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize(
    ("name", "settings"),
    [("swin-classifier", {"modules_to_save": []}), ("swin", {}), ("swin-classifier", {"inference_mode": True})],
)
def test_no_false_alarm(name, settings):
    get_peft_model(build(name), MonaConfig(**settings))


def detector() -> nn.Module:
    """RT-DETR with a Swin backbone: batch norm in its encoder."""
    return RTDetrForObjectDetection(
        RTDetrConfig(
            backbone_config=SwinConfig(**FOUR_STAGES | {"out_features": ["stage2", "stage3", "stage4"]}),
            encoder_in_channels=[32, 64, 128],
            encoder_hidden_dim=32,
            d_model=32,
            encoder_layers=1,
            encoder_ffn_dim=32,
            encoder_attention_heads=2,
            decoder_in_channels=[32] * 3,
            decoder_layers=1,
            decoder_attention_heads=2,
            decoder_ffn_dim=32,
            num_queries=5,
            hidden_expansion=0.5,
            num_labels=3,
        )
    )


def batch_norm_statistics(model: nn.Module) -> dict[str, torch.Tensor]:
    return {key: buffer.clone() for key, buffer in model.named_buffers() if "running_" in key or "num_batches" in key}


@pytest.mark.parametrize("make_model", [lambda: build("upernet"), detector], ids=["upernet", "rt-detr"])
def test_frozen_batch_norm_keeps_its_statistics(make_model):
    model = get_peft_model(make_model(), MonaConfig(modules_to_save=[])).train()
    before = batch_norm_statistics(model)
    assert len(before) > 10
    model(images())
    after = batch_norm_statistics(model)
    assert all(torch.equal(before[key], after[key]) for key in before)

    # The same model without adapters does drift, so the test can see it; and unloading gives that back.
    stock = model.unload().train()
    stock(images())
    drifted = batch_norm_statistics(stock)
    assert any(not torch.equal(before[f"base_model.model.{key}"], drifted[key]) for key in drifted)


def test_trained_batch_norm_learns_its_statistics():
    model = get_peft_model(build("upernet"), MonaConfig(modules_to_save="task-head")).train()
    before = batch_norm_statistics(model)
    model(images())
    after = batch_norm_statistics(model)
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed
    assert all(".modules_to_save.default." in key for key in changed)


def test_batch_norm_that_is_unfrozen_by_hand_learns_its_statistics():
    model = get_peft_model(build("upernet"), MonaConfig(modules_to_save=[]))
    model.get_base_model().decode_head.requires_grad_(True)
    before = batch_norm_statistics(model)
    model.train()(images())
    after = batch_norm_statistics(model)
    changed = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert changed
    assert all("decode_head" in key for key in changed)


def test_second_adapter_trains_its_own_batch_norm():
    """A head that was frozen for the first adapter is copied for the second, and the copy must not stay frozen."""
    model = get_peft_model(build("upernet"), MonaConfig(modules_to_save=[]))
    model.add_adapter("second", MonaConfig(modules_to_save="task-head"))
    model.set_adapter("second")
    model.train()
    before = batch_norm_statistics(model)
    model(images())
    after = batch_norm_statistics(model)
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed
    assert all(".modules_to_save.second." in key for key in changed)


def test_registered_with_peft():
    assert PeftType("MONA") is PeftType.MONA is PeftType["MONA"]
    assert PeftType.MONA in list(PeftType)
    assert pickle.loads(pickle.dumps(PeftType.MONA)) is copy.deepcopy(PeftType.MONA) is PeftType.MONA


def test_a_block_of_ones_own():
    """A backbone that is not in the table is described once and then works."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
            self.attention, self.mlp = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, hidden, height, width):
            hidden = hidden + self.attention(self.norm1(hidden))
            return hidden + self.mlp(self.norm2(hidden))

    model, x = nn.Sequential(Block()), torch.randn(1, 6, 8)
    with pytest.raises(ValueError, match=r"none is of a known class.*SwinLayer.*register_block"):
        get_peft_model(model, MonaConfig())
    register_block("Block", BlockAnatomy(mlp_entry="norm2", norm="norm1", grid_arguments=("height", "width")))
    try:
        base = model[0](x, 2, 3)
        adapted = get_peft_model(model, MonaConfig(init_weights=False)).base_model.model.eval()
        assert not torch.equal(adapted[0](x, 2, 3), base)
        assert torch.equal(adapted[0](x, 2, 3), adapted[0](x, height=2, width=3))
    finally:
        del KNOWN_BLOCKS["Block"]


def test_classifier_loss_falls():
    """A few steps on one batch: the adapters learn through a frozen backbone."""
    torch.manual_seed(0)
    model = SwinForImageClassification(SwinConfig(**TWO_STAGES))
    model = get_peft_model(model, MonaConfig(modules_to_save=[], dropout=0.0)).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    frozen = {key: p.clone() for key, p in model.named_parameters() if not p.requires_grad}
    losses = []
    for _ in range(15):
        loss = model(pixel_values=images(4), labels=torch.tensor([0, 1, 2, 3])).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    for key, parameter in model.named_parameters():
        if key in frozen:
            assert torch.equal(parameter, frozen[key]), key
