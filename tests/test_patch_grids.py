"""Blocks that are told nothing of their grid: images of several sizes at once, in one thread and in several."""

from __future__ import annotations

import copy
import pickle
import threading

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn
from torch.utils.checkpoint import checkpoint

from mona_peft import MonaConfig
from mona_peft.blocks import patch_grids
from mona_peft.integration.checkpointing import withdraw_checkpointing_support
from tests.backbones import build

WIDE, TALL, SMALL = (16, 48), (48, 16), (32, 32)


def adapted(name: str) -> PeftModel:
    torch.manual_seed(0)
    return get_peft_model(build(name), MonaConfig(bottleneck_dim=8, modules_to_save=[], init_weights=False)).eval()


def image(size: tuple[int, int]) -> torch.Tensor:
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(sum(size) + size[0]))


def run(model: nn.Module, size: tuple[int, int]) -> torch.Tensor:
    return model(image(size), interpolate_pos_encoding=True).last_hidden_state


@pytest.fixture
def vit() -> PeftModel:
    return adapted("vit")


def embed(model: PeftModel, size: tuple[int, int]) -> torch.Tensor:
    return model.get_base_model().embeddings(image(size), interpolate_pos_encoding=True)


def encode(model: PeftModel, hidden_states: torch.Tensor) -> torch.Tensor:
    base = model.get_base_model()
    for layer in base.layers:
        hidden_states = layer(hidden_states)
    return base.layernorm(hidden_states)


@pytest.mark.parametrize(
    ("name", "patch", "arguments"),
    [("vit", 8, {"interpolate_pos_encoding": True}), ("dinov2-with-registers", 7, {})],
)
@torch.no_grad()
def test_threads_with_images_of_the_same_number_of_tokens(name, patch, arguments):
    model = adapted(name)
    wide, tall, square = (image((height * patch, width * patch)) for height, width in ((2, 6), (6, 2), (4, 4)))

    def outputs(pixels):
        return model(pixels, **arguments).last_hidden_state

    expected = [outputs(pixels) for pixels in (wide, tall, square)]
    assert not torch.allclose(expected[0], expected[1])
    wrong: list[object] = []

    def repeat(pixels, result):
        try:
            for _ in range(40):
                with torch.no_grad():
                    if not torch.equal(outputs(pixels), result):
                        wrong.append(pixels.shape)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=repeat, args=pair) for pair in zip((wide, tall, square), expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@torch.no_grad()
def test_a_hook_runs_another_image_in_between(vit):
    expected = run(vit, WIDE)
    within: list[torch.Tensor] = []

    def run_another(*_):
        if not within:
            within.append(torch.empty(0))
            within[0] = run(vit, TALL)

    handle = vit.get_base_model().layers[0].register_forward_hook(run_another)
    assert torch.equal(run(vit, WIDE), expected)
    handle.remove()
    assert torch.equal(within[0], run(vit, TALL))


@torch.no_grad()
def test_several_sizes_embedded_before_the_blocks_run(vit):
    """The number of tokens tells them apart, once it is known how many prefix tokens there are; or it is an error."""
    expected = {size: run(vit, size) for size in (WIDE, TALL, SMALL)}
    hidden = {size: embed(vit, size) for size in (WIDE, SMALL)}
    assert torch.allclose(encode(vit, hidden[WIDE]), expected[WIDE])
    assert torch.allclose(encode(vit, hidden[SMALL]), expected[SMALL])
    hidden = {size: embed(vit, size) for size in (WIDE, TALL)}
    with pytest.raises(RuntimeError, match=r"images of the grids \[\(2, 6\), \(6, 2\)\] were embedded, and several"):
        encode(vit, hidden[WIDE])


@torch.no_grad()
def test_sizes_one_after_the_other_by_the_parts_of_a_model(vit):
    expected = {size: run(vit, size) for size in (WIDE, TALL)}
    for size in (WIDE, TALL, TALL, WIDE):
        assert torch.allclose(encode(vit, embed(vit, size)), expected[size])


@torch.no_grad()
def test_a_call_that_failed_leaves_no_grid_behind(vit):
    expected = run(vit, TALL)
    handle = vit.get_base_model().embeddings.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(vit, WIDE)
    handle.remove()
    assert torch.equal(run(vit, TALL), expected)
    assert torch.allclose(encode(vit, embed(vit, TALL)), expected)


def test_backward_passes_of_two_sizes_with_the_encoder_recomputed(vit):
    """What is recomputed outside of a call of the model takes the grid that goes with its tokens."""
    parameters = [parameter for parameter in vit.parameters() if parameter.requires_grad]

    def gradients(recomputed: bool) -> list[torch.Tensor]:
        losses = []
        for size in (WIDE, SMALL):
            hidden = embed(vit, size).requires_grad_()
            call = (
                (lambda h: checkpoint(lambda x: encode(vit, x), h, use_reentrant=False))
                if recomputed
                else (lambda h: encode(vit, h))
            )
            losses.append(call(hidden).square().mean())
        return list(torch.autograd.grad(sum(losses), parameters, allow_unused=True))

    run(vit, WIDE)
    for plain, recomputed in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(recomputed, plain)


@pytest.mark.parametrize("is_known", [True, False])
def test_another_image_embedded_before_the_recomputation(is_known, vit, monkeypatch):
    """A release of PyTorch that does not tell whether a backward pass is running: the right grid, or an error."""

    def gradients(other: tuple[int, int] | None) -> torch.Tensor:
        vit.zero_grad()
        hidden = checkpoint(lambda x: encode(vit, x), embed(vit, WIDE), use_reentrant=False)
        if other is not None:
            with torch.no_grad():
                embed(vit, other)
        hidden.square().mean().backward()
        return torch.cat([p.grad.flatten() for p in vit.parameters() if p.grad is not None])

    run(vit, WIDE)
    expected = gradients(None)
    if not is_known:
        monkeypatch.setattr(patch_grids, "_in_backward_pass", lambda: None)
    assert torch.equal(gradients(SMALL), expected)
    if is_known:
        assert torch.equal(gradients(TALL), expected)
    else:
        with pytest.raises(RuntimeError, match="not known which grid"):
            gradients(TALL)


def test_copies_and_files_know_no_grid(vit):
    run(vit, WIDE)
    copied = pickle.loads(pickle.dumps(copy.deepcopy(vit)))
    assert torch.equal(run(copied, TALL), run(vit, TALL))
    fresh = copy.deepcopy(vit)
    with pytest.raises(RuntimeError, match="no image went through"):
        fresh.get_base_model().layers[0](torch.zeros(1, 13, fresh.get_base_model().config.hidden_size))


def test_unloading_takes_every_hook_off(vit):
    model = vit.unload()
    withdraw_checkpointing_support(model)
    hooks = [(*m._forward_hooks, *m._forward_pre_hooks, *m._forward_hooks_always_called) for m in model.modules()]
    assert not any(hooks)
