"""Every row of the table of backbones: the adapted blocks are exact, in every mode and at every image size."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn
from torch.func import functional_call, grad, vmap

from mona_peft import MonaConfig
from mona_peft.blocks import ReorderedGrid
from mona_peft.host.block import AdaptedBlock
from mona_peft.integration.checkpointing import enable_checkpointing
from tests.backbones import BACKBONES, Backbone, build, image
from tests.models import largest_difference

CHECKPOINTED = [(name, kind) for name, row in BACKBONES.items() for kind in row.checkpoints]


def adapted(name: str, make: Callable[[], nn.Module] | None = None, **settings: Any) -> PeftModel:
    """An adapted model of a row in evaluation mode, no weight of its adapters at a constant."""
    torch.manual_seed(0)
    model = build(name) if make is None else make().eval()
    return get_peft_model(model, MonaConfig(**{"init_weights": False, "modules_to_save": [], **settings})).eval()


def adapted_blocks(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, AdaptedBlock)]


def tensors(output: Any) -> list[torch.Tensor]:
    """All tensors of a model's output, nested ones too."""
    if isinstance(output, torch.Tensor):
        return [output]
    if isinstance(output, (tuple, list)):
        return [tensor for value in output for tensor in tensors(value)]
    return tensors(output.to_tuple()) if hasattr(output, "to_tuple") else []


@torch.no_grad()
def outputs(model: nn.Module, row: Backbone, size: tuple[int, int], **kwargs: Any) -> list[torch.Tensor]:
    return tensors(model(image(size).to(next(model.parameters()).dtype), **row.arguments, **kwargs))


def calls(model: nn.Module, row: Backbone, size: tuple[int, int]) -> list[tuple[torch.Tensor, tuple, dict]]:
    """Hidden states and further arguments with which the adapted blocks are called for an image."""
    seen = []

    def record(block, args, kwargs):
        seen.append((args[0].detach(), args[1:], {key: kwargs[key] for key in kwargs if key != "patch_grid"}))

    handles = [block.register_forward_pre_hook(record, with_kwargs=True) for block in adapted_blocks(model)]
    with torch.no_grad():
        model(image(size), **row.arguments)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("sites", [("attention", "mlp"), ("mlp",)], ids="-".join)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", BACKBONES)
def test_blocks_equal_naive_blocks(name, training, sites):
    row = BACKBONES[name]
    model = adapted(name, sites=sites).train(training)
    blocks = adapted_blocks(model)
    assert len(blocks) == len(row.strides)
    for block, grid, call in zip(blocks, row.grids(row.image), calls(model, row, row.image), strict=True):
        x, args, kwargs = call
        x_ours, x_naive = x.clone().requires_grad_(), x.clone().requires_grad_()
        torch.manual_seed(3)
        ours = first(block(x_ours, *args, **kwargs))
        torch.manual_seed(3)
        naive = row.naive(block, block.mona, grid, x_naive, args, kwargs)
        torch.testing.assert_close(ours, naive, atol=1e-5, rtol=1e-5)

        cotangent = torch.randn_like(ours)
        parameters = list(block.mona.parameters())
        ours_gradients = torch.autograd.grad((ours * cotangent).sum(), [x_ours, *parameters])
        naive_gradients = torch.autograd.grad((naive * cotangent).sum(), [x_naive, *parameters])
        for a, b in zip(ours_gradients, naive_gradients, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def first(result: Any) -> torch.Tensor:
    return result[0] if isinstance(result, tuple) else result


def reference(model: nn.Module, row: Backbone, size: tuple[int, int]) -> nn.Module:
    """The adapted model once more, with naive blocks in the places of its adapted ones."""
    other = copy.deepcopy(model)
    for block, grid in zip(adapted_blocks(other), row.grids(size), strict=True):
        adapters, stock_class = block.mona, block.stock_class

        def forward(x, *args, block=block, grid=grid, adapters=adapters, stock_class=stock_class, **kwargs):
            stock = stock_class.forward(block, x, *args, **kwargs)
            naive = row.naive(block, adapters, grid, x, args, kwargs)
            return (naive, *stock[1:]) if isinstance(stock, tuple) else naive

        block.__class__ = stock_class
        block.forward = forward
    return other


FEATURES = {f"{name}-features": row.features for name, row in BACKBONES.items() if row.features is not None}


@pytest.mark.parametrize("name", [*BACKBONES, *FEATURES])
def test_whole_models_hidden_states_and_feature_maps(name):
    """What a model returns, records as hidden states and hands on as feature maps is what follows the adapters."""
    row = BACKBONES[name.removesuffix("-features")]
    row_name, make = name.removesuffix("-features"), FEATURES.get(name)
    # Stock Hiera records images of its configured size alone.
    recording = {} if name == "hiera" else {"output_hidden_states": True}
    if make is not None:
        row = copy.copy(row)
        object.__setattr__(row, "arguments", {})
    # In double precision: rounding grows from block to block, most of all through SwinV2's cosine attention.
    model = adapted(row_name, make).double()
    ours = outputs(model, row, row.image, **recording)
    theirs = outputs(reference(model, row, row.image), row, row.image, **recording)
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    with model.disable_adapter():
        base = outputs(model, row, row.image, **recording)
    unchanged = [a.flatten().sort().values for a, b in zip(ours, base, strict=True) if (a - b).abs().max() < 1e-4]
    # Only the embeddings may be the same, recorded as tokens and perhaps as a map too.
    assert len(unchanged) <= min(2, len(ours) - 1)
    assert all(torch.equal(values, unchanged[0]) for values in unchanged)


@pytest.mark.parametrize("name", BACKBONES)
def test_starts_bit_equal_to_the_base(name):
    row = BACKBONES[name]
    # Frozen as an adapted model is: attention of trainable and of frozen weights runs other kernels.
    base = outputs(build(name).requires_grad_(False), row, row.image)
    model = adapted(name, init_weights=True)
    for ours, theirs in zip(outputs(model, row, row.image), base, strict=True):
        assert torch.equal(ours, theirs)
    assert largest_difference(outputs(adapted(name), row, row.image), base) > 1e-4
    unloaded = model.unload()
    for ours, theirs in zip(outputs(unloaded, row, row.image), base, strict=True):
        assert torch.equal(ours, theirs)
    assert [type(module) for module in unloaded.modules()] == [type(module) for module in build(name).modules()]
    assert not [m for m in unloaded.modules() if any("mona_peft" in type(h).__module__ for h in hooks(m))]


def hooks(module: nn.Module) -> list[Any]:
    return [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]


def seen_by_adapters(model: nn.Module, row: Backbone, pixel_values: torch.Tensor) -> list[tuple[torch.Tensor, tuple]]:
    """Tokens, row by row, and grid that the second adapter of each block receives."""
    seen = []

    def record(module, args):
        tokens, grid = args
        seen.append((grid.row_by_row(tokens), grid.grid) if isinstance(grid, ReorderedGrid) else args)

    handles = [block.mona.mona_mlp["default"].register_forward_pre_hook(record) for block in adapted_blocks(model)]
    with torch.no_grad():
        model(pixel_values, **row.arguments)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("name", BACKBONES)
def test_every_place_of_an_image_is_at_its_place_in_the_grid(name):
    """Prefix tokens come first and apart, rows are rows: a patch of another look shows where it is, and there alone."""
    row = BACKBONES[name]
    model = adapted(name, init_weights=True)
    with torch.no_grad():  # attention spreads a change over the image: keep it small
        for block in adapted_blocks(model):
            for module in block.modules():
                if isinstance(module, nn.LayerNorm):
                    module.weight.mul_(0.1)
    height, width = row.image
    plain = image(row.image, 1)
    seen = seen_by_adapters(model, row, plain)
    assert [grid for _, grid in seen] == row.grids(row.image)
    assert [tokens.shape[1] - grid[0] * grid[1] for tokens, grid in seen] == row.prefixes()
    coarsest = row.mark or max(row.strides)
    rows, columns = height // coarsest, width // coarsest
    for y, x in {(0, 0), (0, columns - 1), (rows - 1, 0), (rows - 1, columns - 1)}:
        marked = plain.clone()
        marked[..., y * coarsest : (y + 1) * coarsest, x * coarsest : (x + 1) * coarsest] += 3
        after = seen_by_adapters(model, row, marked)
        for (before, grid), (tokens, _), stride, prefix in zip(seen, after, row.strides, row.prefixes(), strict=True):
            change = (tokens - before)[0, prefix:].square().sum(dim=-1).reshape(grid) ** 2
            cells = coarsest // stride
            # Of the cells of the coarsest grid, the one that changed most.
            change = change.unflatten(0, (-1, cells)).unflatten(2, (-1, cells)).sum(dim=(1, 3))
            assert divmod(change.argmax().item(), change.shape[1]) == (y, x)


@pytest.mark.parametrize("name", BACKBONES)
def test_prefix_tokens_do_not_reach_the_grid(name):
    row = BACKBONES[name]
    model = adapted(name)
    for block, (tokens, grid), prefix in zip(
        adapted_blocks(model), seen_by_adapters(model, row, image(row.image)), row.prefixes(), strict=True
    ):
        mona = block.mona.mona_mlp["default"]
        other = tokens.clone()
        other[:, :prefix] = torch.randn_like(other[:, :prefix])
        assert torch.equal(mona(tokens, grid)[:, prefix:], mona(other, grid)[:, prefix:])
        other = tokens.clone()
        other[:, prefix:] = torch.randn_like(other[:, prefix:])
        assert torch.equal(mona(tokens, grid)[:, :prefix], mona(other, grid)[:, :prefix])
        assert not torch.equal(mona(tokens, grid)[:, prefix:], mona(other, grid)[:, prefix:])


def loss(model: nn.Module, row: Backbone, size: tuple[int, int], batch_size: int = 2) -> torch.Tensor:
    torch.manual_seed(5)
    result = tensors(model(image(size, batch_size), **row.arguments))
    return sum(tensor.pow(2).mean() for tensor in result if tensor.requires_grad)


def gradients(model: nn.Module, losses: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    model.zero_grad()
    sum(losses).backward()
    return {key: parameter.grad.clone() for key, parameter in model.named_parameters() if parameter.requires_grad}


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for key, gradient in theirs.items():
        torch.testing.assert_close(ours[key], gradient, atol=1e-6, rtol=1e-4, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.parametrize("name", BACKBONES)
def test_gradients_reach_every_parameter_of_the_adapters_alone(name):
    row = BACKBONES[name]
    model = adapted(name).train()
    for key, parameter in model.named_parameters():
        assert parameter.requires_grad == (".mona.mona_" in key), key
    for key, gradient in gradients(model, [loss(model, row, row.image)]).items():
        assert torch.count_nonzero(gradient) > 0, key


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of attention under vmap
@pytest.mark.parametrize("name", ["vit", "sam", "vitdet", "convnext", "hiera", "rf-detr"])
def test_gradients_of_each_sample(name):
    """One of each layout and order, under transforms of `torch.func`."""
    row = BACKBONES[name]
    model = adapted(name)

    def loss_of_one(parameters: dict[str, torch.Tensor], pixel_values: torch.Tensor) -> torch.Tensor:
        result = tensors(functional_call(model, parameters, (pixel_values[None],), row.arguments))
        return sum(tensor.pow(2).mean() for tensor in result)

    parameters = {key: value.detach() for key, value in model.named_parameters() if value.requires_grad}
    images = image(row.image, 2)
    of_each = vmap(grad(loss_of_one), (None, 0))(parameters, images)
    for number, pixel_values in enumerate(images):
        one = gradients(
            model, [sum(tensor.pow(2).mean() for tensor in tensors(model(pixel_values[None], **row.arguments)))]
        )
        assert_same({key: gradient[number] for key, gradient in of_each.items()}, one)


@pytest.mark.parametrize("name", BACKBONES)
def test_several_image_sizes_in_any_order_and_in_one_backward_pass(name):
    row = BACKBONES[name]
    sizes = [(row.image, 2), *((size, 3) for size in row.further_images), (row.image, 1)]

    def fresh() -> nn.Module:
        return adapted(name)

    alone = [outputs_of(fresh(), row, size, batch_size) for size, batch_size in sizes]
    model = fresh()
    for order in (range(len(sizes)), reversed(range(len(sizes)))):
        for index in order:
            assert largest_difference(outputs_of(model, row, *sizes[index]), alone[index]) < 1e-5

    one_by_one = {}
    for size, batch_size in sizes:
        model = fresh()
        for key, gradient in gradients(model, [loss(model, row, size, batch_size)]).items():
            one_by_one[key] = one_by_one.get(key, 0) + gradient
    model = fresh()
    assert_same(gradients(model, [loss(model, row, *size) for size in sizes]), one_by_one)


def outputs_of(model: nn.Module, row: Backbone, size: tuple[int, int], batch_size: int) -> list[torch.Tensor]:
    with torch.no_grad():
        return tensors(model(image(size, batch_size), **row.arguments))


def checkpoint(model: PeftModel, kind: str) -> None:
    enable_checkpointing(model.base_model.model, {"use_reentrant": kind == "reentrant"})


def count_calls(model: nn.Module) -> list[int]:
    counter = [0]

    def count(module, args):
        counter[0] += 1

    for block in adapted_blocks(model):
        block.mona.register_forward_pre_hook(count)
    return counter


@pytest.mark.parametrize(("name", "kind"), CHECKPOINTED)
def test_gradient_checkpointing_changes_no_gradient(name, kind):
    row = BACKBONES[name]
    model = adapted(name).train()
    expected = gradients(model, [loss(model, row, row.image)])
    calls_without = count_calls(model)
    checkpoint(model, kind)
    ours = gradients(model, [loss(model, row, row.image)])
    assert calls_without[0] > 2 * len(row.strides), "the adapters must have run again in the backward pass"
    assert_same(ours, expected)


@pytest.mark.parametrize(("name", "kind"), CHECKPOINTED)
def test_several_sizes_in_one_backward_pass_with_checkpointing(name, kind):
    """A block that is recomputed must see the grid of its own forward pass, not that of the last image."""
    row = BACKBONES[name]
    sizes = [row.image, *row.further_images]
    model = adapted(name).train()
    expected = gradients(model, [loss(model, row, size) for size in sizes])
    checkpoint(model, kind)
    losses = [loss(model, row, size) for size in sizes]
    if name == "hiera":  # its stages are recomputed whole, and its blocks are told nothing
        with pytest.raises(RuntimeError, match="it is not known which grid they lie in"):
            gradients(model, losses)
        return
    assert_same(gradients(model, losses), expected)


@pytest.mark.parametrize("name", BACKBONES)
def test_round_trip(name, tmp_path):
    row = BACKBONES[name]
    model = adapted(name)
    expected = outputs(model, row, row.image)
    model.save_pretrained(tmp_path)
    reloaded = PeftModel.from_pretrained(build(name), tmp_path).eval()
    assert largest_difference(expected, outputs(build(name), row, row.image)) > 1e-4
    for ours, theirs in zip(outputs(reloaded, row, row.image), expected, strict=True):
        assert torch.equal(ours, theirs)


def compiled(model: nn.Module, backend: str) -> Callable[..., Any]:
    torch._dynamo.reset()
    return torch.compile(model, fullgraph=True, backend=backend)


COMPILED_ALWAYS = ["swin", "vit", "dinov2", "sam", "hiera", "convnext"]
"""One of each source of the grid and each layout; the other rows are compiled with `-m slow`."""
COMPILED = [name for name, row in BACKBONES.items() if row.compiles]


@pytest.mark.parametrize(
    "name", [name if name in COMPILED_ALWAYS else pytest.param(name, marks=pytest.mark.slow) for name in COMPILED]
)
def test_compiles_whole(name):
    row = BACKBONES[name]
    model = adapted(name)
    expected = outputs(model, row, row.image)
    ours = tensors(compiled(model.base_model.model, "eager")(image(row.image), **row.arguments))
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind"), [("vit", None), ("vit", "non-reentrant"), ("dinov2", "non-reentrant"), ("convnext", None)]
)
def test_compiled_training(name, kind):
    """Two sizes, one after the other, through one compiled model; without dropout, which draws otherwise compiled."""
    row = BACKBONES[name]
    model = adapted(name, dropout=0.0).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout) or "DropPath" in type(module).__name__:
            module.eval()
        for attribute in ("attention_dropout", "dropout_prob"):
            if isinstance(getattr(module, attribute, None), float):
                setattr(module, attribute, 0.0)
    sizes = [row.image, row.further_images[0]]
    expected = [gradients(model, [loss(model, row, size)]) for size in sizes]
    if kind is not None:
        checkpoint(model, kind)
    base = model.base_model.model
    base.forward = compiled(base.forward, "aot_eager")
    for size, theirs in zip(sizes, expected, strict=True):
        assert_same(gradients(model, [loss(model, row, size)]), theirs)
