"""The kernels in Triton against the formula, and against the plain operations in half precision."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys

import pytest
import torch

from mona_peft import Mona
from mona_peft.functional import formula
from mona_peft.functional.dropout import draw_seed, keep_probability
from mona_peft.functional.folding import fold
from mona_peft.functional.triton import chosen_engine, triton_kernels
from scripts.benchmark.models import SIZES, mona, mona_triton, stock_model
from tests.functional_reference import by_addition, by_formula, errors, in_place, random_mona, results, tokens
from tests.triton_device import DEVICE, mend_interpreter

pytestmark = pytest.mark.triton

CASES = {
    "whole tiles": (in_place, {"dim": 40, "bottleneck_dim": 16}, {"grid": (9, 5), "batch_size": 1}),
    "delta": (by_addition, {"dim": 40, "bottleneck_dim": 12, "kernel_sizes": (3, 5)}, {"grid": (3, 7)}),
    "one token": (in_place, {"dim": 16, "bottleneck_dim": 8, "kernel_sizes": (3,)}, {"grid": (1, 1)}),
    "large map": (in_place, {"dim": 24, "bottleneck_dim": 3, "kernel_sizes": (1, 3)}, {"grid": (3, 19)}),
    "prefix": (in_place, {"dim": 70, "bottleneck_dim": 8, "kernel_sizes": (3,)}, {"grid": (4, 3), "prefix": 3}),
    "badly centred": (
        in_place,
        {"dim": 96, "bottleneck_dim": 64, "kernel_sizes": (3,)},
        {"grid": (4, 3), "mean": 30.0},
    ),
    "large filter": (
        in_place,
        {"dim": 16, "bottleneck_dim": 8, "kernel_sizes": (1, 9)},
        {"grid": (2, 3), "batch_size": 1},
    ),
    "sum": (in_place, {"dim": 16, "kernel_sizes": (1, 3), "filter_reduction": "sum"}, {"grid": (3, 4)}),
    "no norm": (in_place, {"dim": 16, "kernel_sizes": (3,), "norm_position": "none"}, {"grid": (3, 4), "prefix": 1}),
}
SMALL = {"dim": 24, "bottleneck_dim": 8, "kernel_sizes": (3,)}


@pytest.fixture(autouse=True, scope="module")
def interpreter():
    if DEVICE.type == "cpu":
        mend_interpreter()


@pytest.fixture(autouse=True)
def kernels(monkeypatch, request):
    """Asks for the kernels; the interpreter gets smaller tiles, because it takes long."""
    from mona_peft.functional.triton import launches

    if DEVICE.type == "cpu" and "whole tiles" not in request.node.name:
        monkeypatch.setattr(launches, "FILTER_ROWS", 2)
    with triton_kernels():
        yield


def on_device(way, mona, x, grid, dtype):
    """Results of a way on the device of the kernels."""
    found = results(way, copy.deepcopy(mona).to(DEVICE), x.to(DEVICE), grid, dtype)
    return {name: tensor.cpu() for name, tensor in found.items()}


def is_served(mona, dtype):
    mona = copy.deepcopy(mona).to(dtype)
    folded = fold(mona.weights(), mona.settings())
    return chosen_engine(torch.empty(1, 1, mona.dim, dtype=dtype, device=DEVICE), folded) is not None


@pytest.mark.parametrize(("way", "settings", "shape"), CASES.values(), ids=CASES)
def test_equals_the_formula(way, settings, shape):
    mona, x = random_mona(**settings), tokens(settings["dim"], **shape)
    assert is_served(mona, torch.float32)
    exact = results(by_formula, mona, x, shape["grid"], torch.float64)
    assert exact["output"].sub(x).abs().max() > 0.1
    for name, error in errors(on_device(way, mona, x, shape["grid"], torch.float32), exact).items():
        assert error < 1e-5, name


@pytest.mark.parametrize("way", [in_place, by_addition], ids=["in place", "delta"])
@pytest.mark.parametrize(
    ("dtype", "autocast"),
    [(torch.bfloat16, False), (torch.bfloat16, True), (torch.float16, False)],
    ids=["bf16", "autocast", "fp16"],
)
def test_half_precision_is_as_exact_as_in_plain_operations(dtype, autocast, way):
    mona, x = random_mona(48, bottleneck_dim=16, kernel_sizes=(3,)), tokens(48, (8, 8))
    assert_no_worse_than_plain_operations(way, mona, x, dtype, autocast)


def test_badly_centred_tokens_in_half_precision():
    mona, x = random_mona(48, bottleneck_dim=16, kernel_sizes=(3,)), tokens(48, (8, 8), mean=30.0)
    assert_no_worse_than_plain_operations(in_place, mona, x, torch.bfloat16, False)


def test_broad_bottleneck():
    mona, x = random_mona(32, bottleneck_dim=80, kernel_sizes=(3,)), tokens(32, (8, 8), batch_size=1)
    assert_no_worse_than_plain_operations(by_addition, mona, x, torch.float16, False)


def assert_no_worse_than_plain_operations(way, mona, x, dtype, autocast):
    assert is_served(mona, dtype)
    x, grid = x.to(dtype).double(), (8, 8)
    for parameter in mona.parameters():
        parameter.data = parameter.data.to(dtype).double()
    exact = results(by_formula, mona, x, grid, torch.float64)

    def distances() -> list[float]:
        with torch.autocast(DEVICE.type, dtype, enabled=autocast):
            found = on_device(way, mona, x, grid, torch.float32 if autocast else dtype)
        return [((found[name] - exact[name]).norm() / exact[name].norm()).item() for name in exact]

    ours = distances()
    with triton_kernels(False):
        plain = distances()
    assert max(ours) > 1e-5, "half precision was not used"
    assert max(ours) < 1.1 * max(plain)
    assert sum(ours) < 1.05 * sum(plain)


def test_single_precision_adapter_on_half_precision_tokens():
    """The usual case of PEFT: weights in float32, the residual stream in bfloat16."""
    mona, x = random_mona(**SMALL), tokens(24, (4, 3)).bfloat16()
    exact = results(by_formula, mona, x.double(), (4, 3), torch.float64)
    mona = copy.deepcopy(mona).float().to(DEVICE)
    leaf = x.to(DEVICE).requires_grad_()
    output = in_place(mona, leaf + 0, (4, 3))
    direction = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mona.zero_grad()
    output.backward(direction.to(output))
    ours = {"output": output.detach(), "input": leaf.grad, **{name: p.grad for name, p in mona.named_parameters()}}
    assert output.dtype == leaf.grad.dtype == torch.bfloat16
    assert max(errors({name: tensor.cpu().double() for name, tensor in ours.items()}, exact).values()) < 1e-2


def draw_mask(num_tokens: int, channels: int, seed: int, dropout: float) -> torch.Tensor:
    import triton
    from triton import language as tl

    from mona_peft.functional.triton.blocks import keep_mask

    def draw(out_ptr, seed, dropout, CHANNELS: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr):
        rows, units = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T), tl.arange(0, BLOCK_N)
        keep = keep_mask(rows, seed, dropout, BLOCK_T, BLOCK_N).to(tl.float32)
        tl.store(out_ptr + rows[:, None] * CHANNELS + units[None, :], keep, mask=(units < CHANNELS)[None, :])

    out = torch.full((triton.cdiv(num_tokens, 512) * 512, channels), float("nan"), device=DEVICE)
    block = max(16, triton.next_power_of_2(channels))
    draw.__globals__.update(tl=tl, keep_mask=keep_mask)
    triton.jit(draw)[(len(out) // 512,)](out, seed, dropout, CHANNELS=channels, BLOCK_T=512, BLOCK_N=block)
    return out[:num_tokens].cpu()


@pytest.mark.parametrize("dropout", [0.1, 0.9])
@pytest.mark.parametrize("prefix", [0, 1])
def test_dropout(dropout, prefix, monkeypatch):
    """Forward and backward pass use the same mask, and scale what is kept."""
    mona, x = random_mona(**SMALL, dropout=dropout).train(), tokens(24, (4, 5), prefix=prefix)
    torch.manual_seed(3)
    ours = on_device(in_place, mona, x, (4, 5), torch.float32)
    torch.manual_seed(3)
    mask = draw_mask(2 * (20 + prefix), 8, draw_seed(), dropout).view(2, -1, 8).double()
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    monkeypatch.setattr(formula.F, "dropout", lambda hidden, _: hidden * mask / keep_probability(dropout, DEVICE))
    exact = results(by_formula, mona, x, (4, 5), torch.float64)
    assert max(errors(ours, exact).values()) < 1e-5


def test_dropout_masks_are_random():
    masks = [draw_mask(4096, 32, seed, 0.25) for seed in (1, 2, 1, 2**62 + 1)]
    assert torch.equal(masks[0], masks[2])
    spread = (0.25 * 0.75 / masks[0].numel()) ** 0.5
    for mask in masks:
        assert abs(mask.mean() - 0.75) < 5 * spread
        assert (mask.mean(0) - 0.75).abs().max() < 5 * spread * 32**0.5
    centred = [mask - 0.75 for mask in masks]
    others = [centred[1], centred[3], *(centred[0].roll(shift, dim) for dim in (0, 1) for shift in (1, 2, 3, 4))]
    for other in others:
        assert abs((centred[0] * other).mean()) < 5 * 0.25 * 0.75 / masks[0].numel() ** 0.5


@pytest.mark.parametrize("trained", ["norm_bias", "gammax", "down_weight", "dw3_weight", "pw_bias", "up_bias", None])
def test_some_parameters_ask_for_gradients(trained):
    mona, x = random_mona(**SMALL), tokens(24, (4, 3))
    exact = results(by_formula, mona, x, (4, 3), torch.float64)
    mona = copy.deepcopy(mona).float().to(DEVICE)
    mona.zero_grad()
    for name, parameter in mona.named_parameters():
        parameter.requires_grad_(name == trained)
    leaf = x.float().to(DEVICE).requires_grad_(trained is None)
    direction = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mona(leaf + 0, (4, 3), in_place=True).backward(direction.to(leaf))
    if trained is None:
        torch.testing.assert_close(leaf.grad.cpu().double(), exact["input"], rtol=1e-4, atol=1e-4)
    for name, parameter in mona.named_parameters():
        if name == trained:
            torch.testing.assert_close(parameter.grad.cpu().double(), exact[name], rtol=1e-4, atol=1e-4)
        else:
            assert parameter.grad is None


def test_gradients_are_the_same_every_time_and_their_sum_is_right():
    mona, x = random_mona(**SMALL).float(), tokens(24, (4, 3), batch_size=3).float()
    first, second = (on_device(in_place, mona, x, (4, 3), torch.float32) for _ in range(2))
    for name in first:
        assert torch.equal(first[name], second[name]), name
    twice = copy.deepcopy(mona).float().to(DEVICE)
    direction = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for _ in range(2):
        leaf = x.to(DEVICE).requires_grad_()
        in_place(twice, leaf + 0, (4, 3)).backward(direction.to(leaf))
    for name, parameter in twice.named_parameters():
        torch.testing.assert_close(parameter.grad.cpu().double(), 2 * first[name])


def test_keeps_the_same_as_plain_operations():
    mona, x = random_mona(**SMALL, dropout=0.1).float().train().to(DEVICE), tokens(24, (4, 3)).float().to(DEVICE)

    def kept() -> list[tuple]:
        found = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: found.append(t) or t, lambda t: t):
            mona(x.clone(), (4, 3), in_place=True)
        return [(tuple(tensor.shape), tensor.dtype) for tensor in found]

    ours = kept()
    with triton_kernels(False):
        assert ours == kept()


@pytest.mark.parametrize("training", [True, False])
def test_without_gradients(training):
    """Also with folded weights from call to call, whose matrices lie transposed; and tokens that are not contiguous."""
    mona = random_mona(**SMALL).train(training)
    x = torch.randn(24, 12, 2, dtype=torch.float64).permute(2, 1, 0)
    expected = by_formula(mona, x, (4, 3))
    mona.float().to(DEVICE)
    x = x.float().to(DEVICE)
    assert not x.is_contiguous()
    with torch.no_grad():
        for way in (in_place, by_addition):
            output = way(mona, x.clone(memory_format=torch.preserve_format), (4, 3))
            torch.testing.assert_close(output.cpu().double(), expected.detach(), rtol=1e-4, atol=1e-4)


def test_empty_batch():
    mona, x = random_mona(**SMALL).float().to(DEVICE), torch.empty(0, 12, 24, device=DEVICE, requires_grad=True)
    output = mona(x + 0, (4, 3), in_place=True)
    output.sum().backward()
    assert output.shape == x.grad.shape == x.shape


def test_compilation_takes_the_plain_operations():
    mona, x = random_mona(**SMALL), tokens(24, (4, 3))
    compiled = torch.compile(mona.float().to(DEVICE), fullgraph=True, backend="aot_eager")
    output = compiled(x.float().to(DEVICE), (4, 3)).cpu().double()
    torch.testing.assert_close(output, by_formula(mona.cpu().double(), x, (4, 3)) - x, rtol=1e-4, atol=1e-4)


def test_row_of_the_benchmark(monkeypatch):
    """A whole model, through PEFT: the same logits and gradients as with Mona in plain operations."""
    monkeypatch.setitem(SIZES, "tiny", {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4]})
    base, pixel_values = stock_model("tiny", 32), torch.randn(1, 3, 32, 32)

    def outcome(method) -> dict[str, torch.Tensor]:
        torch.manual_seed(1)
        model = method(copy.deepcopy(base)).to(DEVICE).train()
        for module in model.modules():
            if isinstance(module, Mona):
                module.dropout = 0.0
        logits = model(pixel_values.to(DEVICE)).logits
        logits.square().sum().backward()
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        return {"logits": logits.detach(), **{name: parameter.grad for name, parameter in trained.items()}}

    with triton_kernels(False):
        plain = outcome(mona)
        ours = outcome(mona_triton)
    assert any(not torch.equal(ours[name], plain[name]) for name in plain), "the kernels were not used"
    for name in plain:
        torch.testing.assert_close(ours[name], plain[name], rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_what_the_kernels_do_not_serve_runs_in_plain_operations():
    assert not is_served(random_mona(16), torch.float64)
    assert not is_served(random_mona(16, bottleneck_dim=65), torch.float32)
    assert not is_served(random_mona(16, bottleneck_dim=129), torch.bfloat16)
    assert not is_served(random_mona(16, kernel_sizes=(11,)), torch.float32)
    with triton_kernels(False):
        assert not is_served(random_mona(16), torch.float32)


def test_kernels_compile_for_a_gpu_and_stay_in_its_registers(tmp_path):
    """Without one: the interpreter takes what the compiler may not."""
    command = [sys.executable, "-m", "scripts.benchmark.triton_kernels", "--targets", "90", "--dtypes", "bfloat16"]
    command += ["--widths", "96", "--output", tmp_path / "kernels.json"]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    records = json.loads((tmp_path / "kernels.json").read_text())
    assert len(records) == 7
    assert all(record["stack"] == 0 and record["shared"] < 99 * 1024 for record in records)
