"""Which blocks are known, which are refused and why, and blocks that users describe themselves."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from peft import get_peft_model
from torch import nn
from transformers import (
    Owlv2Config,
    Owlv2Model,
    ViTMAEConfig,
    ViTMAEForPreTraining,
    VivitConfig,
    VivitModel,
    YolosConfig,
    YolosForObjectDetection,
)

from mona_peft import BlockAnatomy, MonaConfig, register_block
from mona_peft.blocks import KNOWN_BLOCKS, ReorderedGrid, on_each_map
from mona_peft.blocks.layout import Layout, from_tokens, to_tokens
from tests import tiny_configs
from tests.backbones import build, image

SMALL = {**tiny_configs.SMALL, "intermediate_size": 24}


@pytest.mark.parametrize(
    ("make_model", "message"),
    [
        (
            lambda: ViTMAEForPreTraining(ViTMAEConfig(**SMALL, decoder_num_hidden_layers=1, decoder_hidden_size=16)),
            r"ViTMAEForPreTraining cannot be adapted. ViTMAELayer: it drops and shuffles tokens.*ViTModel",
        ),
        (
            lambda: YolosForObjectDetection(YolosConfig(**SMALL, num_detection_tokens=2)),
            r"YolosForObjectDetection cannot be adapted. YolosLayer: its detection tokens come behind the grid's",
        ),
        (
            lambda: VivitModel(VivitConfig(**SMALL, num_frames=2, tubelet_size=[2, 8, 8])),
            r"VivitModel cannot be adapted. VivitLayer: a class token stands before the frames.*VideoMAE",
        ),
    ],
    ids=["vit-mae", "yolos", "vivit"],
)
def test_refused_with_a_reason(make_model, message):
    model = make_model()
    with pytest.raises(ValueError, match=message):
        get_peft_model(model, MonaConfig())
    assert all(parameter.requires_grad for name, parameter in model.named_parameters() if "layer" in name)


@pytest.mark.parametrize("registered", [False, True], ids=["known", "registered by a user"])
def test_text_towers_of_the_same_class_are_left_alone(registered, monkeypatch):
    if registered:
        monkeypatch.setattr("mona_peft.blocks.lookup.KNOWN_BLOCKS", {})
        register_block(
            "Owlv2EncoderLayer", BlockAnatomy("layer_norm2", "layer_norm1", patch_projection="patch_embedding")
        )
    text = {**SMALL, "vocab_size": 40, "max_position_embeddings": 4}
    model = Owlv2Model(Owlv2Config(vision_config=tiny_configs.CLIP, text_config=text, projection_dim=8))
    adapted = get_peft_model(model, MonaConfig())
    assert adapted.base_model.targeted_module_names == [f"vision_model.encoder.layers.{i}" for i in range(3)]


def test_one_residual_has_one_site():
    model = get_peft_model(build("convnext"), MonaConfig(init_weights=False))
    names = {key.split(".mona.")[1].split(".")[0] for key, _ in model.named_parameters() if ".mona." in key}
    assert names == {"mona_mlp"}
    with pytest.raises(ValueError, match=r"sites=\('attention',\): the chosen blocks \(\w+\) have one residual each"):
        get_peft_model(build("convnext"), MonaConfig(sites="attention"))


def test_a_block_by_itself_does_not_know_its_grid():
    model = get_peft_model(build("vit"), MonaConfig()).eval()
    block, tokens = model.base_model.model.get_submodule("layers.0"), torch.zeros(1, 16, 16)
    with pytest.raises(RuntimeError, match=r"no image went through the patch projection\. Call the whole model"):
        block(tokens)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"a block of tokens \('BNC', 'NC'\) takes its grid \(H, W\) from exactly one"),
        ({"grid_arguments": ("size",), "patch_projection": "proj"}, r"exactly one of grid_arguments"),
        ({"layout": "BHWC", "patch_projection": "proj"}, r"a block of maps from none"),
        ({"layout": "NC", "patch_projection": "proj"}, r"only sizes_argument tells the images of one sequence apart"),
        ({"layout": "NHWC"}, r"layout='NHWC': choose one of \('BNC', 'NC', 'BHWC', 'BCHW'\)"),
        ({"grid_arguments": ("a", "b", "c")}, r"name one argument that holds \(H, W\), or two"),
    ],
    ids=str,
)
def test_anatomy_that_contradicts_itself(settings, message):
    with pytest.raises(ValueError, match=message):
        BlockAnatomy(mlp_entry="norm2", norm="norm1", **settings)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.attention, self.mlp = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, hidden):
        hidden = hidden + self.attention(self.norm1(hidden))
        return hidden + self.mlp(self.norm2(hidden))


class Backbone(nn.Module):
    def __init__(self, towers: int = 1):
        super().__init__()
        self.patches = nn.ModuleList(
            nn.Sequential(OrderedDict(projection=nn.Conv2d(3, 8, 4, 4))) for _ in range(towers)
        )
        self.blocks = nn.ModuleList(Block() for _ in range(2))

    def forward(self, pixel_values):
        hidden = sum(projection(pixel_values) for projection in self.patches).flatten(2).transpose(1, 2)
        for block in self.blocks:
            hidden = block(hidden)
        return hidden


@pytest.fixture
def register():
    yield lambda **settings: register_block(
        "Block", BlockAnatomy(**{"mlp_entry": "norm2", "norm": "norm1", **settings})
    )
    KNOWN_BLOCKS.pop("Block", None)


def test_a_backbone_of_ones_own(register):
    register(patch_projection="patches.0")
    torch.manual_seed(0)
    model = Backbone()
    base = model(image((8, 12)))
    adapted = get_peft_model(model, MonaConfig(init_weights=False)).eval()
    assert adapted.base_model.targeted_module_names == ["blocks.0", "blocks.1"]
    assert (adapted(image((8, 12))) - base).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("towers", "settings", "message"),
    [
        (1, {"patch_projection": "stem"}, r"from 'stem', but no module of that name.*convolutions are \['patches.0"),
        (2, {"patch_projection": "patches.1", "mlp_entry": "norm3"}, r"mlp_entry='norm3', but this block has no such"),
        (1, {"patch_projection": "patches.0", "norm": "ln"}, r"norm='ln', but this block has no such submodule"),
        (1, {"grid_arguments": ("height", "width")}, r"argument\(s\) \['height', 'width'\], but its forward has \[\]"),
        (2, {"patch_projection": "projection"}, r"the model holds several: \['patches.0.projection', 'patches.1.pro"),
        (1, {"patch_projection": "attention"}, r"from 'attention', but no module of that name"),  # but inside of blocks
    ],
    ids=str,
)
def test_every_name_is_checked_before_anything_changes(register, towers, settings, message):
    register(**settings)
    model = Backbone(towers)
    types = [type(module) for module in model.modules()]
    with pytest.raises(ValueError, match=message):
        get_peft_model(model, MonaConfig())
    assert [type(module) for module in model.modules()] == types
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_an_entry_that_is_never_called(register):
    """Wrong for the block, though the name exists: noticed in the first call."""
    model = Backbone()
    for block in model.blocks:
        block.other = nn.LayerNorm(8)
    register(patch_projection="patches.0", mlp_entry="other")
    adapted = get_peft_model(model, MonaConfig())
    with pytest.raises(RuntimeError, match=r"Block did not call its \['other'\]"):
        adapted(image((8, 12)))


@pytest.mark.parametrize("layout", ["BNC", "BHWC", "BCHW"])
def test_layouts_are_undone(layout):
    tokens = torch.randn(2, 4 * 8, 3)
    hidden = from_tokens(tokens, Layout(layout), (4, 8))
    assert torch.equal(to_tokens(hidden, Layout(layout)), tokens)
    shapes = {"BNC": (2, 32, 3), "BHWC": (2, 4, 8, 3), "BCHW": (2, 3, 4, 8)}
    assert hidden.shape == shapes[layout]


WINDOWS = ReorderedGrid((4, 8), windows_a_side=2)
ORDERS = {
    "mask units": (ReorderedGrid((4, 8), strides=[(2, 2)]), (2, 32, 3)),
    "mask units in mask units": (ReorderedGrid((4, 8), strides=[(2, 2), (2, 2)]), (2, 32, 3)),
    "oblong mask units": (ReorderedGrid((4, 8), strides=[(2, 4)]), (2, 32, 3)),
    "windows": (WINDOWS, (8, 8, 3)),
    "windows with prefix tokens": (WINDOWS, (8, 8 + 2, 3)),
}


@pytest.mark.parametrize(("order", "shape"), ORDERS.values(), ids=ORDERS)
def test_orders_are_undone(order, shape):
    hidden = torch.randn(shape)
    whole = order.row_by_row(hidden)
    assert whole.shape[0] == 2
    assert not torch.equal(whole.flatten(), hidden.flatten())
    assert torch.equal(order.as_in_block(whole), hidden)


def test_adapters_that_know_of_no_windows_see_whole_images():
    seen = []

    def adapter(tokens, grid):
        seen.append((tokens, grid))
        return tokens

    hidden = torch.randn(8, 8 + 2, 3)
    assert torch.equal(on_each_map(adapter, hidden, WINDOWS), hidden)
    assert torch.equal(seen[0][0], WINDOWS.row_by_row(hidden))
    assert seen[0][1] == (4, 8)


def test_an_adapter_for_each_sample_where_images_lie_in_windows():
    model = get_peft_model(build("rf-detr"), MonaConfig(init_weights=False, modules_to_save=[]))
    model.add_adapter("other", MonaConfig(init_weights=False, modules_to_save=[]))
    pixel_values = image((32, 32), batch_size=3)

    def feature(**names):
        with torch.no_grad():
            return model.eval()(pixel_values, **names).feature_maps[-1]

    mixed = feature(adapter_names=["other", "__base__", "default"])
    default = feature()
    model.set_adapter("other")
    other = feature()
    with model.disable_adapter():
        base = feature()
    torch.testing.assert_close(mixed, torch.stack([other[0], base[1], default[2]]), atol=1e-6, rtol=1e-5)
    assert (mixed[1:] - other[1:]).abs().amax(dim=(1, 2, 3)).min() > 1e-4
