"""What `torch.compile` trains with: the operator against the formula, and what a compiled model keeps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from peft import get_peft_model
from torch.func import functional_call, grad, vmap
from transformers import SwinConfig, SwinForImageClassification
from transformers.models.swin.modeling_swin import SwinLayer

from mona_peft import Mona, MonaConfig
from mona_peft.functional import opaque
from mona_peft.functional.compiled import CODE, mona_compiled
from mona_peft.tasks.comparison.memory import kept_bytes
from tests.functional.test_fast import CASES
from tests.functional_reference import by_formula, errors, random_mona, results, tokens


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()


def operator(mona: Mona, x: torch.Tensor, grid: tuple[int, int], with_input: bool) -> torch.Tensor:
    """`x` with what the operator adds, or returns with it."""
    output = mona_compiled(x, grid, mona.weights(), mona.settings(), with_input)
    return output if with_input else x + output


def total(mona: Mona, x: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    return operator(mona, x, grid, with_input=True)


def delta(mona: Mona, x: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    return operator(mona, x, grid, with_input=False)


WAYS = pytest.mark.parametrize("way", [total, delta])
FOLDED = {name: case for name, case in CASES.items() if name != "norm in the bottleneck"}


@WAYS
@pytest.mark.parametrize(("settings", "shape"), FOLDED.values(), ids=FOLDED)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=["f64", "f32"])
def test_equals_the_formula(settings, shape, way, dtype, limit):
    mona, x = random_mona(**settings), tokens(settings["dim"], **shape)
    exact = results(by_formula, mona, x, shape["grid"], torch.float64)
    for name, error in errors(results(way, mona, x, shape["grid"], dtype), exact).items():
        assert error < limit, name


@WAYS
def test_half_precision_with_a_large_delta(way):
    """Where the output is too coarse to have the input back from it."""
    mona, x = random_mona(48, bottleneck_dim=32), tokens(48, (6, 5)).bfloat16().double()
    for parameter in mona.parameters():
        parameter.data = parameter.data.bfloat16().double()
    with torch.no_grad():
        mona.up_bias.add_(100)
    exact = results(by_formula, mona, x, (6, 5), torch.float64)
    ours = errors(results(way, mona, x, (6, 5), torch.bfloat16), exact)
    assert max(error for name, error in ours.items()) < 0.1


@WAYS
def test_dropout_draws_one_mask_for_both_passes(way):
    mona, x = random_mona(16, dropout=0.5).train(), tokens(16, (6, 5)).requires_grad_()
    direction = torch.randn_like(x)
    torch.manual_seed(3)
    (gradient,) = torch.autograd.grad((way(mona, x, (6, 5)) * direction).sum(), x)
    step = 1e-6 * torch.randn_like(x)
    torch.manual_seed(3)
    after = way(mona, x + step, (6, 5))
    torch.manual_seed(3)
    before = way(mona, x - step, (6, 5))
    torch.testing.assert_close(((after - before) * direction).sum() / 2, (gradient * step).sum(), rtol=1e-4, atol=0)
    assert not torch.equal(way(mona, x, (6, 5)), after)


@pytest.mark.parametrize("with_input", [True, False])
@pytest.mark.parametrize("norm_position", ["input", "none"])
def test_contract_of_the_operator(with_input, norm_position):
    """Shapes without data, gradients, no aliases, nothing changed in place: all that compilers rely on."""
    mona, x = random_mona(16, bottleneck_dim=8, norm_position=norm_position), tokens(16, (3, 2), prefix=1)
    arguments = (x.requires_grad_(), *mona.weights(), *mona.settings(), None, 3, 2, with_input, CODE)
    torch.library.opcheck(torch.ops.mona_peft.mona.default, arguments)


@pytest.mark.parametrize("by_channel", [False, True])
@pytest.mark.parametrize(("prefix", "dropout"), [(0, 0.0), (1, 0.5)])
def test_contracts_of_the_operators_inside(prefix, dropout, by_channel, monkeypatch):
    """Strides too, however a device's convolution lays out its result: compilers rely on what is said of them."""
    if by_channel:
        monkeypatch.setattr(F, "conv2d", lambda *args, conv2d=F.conv2d, **given: conv2d(*args, **given).contiguous())
    x, p, q = torch.randn(2, 6 + prefix, 16), torch.randn(2, 6 + prefix, 8), torch.randn(2, 6, 8)
    seed = torch.tensor([7])
    filters = [torch.randn(8, 1, size, size) for size in (3, 5)], [torch.randn(8) for _ in range(2)]
    folded = torch.randn(8, 1, 5, 5), torch.randn(8), torch.randn(8, 8), torch.randn(8)
    how = 3, 2, dropout, seed if dropout else None
    inside = p, q, p, p if dropout else None, folded[0], folded[2], 0.5, 3, 2, [3, 5]
    for operator, arguments in [
        (opaque.bottleneck, (p, *filters, torch.randn(8, 8, 1, 1), torch.randn(8), 0.5, *how)),
        (opaque.mona_again, (x, p, *folded, torch.randn(16, 8), torch.randn(16), *how, x if prefix else None)),
        (opaque.bottleneck_backward, (p, *inside, True)),
        (opaque.bottleneck_backward, (p, *inside, False)),
    ]:
        torch.library.opcheck(operator.default, arguments)


def test_cached_graphs_are_not_those_of_other_code():
    """PyTorch finds them by the operators that its first stage saw, and their arguments."""
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]):
        graphs.append(graph)
        return graph

    mona = Mona(16).train()
    torch.compile(lambda x: mona(x, (6, 5)), fullgraph=True, backend=backend)(torch.randn(2, 30, 16))
    (call,) = (node for node in graphs[0].graph.nodes if node.target is torch.ops.mona_peft.mona)
    assert CODE in call.args


def test_each_compiled_adapter_draws_a_mask_of_its_own():
    monas = [Mona(16, dropout=0.5).train() for _ in range(2)]
    for parameters in zip(*(mona.parameters() for mona in monas), strict=True):
        torch.nn.init.normal_(parameters[0], std=0.3)
        parameters[1].data.copy_(parameters[0])
    compiled = torch.compile(
        lambda x: [mona(x, (6, 5)) for mona in monas], fullgraph=True, backend="aot_eager_decomp_partition"
    )
    x = torch.randn(2, 30, 16)
    first, second = compiled(x)
    assert not torch.equal(first, second)
    assert not torch.equal(compiled(x)[0], first)


@pytest.mark.parametrize("autocast", [False, True])
def test_compiled_in_place(autocast):
    """Two sizes through one graph; what is returned and what was given both hold the sum, as in eager mode."""
    mona = random_mona(16).float().train()

    def run(x: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            hidden = x + 1
            output = mona(hidden, grid, in_place=True)
        return output * hidden

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for grid in ((6, 5), (3, 4)):
        x = tokens(16, grid, prefix=2).float().requires_grad_()
        inputs = [x, *mona.parameters()]
        ours, expected = (torch.autograd.grad(f(x, grid).sum(), inputs) for f in (compiled, run))
        for our, their in zip(ours, expected, strict=True):
            limit = (1e-2 if autocast else 1e-6) * their.abs().max().item()  # both round what is large
            torch.testing.assert_close(our, their, rtol=0, atol=limit)


def test_compiled_gradients_of_each_sample():
    mona, x = random_mona(16, bottleneck_dim=8), tokens(16, (3, 2))
    parameters = dict(mona.named_parameters())

    def loss(parameters: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return functional_call(mona, parameters, (x[None], (3, 2))).pow(2).sum()

    per_sample = vmap(grad(loss), in_dims=(None, 0))
    expected, ours = per_sample(parameters, x), torch.compile(per_sample, backend="aot_eager")(parameters, x)
    for name, gradient in expected.items():
        torch.testing.assert_close(ours[name], gradient)


@pytest.mark.parametrize("part", [SwinForImageClassification, SwinLayer], ids=["whole", "block by block"])
def test_a_compiled_model_keeps_what_it_keeps_in_eager_mode(part):
    settings = {"image_size": 56, "embed_dim": 32, "depths": [2], "num_heads": [2], "drop_path_rate": 0.0}
    model = get_peft_model(SwinForImageClassification(SwinConfig(**settings)), MonaConfig(modules_to_save=[])).train()
    images = torch.randn(2, 3, 56, 56)
    expected = kept_bytes(model, images)
    for module in model.modules():
        if isinstance(module, part):
            # The choice of what is kept is made before code is generated, which would take a minute.
            module.compile(fullgraph=True, backend="aot_eager_decomp_partition")
    assert kept_bytes(model, images) < 1.02 * expected
