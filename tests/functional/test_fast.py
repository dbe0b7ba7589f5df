"""The fast path against the readable formula: outputs, all gradients, and what it keeps."""

from __future__ import annotations

from operator import attrgetter

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.func import functional_call, grad, jvp, vmap
from torch.nn.utils import parametrizations, parametrize, prune

from mona_peft.blocks import ReorderedGrid
from mona_peft.functional import batched_gradients, formula
from mona_peft.functional.dropout import draw_seed, keep_mask, keep_probability
from tests.functional_reference import (
    by_addition,
    by_formula,
    errors,
    in_place,
    random_mona,
    results,
    tokens,
)

WAYS = pytest.mark.parametrize("way", [in_place, by_addition], ids=["in place", "delta"])
CASES = {
    "odd map": ({"dim": 48}, {"grid": (9, 5)}),
    "one token": ({"dim": 16, "bottleneck_dim": 8}, {"grid": (1, 1)}),
    "large map": ({"dim": 24, "bottleneck_dim": 16}, {"grid": (33, 40)}),
    "prefix": ({"dim": 32}, {"grid": (6, 7), "prefix": 3}),
    "badly centred": ({"dim": 96}, {"grid": (14, 14), "mean": 30.0}),
    "several slices": ({"dim": 768}, {"grid": (14, 14), "batch_size": 4}),
    "one filter": ({"dim": 16, "bottleneck_dim": 5, "kernel_sizes": (3,)}, {"grid": (4, 6)}),
    "large filter": ({"dim": 16, "bottleneck_dim": 8, "kernel_sizes": (1, 9)}, {"grid": (4, 6)}),
    "sum": ({"dim": 16, "filter_reduction": "sum"}, {"grid": (5, 5)}),
    "no norm": ({"dim": 16, "norm_position": "none"}, {"grid": (5, 5), "prefix": 1}),
    "norm in the bottleneck": ({"dim": 16, "norm_position": "bottleneck"}, {"grid": (5, 5)}),
}
EVERY_CASE = pytest.mark.parametrize(("settings", "shape"), CASES.values(), ids=CASES)


@WAYS
@EVERY_CASE
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=["f64", "f32"])
def test_equals_the_formula(settings, shape, way, dtype, limit):
    mona, x = random_mona(**settings), tokens(settings["dim"], **shape)
    exact = results(by_formula, mona, x, shape["grid"], torch.float64)
    assert exact["output"].sub(x).abs().max() > 0.1
    for name, error in errors(results(way, mona, x, shape["grid"], dtype), exact).items():
        assert error < limit, name


@WAYS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("autocast", [False, True], ids=["half weights", "autocast"])
def test_half_precision_is_as_exact_as_the_formula_in_it(dtype, way, autocast):
    mona, x = random_mona(48, bottleneck_dim=32), tokens(48, (14, 14))
    x = x.to(dtype).double()
    for parameter in mona.parameters():
        parameter.data = parameter.data.to(dtype).double()
    exact = results(by_formula, mona, x, (14, 14), torch.float64)
    with torch.autocast("cpu", dtype, enabled=autocast):
        ours, naive = (results(f, mona, x, (14, 14), torch.float32 if autocast else dtype) for f in (way, by_formula))
    ours, naive = errors(ours, exact), errors(naive, exact)
    assert max(ours.values()) > 1e-5, "half precision was not used"
    assert max(ours.values()) < 1.2 * max(naive.values())
    assert sum(ours.values()) < 1.2 * sum(naive.values())


@WAYS
def test_single_precision_adapter_on_half_precision_tokens(way):
    """The usual case of PEFT: weights in float32, the residual stream in bfloat16."""
    mona, x = random_mona(48), tokens(48, (9, 5)).bfloat16()
    exact = results(by_formula, mona, x.double(), (9, 5), torch.float64)
    mona.float()
    leaf = x.clone().requires_grad_()
    output = way(mona, leaf + 0, (9, 5))
    direction = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    output.backward(direction.bfloat16())
    gradients = {name: parameter.grad.double() for name, parameter in mona.named_parameters()}
    ours = {"output": output.detach().double(), "input": leaf.grad.double(), **gradients}
    assert output.dtype == leaf.grad.dtype == torch.bfloat16
    assert max(errors(ours, exact).values()) < 1e-2


ORDERS = {
    "mask units": (ReorderedGrid((8, 12), strides=((2, 2), (2, 2))), {"grid": (8, 12)}),
    "windows": (ReorderedGrid((8, 12), windows_a_side=2), {"grid": (4, 6), "prefix": 3, "batch_size": 8}),
}
EVERY_ORDER = pytest.mark.parametrize(("order", "shape"), ORDERS.values(), ids=ORDERS)


@WAYS
@EVERY_ORDER
@pytest.mark.parametrize("position", ["input", "bottleneck"])
def test_tokens_in_another_order(order, shape, way, position):
    """Only the filters see an image: the same as putting its tokens in order, and back."""
    mona, x = random_mona(24, bottleneck_dim=8, norm_position=position), tokens(24, **shape)
    exact = results(by_formula_in_order, mona, x, order, torch.float64)
    for name, error in errors(results(way, mona, x, order, torch.float64), exact).items():
        assert error < 1e-12, name
    with torch.no_grad():
        torch.testing.assert_close(way(mona, x.clone(), order), exact["output"])
    with pytest.raises(ValueError, match="for a grid of 8 x 12 = 96 places"):
        way(mona, x[:, -20:], order)


def by_formula_in_order(mona: nn.Module, x: torch.Tensor, order: ReorderedGrid) -> torch.Tensor:
    return order.each(lambda tokens, grid: by_formula(mona, tokens, grid), x)


@EVERY_ORDER
def test_dropout_of_tokens_in_another_order(order, shape):
    """Both passes drop the same: the input's gradient is that of the output, by differences."""
    mona, x = random_mona(6, bottleneck_dim=4, dropout=0.5).train(), tokens(6, **shape)

    def adapt(x: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(4)
        return mona(x, order).sin().sum()

    assert torch.autograd.gradcheck(adapt, x.requires_grad_(), fast_mode=True)


def test_compiled_training_of_tokens_in_another_order():
    order, shape = ORDERS["windows"]
    mona, x = random_mona(16, bottleneck_dim=8), tokens(16, **shape)
    torch._dynamo.reset()  # of other shapes a graph for any would be made, which takes long
    compiled = torch.compile(lambda x: mona(x + 0, order, in_place=True), fullgraph=True, backend="aot_eager")
    exact = results(by_formula_in_order, mona, x, order, torch.float64)
    ours = results(lambda mona, x, order: compiled(x), mona, x, order, torch.float64)
    assert max(errors(ours, exact).values()) < 1e-12


@WAYS
@pytest.mark.parametrize("dropout", [0.1, 0.9])
def test_dropout(way, dropout, monkeypatch):
    """Forward and backward pass use the same mask, and scale what is kept."""
    mona, x = random_mona(16, bottleneck_dim=8, dropout=dropout).train(), tokens(16, (6, 5), prefix=1)
    torch.manual_seed(3)
    ours = results(way, mona, x, (6, 5), torch.float64)
    torch.manual_seed(3)
    mask = keep_mask(torch.empty(2, 31, 8, dtype=torch.float64), dropout, draw_seed())
    scale = 1 / keep_probability(dropout, mask.device)
    monkeypatch.setattr(formula.F, "dropout", lambda hidden, _: hidden * mask * scale)
    exact = results(by_formula, mona, x, (6, 5), torch.float64)
    assert max(errors(ours, exact).values()) < 1e-12


@pytest.mark.parametrize("trained", ["norm_bias", "gammax", "down_weight", "dw5_weight", "pw_bias", "up_weight", None])
def test_some_parameters_ask_for_gradients(trained):
    mona, x = random_mona(16), tokens(16, (6, 5))
    exact = results(by_formula, mona, x, (6, 5), torch.float64)
    mona.zero_grad()
    for name, parameter in mona.named_parameters():
        parameter.requires_grad_(name == trained)
    leaf = x.clone().requires_grad_(trained is None)
    direction = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mona(leaf + 0, (6, 5), in_place=True).backward(direction)
    if trained is None:
        torch.testing.assert_close(leaf.grad, exact["input"])
    for name, parameter in mona.named_parameters():
        if name == trained:
            torch.testing.assert_close(parameter.grad, exact[name], rtol=1e-10, atol=1e-10)
        else:
            assert parameter.grad is None


@pytest.mark.parametrize(
    "settings", [{}, {"filter_reduction": "sum"}, {"norm_position": "none"}, {"kernel_sizes": (3,)}]
)
@pytest.mark.parametrize("adapt", [in_place, by_addition])
def test_gradients_of_several_backward_passes_add_up(adapt, settings):
    mona = random_mona(16, **settings)
    inputs = [tokens(16, (6, 5)), tokens(16, (4, 7)), tokens(16, (6, 5))]
    expected = {name: torch.zeros_like(parameter) for name, parameter in mona.named_parameters()}
    for x in inputs:
        loss = by_formula(mona, x, (4, 7) if x.shape[1] == 28 else (6, 5)).pow(2).sum()
        for name, gradient in zip(expected, torch.autograd.grad(loss, list(mona.parameters())), strict=True):
            expected[name] += gradient
    mona.zero_grad()
    for x in inputs:
        leaf = x.clone().requires_grad_()
        adapt(mona, leaf + 0, (4, 7) if x.shape[1] == 28 else (6, 5)).pow(2).sum().backward()
    for name, parameter in mona.named_parameters():
        torch.testing.assert_close(
            parameter.grad, expected[name], rtol=1e-10, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_twice_in_one_graph():
    mona, x = random_mona(16), tokens(16, (6, 5)).requires_grad_()

    def gradients(adapt):
        hidden = adapt(mona, adapt(mona, x * 2, (6, 5)) * 0.5, (6, 5))
        return torch.autograd.grad(hidden.pow(2).sum(), [x, *mona.parameters()])

    for ours, theirs in zip(gradients(in_place), gradients(by_formula), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_in_place_on_a_view():
    mona, x = random_mona(16), tokens(16, (6, 5)).requires_grad_()
    image = (x * 2).unflatten(1, (6, 5))
    mona(image.flatten(1, 2), (6, 5), in_place=True)
    ours = torch.autograd.grad(image.pow(2).sum(), [x, *mona.parameters()])
    theirs = torch.autograd.grad(by_formula(mona, x * 2, (6, 5)).pow(2).sum(), [x, *mona.parameters()])
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("training", [True, False])
def test_tokens_that_are_not_contiguous(training):
    mona = random_mona(16).train(training)
    x = torch.randn(16, 30, 2, dtype=torch.float64).permute(2, 1, 0)
    assert not x.is_contiguous()
    expected = by_formula(mona, x, (6, 5))
    torch.testing.assert_close(by_addition(mona, x, (6, 5)), expected)
    written = x.clone(memory_format=torch.preserve_format)
    torch.testing.assert_close(mona(written, (6, 5), in_place=True), expected)
    with torch.no_grad():
        torch.testing.assert_close(by_addition(mona, x, (6, 5)), expected)


@WAYS
def test_empty_batch(way):
    mona, x = random_mona(16), torch.empty(0, 30, 16, dtype=torch.float64, requires_grad=True)
    output = way(mona, x + 0, (6, 5))
    output.sum().backward()
    assert output.shape == x.grad.shape == x.shape


def test_function_transforms_and_forward_mode():
    mona, x = random_mona(16, bottleneck_dim=8), tokens(16, (4, 3))
    parameters = {name: parameter.detach() for name, parameter in mona.named_parameters()}

    def loss(parameters, x):
        return functional_call(mona, parameters, (x, (4, 3))).pow(2).sum()

    mona(x, (4, 3)).pow(2).sum().backward()
    for name, gradient in grad(loss)(parameters, x).items():
        torch.testing.assert_close(gradient, mona.get_parameter(name).grad)
    per_sample = vmap(grad(loss), (None, 0))(parameters, x.unsqueeze(1))
    torch.testing.assert_close(per_sample["up_weight"].sum(0), mona.up_weight.grad)
    step = 1e-6 * torch.randn_like(x)
    tangent = jvp(lambda x: mona(x, (4, 3)), (x,), (step,))[1]
    torch.testing.assert_close(tangent, mona(x + step, (4, 3)) - mona(x, (4, 3)), rtol=1e-3, atol=1e-9)


def test_editing_the_output_in_place_is_told_apart():
    mona, x = random_mona(16), tokens(16, (4, 3)).requires_grad_()
    output = mona(x * 2, (4, 3), in_place=True)
    output += 1
    with pytest.raises(RuntimeError, match=r"edited in place .* before the backward pass"):
        output.sum().backward()
    # What `forward` returns is not kept, so it may be edited.
    mona(x, (4, 3)).mul_(2).sum().backward()


@pytest.mark.parametrize("training", [True, False])
def test_compiles_without_a_graph_break(training):
    mona, x = random_mona(16).train(training), tokens(16, (6, 5), prefix=2)
    compiled = torch.compile(mona, fullgraph=True, backend="aot_eager")
    exact = results(by_formula, mona, x, (6, 5), torch.float64)
    ours = results(lambda mona, x, grid: x + compiled(x, grid), mona, x, (6, 5), torch.float64)
    assert max(errors(ours, exact).values()) < 1e-12


def test_keeps_its_output_and_a_bottleneck_map():
    mona, x = random_mona(64, dropout=0.1).float().train(), tokens(64, (8, 8)).float()
    parameters = {parameter.untyped_storage().data_ptr() for parameter in mona.parameters()}
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        output = mona(x, (8, 8), in_place=True)
    maps = [t for t in kept if t.numel() >= 128 and t.untyped_storage().data_ptr() not in parameters]
    per_token = {t.untyped_storage().data_ptr(): t.numel() / 128 for t in maps if t.shape[0] in (2, 128)}
    assert per_token.pop(output.untyped_storage().data_ptr()) == 64
    assert sum(per_token.values()) == 64 + 2
    # The rest is folded weights, which do not grow with the map.
    assert sum(t.numel() for t in maps if t.shape[0] not in (2, 128)) < 64 * 64 + 64 * 49 + 4 * 64


@pytest.mark.parametrize("training", [True, False])
def test_shapes_without_data(training):
    with torch.device("meta"):
        mona = random_mona(16, dropout=0.1).train(training)
        x = tokens(16, (6, 5))
    assert mona(x, (6, 5)).shape == mona(x, (6, 5), in_place=True).shape == x.shape


def test_shapes_without_data_in_fake_mode():
    """Memory estimators run a training step so."""
    mona, x = random_mona(16, dropout=0.1).train(), tokens(16, (6, 5))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = mode.from_tensor(x)
        assert mona(fake, (6, 5)).shape == mona(fake.clone(), (6, 5), in_place=True).shape == x.shape


@WAYS
def test_batched_gradients(way):
    """As `torch.autograd.functional.jacobian(vectorize=True)` asks for them; dropout's mask is that of the call."""
    mona, x = random_mona(16, bottleneck_dim=8, dropout=0.5).train(), tokens(16, (3, 2)).requires_grad_()
    output = way(mona, x + 0, (3, 2))
    inputs, directions = [x, *mona.parameters()], torch.randn(3, *output.shape, dtype=torch.float64)
    ours = torch.autograd.grad(output, inputs, directions, is_grads_batched=True, retain_graph=True)
    singly = [torch.autograd.grad(output, inputs, direction, retain_graph=True) for direction in directions]
    for our, parts in zip(ours, zip(*singly, strict=True), strict=True):
        torch.testing.assert_close(our, torch.stack(parts))


TOOLS = {
    "pruned": lambda mona: prune.l1_unstructured(mona, "down_weight", 0.5),
    "weight norm": lambda mona: parametrizations.weight_norm(mona, "up_weight"),
    "parametrised": lambda mona: parametrize.register_parametrization(mona, "gamma", nn.Softplus()),
}


@WAYS
@pytest.mark.parametrize("change", TOOLS.values(), ids=TOOLS)
def test_pytorchs_own_tools_change_weights(way, change):
    mona, x = random_mona(16), tokens(16, (6, 5))
    change(mona)
    exact = results(by_formula, mona, x, (6, 5), torch.float64)
    assert max(errors(results(way, mona, x, (6, 5), torch.float64), exact).values()) < 1e-12
    assert any(name.endswith(("_orig", ".original", ".original0")) for name in exact), "the weight trains"


@pytest.mark.parametrize(
    ("owner", "name"), [(torch._C, "_are_functorch_transforms_active"), (torch.autograd.forward_ad, "_current_level")]
)
def test_without_private_names_of_pytorch(owner, name, monkeypatch):
    """A release that has them no more costs memory, and nothing else."""
    mona, x = random_mona(16), tokens(16, (6, 5))
    expected = by_formula(mona, x, (6, 5))
    monkeypatch.delattr(owner, name)
    torch.testing.assert_close(in_place(mona, x.clone(), (6, 5)), expected)


def test_batched_gradients_without_private_names_of_pytorch(monkeypatch):
    """A release that has them no more refuses batches of gradients; one gradient is as before."""
    mona, x = random_mona(16), tokens(16, (6, 5))
    output = in_place(mona, x.clone(), (6, 5))
    expected = torch.autograd.grad(output.sum(), mona.up_weight, retain_graph=True)
    monkeypatch.setattr(batched_gradients, "_PRIVATE_NAMES", attrgetter("_C.gone"))
    torch.testing.assert_close(torch.autograd.grad(output.sum(), mona.up_weight, retain_graph=True), expected)
    with pytest.raises(RuntimeError, match="atching rule"):
        torch.autograd.grad(output, mona.up_weight, torch.ones(3, *output.shape).double(), is_grads_batched=True)
