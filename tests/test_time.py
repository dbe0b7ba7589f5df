"""The filter over time: zero at the start, by hand once it is trained, saved with the adapter, and refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import transformers
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import ViTConfig, ViTModel

from mona_peft import Mona, MonaConfig
from tests.test_packed import TOWERS

SETTINGS = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
VIDEO = torch.randn(2, 6, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def video_mae() -> nn.Module:
    config = transformers.VideoMAEConfig(
        **SETTINGS, intermediate_size=64, image_size=16, patch_size=4, num_frames=6, tubelet_size=2
    )
    torch.manual_seed(0)
    return transformers.VideoMAEModel(config).eval()


def v_jepa() -> nn.Module:
    predictor = {
        "pred_hidden_size": 24,
        "pred_num_attention_heads": 2,
        "pred_num_hidden_layers": 1,
        "pred_mlp_ratio": 2,
    }
    config = transformers.VJEPA2Config(
        **SETTINGS, **predictor, mlp_ratio=2, crop_size=16, patch_size=4, frames_per_clip=6
    )
    torch.manual_seed(0)
    return transformers.VJEPA2Model(config).eval()


def adapted(make, **settings) -> PeftModel:
    torch.manual_seed(2)
    return get_peft_model(make(), MonaConfig(modules_to_save=[], bottleneck_dim=8, **settings)).eval()


def adapters(model: nn.Module) -> list[Mona]:
    return [module for module in model.modules() if isinstance(module, Mona)]


@pytest.mark.parametrize("make", [video_mae, v_jepa])
@torch.no_grad()
def test_zero_at_the_start(make):
    """At first the model is the base, to the bit; and a filter of zeros changes nothing of a Mona that is trained."""
    model = adapted(make, temporal_kernel_size=3)
    assert torch.equal(model(VIDEO).last_hidden_state, make()(VIDEO).last_hidden_state)
    without, model = adapted(make, init_weights="paper"), adapted(make, init_weights="paper", temporal_kernel_size=3)
    trained = dict(without.named_parameters())
    for name, parameter in model.named_parameters():
        if "mona_" in name and "time_weight" not in name:
            parameter.copy_(trained[name])
    assert all((mona.time_weight == 0).all() for mona in adapters(model))
    theirs = without(VIDEO).last_hidden_state
    torch.testing.assert_close(model(VIDEO).last_hidden_state, theirs, rtol=1e-4, atol=1e-5)
    for mona in adapters(model):
        mona.time_weight.normal_()
    assert (model(VIDEO).last_hidden_state - theirs).abs().max() > 1e-3


def by_hand(mona: Mona, x: torch.Tensor) -> torch.Tensor:
    """Frame by frame, and over time by shifted frames."""
    u = F.layer_norm(x, (32,), mona.norm_weight, mona.norm_bias, 1e-5) * mona.gamma + x * mona.gammax
    p = F.linear(u, mona.down_weight, mona.down_bias).view(2, 3, 4, 4, 8)  # (B, T, H, W, n)
    before, behind = torch.zeros_like(p), torch.zeros_like(p)
    before[:, 1:], behind[:, :-1] = p[:, :-1], p[:, 1:]
    p = p + sum(frames * mona.time_weight[:, 0, i] for i, frames in enumerate((before, p, behind)))
    frames = []
    for frame in p.unbind(1):
        image = frame.permute(0, 3, 1, 2)
        convolved = [
            F.conv2d(image, getattr(mona, f"dw{k}_weight"), getattr(mona, f"dw{k}_bias"), padding=k // 2, groups=8)
            for k in mona.kernel_sizes
        ]
        image = sum(convolved) / 3 + image
        image = F.conv2d(image, mona.pw_weight, mona.pw_bias) + image
        frames.append(image.flatten(2).transpose(1, 2))
    return F.linear(F.gelu(torch.cat(frames, 1)), mona.up_weight, mona.up_bias)


def test_formula():
    """What the adapters of a block give is the formula by hand, and so are all gradients."""
    model = adapted(video_mae, init_weights=False, temporal_kernel_size=3)
    seen = []
    for mona in adapters(model):
        with torch.no_grad():
            mona.time_weight.normal_()
        mona.register_forward_hook(lambda mona, args, delta: seen.append((mona, args[0], delta)))
    model(VIDEO)
    assert len(seen) == 2
    for mona, x, delta in tuple(seen):  # the hooks note the calls below, too
        ours, naive = (x.detach().clone().requires_grad_() for _ in range(2))
        again, expected = mona(ours, (3, 4, 4)), by_hand(mona, naive)
        torch.testing.assert_close(delta, again)
        torch.testing.assert_close(again, expected, rtol=1e-4, atol=1e-5)
        direction = torch.randn_like(again)
        parameters = list(mona.parameters())
        for a, b in zip(
            torch.autograd.grad((again * direction).sum(), [ours, *parameters]),
            torch.autograd.grad((expected * direction).sum(), [naive, *parameters]),
            strict=True,
        ):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_round_trip(tmp_path):
    model = adapted(video_mae, init_weights=False, temporal_kernel_size=5)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(video_mae(), tmp_path).eval()
    assert [mona.time_weight.shape for mona in adapters(loaded)] == [(8, 1, 5)] * 2
    with torch.no_grad():
        assert torch.equal(loaded(VIDEO).last_hidden_state, model(VIDEO).last_hidden_state)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ViTModel(ViTConfig(**SETTINGS, intermediate_size=64, image_size=16, patch_size=4)),
        lambda: TOWERS["qwen2.5-vl"].make(),
    ],
    ids=["images", "packed"],
)
def test_blocks_without_whole_videos_are_refused(make):
    model = make()
    with pytest.raises(ValueError, match=r"temporal_kernel_size=3: .*VideoMAE and V-JEPA 2"):
        get_peft_model(model, MonaConfig(temporal_kernel_size=3))
    assert not any("mona" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize(("size", "message"), [(2, "odd number"), (0, "at least 1"), (2.0, "whole number")])
def test_sizes(size, message):
    with pytest.raises(ValueError, match=message):
        MonaConfig(temporal_kernel_size=size)


@pytest.mark.slow
@pytest.mark.parametrize("make", [video_mae, v_jepa])
@torch.no_grad()
def test_compiles_whole(make):
    model = adapted(make, temporal_kernel_size=3, init_weights=False)
    expected = model(VIDEO).last_hidden_state
    torch.compiler.reset()
    compiled = torch.compile(model.base_model.model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(VIDEO).last_hidden_state, expected, rtol=1e-5, atol=1e-5)
