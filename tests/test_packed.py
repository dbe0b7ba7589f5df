"""Images of differing sizes in one sequence or padded to one length, and videos: adapters see each map by itself."""

from __future__ import annotations

import copy
import importlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers
from peft import PeftModel, get_peft_model
from torch import nn
from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

from mona_peft import AdaptFormerConfig, MonaConfig
from mona_peft.config import MethodConfig
from mona_peft.methods.adapter import AdapterConfig
from mona_peft.methods.mona import Mona

SIZES = ((1, 6, 4), (2, 4, 10), (1, 4, 10))
"""(T, H, W) of an image, of a video, and of an image of the video's size, in patches."""
IMAGES = ((1, 6, 4), (1, 4, 10), (1, 4, 10), (1, 4, 10))
"""The same where the frames of a video count as images (GLM-4V)."""
VISION = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "patch_size": 4}


@dataclass(frozen=True)
class Tower:
    """A vision tower with packed images: module, names of classes, settings besides `VISION`."""

    module: str
    config: str
    model: str
    settings: dict[str, Any]

    def make(self) -> nn.Module:
        torch.manual_seed(0)
        package = importlib.import_module(f"transformers.models.{self.module}.modeling_{self.module}")
        config = importlib.import_module(f"transformers.models.{self.module}.configuration_{self.module}")
        return getattr(package, self.model)(getattr(config, self.config)(**VISION | self.settings)).eval()


QWEN2_5 = {"window_size": 16, "fullatt_block_indexes": [1], "out_hidden_size": 16}
QWEN3 = {"out_hidden_size": 16, "num_position_embeddings": 16}
TOWERS = {
    "qwen2-vl": Tower(
        "qwen2_vl",
        "Qwen2VLVisionConfig",
        "Qwen2VisionTransformerPretrainedModel",
        {"embed_dim": 32, "hidden_size": 16, "mlp_ratio": 2},
    ),
    "qwen2.5-vl": Tower("qwen2_5_vl", "Qwen2_5_VLVisionConfig", "Qwen2_5_VisionTransformerPretrainedModel", QWEN2_5),
    "qwen2.5-omni": Tower("qwen2_5_omni", "Qwen2_5OmniVisionEncoderConfig", "Qwen2_5OmniVisionEncoder", QWEN2_5),
    "qwen3-vl": Tower(
        "qwen3_vl", "Qwen3VLVisionConfig", "Qwen3VLVisionModel", QWEN3 | {"deepstack_visual_indexes": [0]}
    ),
    "qwen3-vl-moe": Tower(
        "qwen3_vl_moe", "Qwen3VLMoeVisionConfig", "Qwen3VLMoeVisionModel", QWEN3 | {"deepstack_visual_indexes": [0]}
    ),
    "qwen3-omni-moe": Tower(
        "qwen3_omni_moe",
        "Qwen3OmniMoeVisionEncoderConfig",
        "Qwen3OmniMoeVisionEncoder",
        QWEN3 | {"deepstack_visual_indexes": [0]},
    ),
    "qwen3.5": Tower("qwen3_5", "Qwen3_5VisionConfig", "Qwen3_5VisionModel", QWEN3),
    "qwen3.5-moe": Tower("qwen3_5_moe", "Qwen3_5MoeVisionConfig", "Qwen3_5MoeVisionModel", QWEN3),
    "glm4v": Tower("glm4v", "Glm4vVisionConfig", "Glm4vVisionModel", {"image_size": 16, "out_hidden_size": 32}),
    "glm4v-moe": Tower(
        "glm4v_moe", "Glm4vMoeVisionConfig", "Glm4vMoeVisionModel", {"image_size": 16, "out_hidden_size": 32}
    ),
}


def sizes_for(model: nn.Module) -> torch.Tensor:
    return torch.tensor(IMAGES if model.config.model_type.startswith("glm") else SIZES)


def pixels(model: nn.Module, sizes: torch.Tensor) -> torch.Tensor:
    """Random patches of all images, of shape (patches, 3 * frames * 4 * 4)."""
    frames = model.config.temporal_patch_size
    return torch.randn(int(sizes.prod(1).sum()), 3 * frames * 16, generator=torch.Generator().manual_seed(1))


def adapted(model: nn.Module, config: MethodConfig | None = None) -> PeftModel:
    """The model with adapters that change something, whose gradients are not zero."""
    torch.manual_seed(1)
    default = MonaConfig(bottleneck_dim=8, modules_to_save=[], init_weights=False)
    return get_peft_model(model, config or default).eval()


@pytest.fixture(params=TOWERS)
def tower(request) -> nn.Module:
    return TOWERS[request.param].make()


def run(model: nn.Module, patches: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    return model(patches, grid_thw=sizes).pooler_output


@torch.no_grad()
def test_packed_images_are_as_one_by_one(tower):
    sizes = sizes_for(tower)
    patches = pixels(tower, sizes)
    bare = run(tower, patches, sizes)
    model = adapted(tower)
    together = run(model, patches, sizes)
    scale = bare.abs().max()
    assert (together - bare).abs().max() > 1e-2 * scale
    parts = patches.split(sizes.prod(1).tolist())
    alone = torch.cat([run(model, part, size[None]) for part, size in zip(parts, sizes, strict=True)])
    torch.testing.assert_close(together / scale, alone / scale, rtol=1e-4, atol=1e-5)
    model.disable_adapter_layers()
    assert torch.equal(run(model, patches, sizes), bare)


def test_starts_as_the_bare_tower(tower):
    sizes = sizes_for(tower)
    patches = pixels(tower, sizes)
    bare = run(tower, patches, sizes)
    model = get_peft_model(tower, MonaConfig(bottleneck_dim=8, modules_to_save=[]))
    assert torch.equal(run(model, patches, sizes), bare)


@torch.no_grad()
def test_adapters_see_rows_and_columns(tower):
    """The two coordinates of each patch, sent through the blocks as hidden states, arrive row by row."""
    sizes = sizes_for(tower)
    merged = tower.spatial_merge_size
    places = get_vision_position_ids(sizes, merged)
    if places.shape[0] in (2, 3) and places.shape[-1] not in (2, 3):
        places = places.flatten(1).T
    states = places[:, -2:].float().repeat(1, 16)
    model = adapted(tower)
    seen: list[torch.Tensor] = []
    first = next(module for module in model.modules() if isinstance(module, Mona))
    first.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    block = tower.blocks[0]
    block.attn.forward = lambda hidden_states, **kwargs: torch.zeros_like(hidden_states)

    def coordinates(module: nn.Module, args: tuple, kwargs: dict) -> tuple:
        given = states
        if hasattr(tower, "window_size"):
            index, _ = get_vision_window_index(sizes, merged, tower.window_size, tower.patch_size)
            given = states.unflatten(0, (-1, merged**2))[index].flatten(0, 1)
        return (given, *args[1:]), kwargs

    block.register_forward_pre_hook(coordinates, with_kwargs=True)
    run(model, pixels(tower, sizes), sizes)
    for maps, (count, height, width) in zip(seen, ((1, 6, 4), (3, 4, 10)), strict=True):
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        expected = torch.stack([rows, columns], -1).flatten(0, 1).float().expand(count, -1, -1)
        assert torch.equal(maps[..., :2], expected)


def gradients(model: PeftModel, patches: torch.Tensor, sizes: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    torch.manual_seed(2)
    run(model, patches, sizes).square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", ["qwen2.5-vl", "qwen3-vl"])
def test_checkpointing(name, reentrant):
    tower = TOWERS[name].make()
    sizes = torch.tensor(SIZES)
    patches = pixels(tower, sizes)
    model = adapted(tower).train()
    plain = gradients(model, patches, sizes)
    assert all(grad.abs().max() > 0 for grad in plain.values())
    tower.gradient_checkpointing_enable({"use_reentrant": reentrant})
    tower.enable_input_require_grads()
    for name, grad in gradients(model, patches, sizes).items():
        torch.testing.assert_close(grad, plain[name], rtol=1e-4, atol=1e-6)


def test_saved_copied_and_taken_off(tmp_path):
    """Saved and loaded, copied, switched off and taken off again."""
    sizes = torch.tensor(SIZES)
    tower = TOWERS["qwen2.5-vl"].make()
    patches = pixels(tower, sizes)
    bare = run(tower, patches, sizes)
    model = adapted(tower)
    expected = run(model, patches, sizes)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(TOWERS["qwen2.5-vl"].make(), tmp_path)
    assert torch.equal(run(loaded, patches, sizes), expected)
    assert torch.equal(run(copy.deepcopy(model), patches, sizes), expected)
    back = model.unload()
    assert torch.equal(run(back, patches, sizes), bare)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in back.modules())


def test_threads():
    tower = TOWERS["qwen2.5-vl"].make()
    model = adapted(tower)
    given = [torch.tensor([[1, 4, 8]]), torch.tensor([[1, 8, 4]])]
    patches = pixels(tower, given[0])
    with torch.no_grad():
        expected = [run(model, patches, sizes) for sizes in given]
    wrong = []

    def repeat(sizes: torch.Tensor, right: torch.Tensor) -> None:
        with torch.no_grad():
            wrong.extend(not torch.equal(run(model, patches, sizes), right) for _ in range(30))

    threads = [threading.Thread(target=repeat, args=pair) for pair in zip(given, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wrong) == 60
    assert not any(wrong)


@pytest.mark.parametrize("make", [AdapterConfig, AdaptFormerConfig])
@torch.no_grad()
def test_methods_that_need_no_grid(make: Callable[..., MethodConfig]):
    sizes = torch.tensor(SIZES)
    tower = TOWERS["qwen2.5-vl"].make()
    patches = pixels(tower, sizes)
    bare = run(tower, patches, sizes)
    model = adapted(tower, make(bottleneck_dim=8, modules_to_save=[], init_weights=False))
    together = run(model, patches, sizes)
    assert (together - bare).abs().max() > 1e-3
    parts = patches.split(sizes.prod(1).tolist())
    alone = torch.cat([run(model, part, size[None]) for part, size in zip(parts, sizes, strict=True)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_what_is_refused():
    tower = TOWERS["qwen3-vl"].make()
    model = adapted(tower)
    sizes = torch.tensor(SIZES)
    patches = pixels(tower, sizes)
    with pytest.raises(RuntimeError, match="grid_thw"):
        tower.blocks[0](torch.zeros(8, 32), cu_seqlens=torch.tensor([0, 8]))
    with pytest.raises(ValueError, match="adapter_names"):
        model(patches, grid_thw=sizes, adapter_names=["default"] * 3)


def siglip2() -> nn.Module:
    torch.manual_seed(0)
    settings = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.Siglip2VisionConfig(**settings, patch_size=4, num_patches=16, vision_use_head=False)
    return transformers.Siglip2VisionModel(config).eval()


@torch.no_grad()
def test_padded_images_are_as_one_by_one():
    shapes = torch.tensor([[4, 4], [2, 6], [5, 3]])
    patches = torch.randn(3, 16, 48, generator=torch.Generator().manual_seed(1))
    mask = torch.arange(16)[None] < shapes.prod(1, keepdim=True)

    def states(model: nn.Module, rows: slice, length: int = 16) -> torch.Tensor:
        return model(
            pixel_values=patches[rows, :length],
            pixel_attention_mask=mask[rows, :length].long(),
            spatial_shapes=shapes[rows],
        ).last_hidden_state

    tower = siglip2()
    bare = states(tower, slice(None))
    model = adapted(tower)
    together = states(model, slice(None))
    for index, length in enumerate(shapes.prod(1).tolist()):
        assert (together - bare)[index, :length].abs().max() > 1e-2
        alone = states(model, slice(index, index + 1), length)
        torch.testing.assert_close(together[index, :length], alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["Idefics2", "Idefics3", "SmolVLM"])
@torch.no_grad()
def test_masked_images_are_as_one_by_one(family):
    torch.manual_seed(0)
    settings = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    package = importlib.import_module(f"transformers.models.{family.lower()}.modeling_{family.lower()}")
    config = getattr(package, f"{family}VisionConfig")(**settings, image_size=24, patch_size=4)
    tower = getattr(package, f"{family}VisionTransformer")(config).eval()
    images = torch.randn(3, 3, 20, 24)
    mask = torch.zeros(3, 5, 6, dtype=torch.bool)
    sizes = [(5, 6), (3, 6), (4, 2)]
    for index, (height, width) in enumerate(sizes):
        mask[index, :height, :width] = True
    bare = tower(images, patch_attention_mask=mask).last_hidden_state
    model = adapted(tower)
    together = model(images, patch_attention_mask=mask).last_hidden_state
    for index, (height, width) in enumerate(sizes):
        assert (together - bare)[index, mask[index].flatten()].abs().max() > 1e-2
        alone = model(images[index : index + 1, :, : height * 4, : width * 4]).last_hidden_state
        torch.testing.assert_close(together[index, mask[index].flatten()], alone[0], rtol=1e-4, atol=1e-5)
    mask[0, 2, 3] = False
    with pytest.raises(ValueError, match="no rectangle"):
        model(images, patch_attention_mask=mask)


def test_frames_of_a_video():
    """Against Mona frame by frame, by hand, behind the residuals of the one block."""
    torch.manual_seed(0)
    settings = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.VideoMAEConfig(
        **settings, image_size=16, patch_size=4, num_frames=6, tubelet_size=2, use_mean_pooling=False
    )
    video = torch.randn(2, 6, 3, 16, 16)
    tower = transformers.VideoMAEModel(config).eval()
    bare = tower(video).last_hidden_state
    model = adapted(tower)
    block = next(module for module in tower.modules() if hasattr(module, "layernorm_after"))
    first, second = (module for module in model.modules() if isinstance(module, Mona))

    def frame_by_frame(mona: Mona, states: torch.Tensor) -> torch.Tensor:
        frames = states.split(16, dim=1)
        return torch.cat([frame + mona(frame, (4, 4)) for frame in frames], dim=1)

    states = tower.embeddings(video, None)
    attention = block.attention(block.layernorm_before(states))
    states = frame_by_frame(first, states + (attention[0] if isinstance(attention, tuple) else attention))
    states = frame_by_frame(second, block.output(block.intermediate(block.layernorm_after(states)), states))
    expected = states if tower.layernorm is None else tower.layernorm(states)
    output = model(video).last_hidden_state
    assert (output - bare).abs().max() > 1e-2
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="whole frames"):
        model(video, bool_masked_pos=(torch.arange(48) % 2).bool()[None].expand(2, -1))


@torch.no_grad()
def test_video_encoder_with_a_predictor():
    """V-JEPA 2: the encoder's blocks see frames, the predictor's stay as they are."""
    torch.manual_seed(0)
    settings = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2, "mlp_ratio": 2, "crop_size": 16}
    predictor = {"pred_hidden_size": 24, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1}
    config = transformers.VJEPA2Config(**settings, **predictor, patch_size=4, frames_per_clip=6, pred_mlp_ratio=2)
    tower = transformers.VJEPA2Model(config).eval()
    video = torch.randn(2, 6, 3, 16, 16)
    bare = tower(video)
    model = adapted(tower)
    adapters = {name: module for name, module in model.named_modules() if isinstance(module, Mona)}
    assert len(adapters) == 4
    assert all(".encoder." in name for name in adapters)
    seen: list[tuple] = []
    for module in adapters.values():
        module.register_forward_pre_hook(lambda module, args: seen.append((*args[0].shape, args[1])))
    output = model(video)
    assert seen == [(6, 16, 32, (4, 4))] * 4
    assert (output.last_hidden_state - bare.last_hidden_state).abs().max() > 1e-2


@torch.no_grad()
def test_language_model_with_packed_images():
    """The default adapts the vision tower alone, and the words that come of images change."""
    torch.manual_seed(0)
    text = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "head_dim": 16}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 2}
    vision = VISION | {"out_hidden_size": 32, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
    config = transformers.Qwen3VLConfig(
        text_config=text, vision_config=vision, image_token_id=60, vision_start_token_id=61, vision_end_token_id=62
    )
    base = transformers.Qwen3VLForConditionalGeneration(config).eval()
    model = adapted(base)
    assert {name.split(".blocks.")[0] for name, module in model.named_modules() if isinstance(module, Mona)} == {
        "base_model.model.model.visual"
    }
    words = torch.tensor([[1, 61, *[60] * 8, 62, 3], [61, *[60] * 4, 62, 3, 1, 1, 4, 5, 6]])
    sizes = torch.tensor([[1, 4, 8], [1, 4, 4]])
    inputs = {"input_ids": words, "attention_mask": torch.ones_like(words), "mm_token_type_ids": (words == 60).long()}
    inputs |= {"pixel_values": pixels(base.model.visual, sizes), "image_grid_thw": sizes}
    together = model(**inputs).logits
    with model.disable_adapter():
        assert (model(**inputs).logits - together).abs().max() > 1e-3
    first = {key: value[:1] for key, value in inputs.items()} | {"pixel_values": inputs["pixel_values"][:32]}
    torch.testing.assert_close(model(**first).logits, together[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen2.5-vl", "qwen3-vl", "glm4v"])
@torch.no_grad()
def test_compiles(name):
    """In several graphs, as the stock towers do: how many tokens there are depends on what they are told."""
    model = adapted(TOWERS[name].make())
    sizes = sizes_for(model.base_model.model)
    patches = pixels(model.base_model.model, sizes)
    expected = run(model, patches, sizes)
    torch.compiler.reset()
    compiled = torch.compile(model.base_model.model, backend="eager")
    torch.testing.assert_close(run(compiled, patches, sizes), expected, rtol=1e-5, atol=1e-6)
