"""Compiled, exported and copied models give what the model itself gives."""

from __future__ import annotations

import copy
import pickle

import onnxruntime
import pytest
import torch
from torch import nn

from mona_peft import hotswap_adapter
from tests.models import build, images, largest_difference
from tests.test_save_load import trained
from tests.test_several_adapters import logits, two_adapters

CLASSIFIERS = ["swin-classifier", pytest.param("swinv2-classifier", marks=pytest.mark.slow)]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, fullgraph=True, backend="aot_eager")


@pytest.mark.parametrize("name", [*CLASSIFIERS, pytest.param("upernet", marks=pytest.mark.slow)])
def test_compiled_inference_in_one_graph(name):
    model = trained(name)
    expected = logits(model, images())
    assert largest_difference([expected], [logits(build(name), images())]) > 1e-3
    torch.testing.assert_close(logits(compiled(model), images()), expected, atol=1e-5, rtol=0)


def gradients(model: nn.Module, run: nn.Module) -> dict[str, torch.Tensor]:
    model.zero_grad()
    run(images()).logits.pow(2).mean().backward()
    return {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_compiled_training_in_one_graph(name):
    model = trained(name)
    expected = gradients(model, model)
    assert any(".mona." in key for key in expected)
    found = gradients(model, compiled(model))
    assert found.keys() == expected.keys()
    for key, gradient in expected.items():
        torch.testing.assert_close(found[key], gradient, atol=1e-5, rtol=1e-4, msg=lambda m, key=key: f"{key}: {m}")


def test_compiled_weighted_adapters_and_a_swap_without_a_second_compilation(tmp_path):
    model = two_adapters("swin-classifier", modules_to_save=[])
    model.set_adapters(["wide", "narrow"], [0.5, 2.0])
    expected = logits(model, images())
    torch.testing.assert_close(logits(compiled(model), images()), expected, atol=1e-5, rtol=0)

    torch.compiler.reset()
    other = trained("swin-classifier", "other", modules_to_save=[], norm_position="input")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1 if parameter.requires_grad else 1.0)
    other.save_pretrained(tmp_path)
    model = trained("swin-classifier", modules_to_save=[])
    fast = compiled(model)
    before = logits(fast, images())
    hotswap_adapter(fast, tmp_path / "other", "default")
    with torch.compiler.set_stance("fail_on_recompile"):
        after = logits(fast, images())
    assert largest_difference([before], [after]) > 1e-4
    torch.testing.assert_close(after, logits(other, images()), atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_inductor(name):
    model = trained(name)
    expected = logits(model, images())
    torch.testing.assert_close(logits(torch.compile(model, fullgraph=True), images()), expected, atol=1e-5, rtol=0)


class Logits(nn.Module):
    """The classifier with a tensor for an output, as exporters want it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values).logits


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_export_and_onnx_with_any_batch(name, tmp_path):
    model = trained(name)
    batch = {"pixel_values": {0: torch.export.Dim("batch", min=1, max=64)}}
    program = torch.export.export(Logits(model).eval(), (images(2),), dynamic_shapes=batch)
    torch.export.save(program, tmp_path / "classifier.pt2")
    loaded = torch.export.load(tmp_path / "classifier.pt2").module()
    torch.onnx.export(program, (images(2),), tmp_path / "classifier.onnx", verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "classifier.onnx", providers=["CPUExecutionProvider"])
    for size in (2, 5):
        expected = logits(model, images(size))
        torch.testing.assert_close(loaded(images(size)), expected, atol=1e-5, rtol=0)
        (found,) = session.run(None, {session.get_inputs()[0].name: images(size).numpy()})
        torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_aot_inductor_with_any_batch(tmp_path):
    """A library that runs without the model's Python; to compile it takes half a minute."""
    model = trained("swin-classifier")
    batch = {"pixel_values": {0: torch.export.Dim("batch", min=1, max=64)}}
    program = torch.export.export(Logits(model).eval(), (images(2),), dynamic_shapes=batch)
    torch.export.save(program, tmp_path / "program.pt2")
    program = torch.export.load(tmp_path / "program.pt2")
    path = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "compiled.pt2"))
    run = torch._inductor.aoti_load_package(path)
    for size in (1, 2, 5):
        torch.testing.assert_close(run(images(size)), logits(model, images(size)), atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # transformers' own checks of sizes
@pytest.mark.parametrize("record", [torch.export.export, torch.jit.trace], ids=["export", "trace"])
def test_graphs_are_of_the_weights_as_they_are_now(record):
    model = Logits(trained("swin-classifier")).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model(images())
    with torch.no_grad():
        before = model(images())
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.mul_(1.1)
    graph = record(model, (images(),))
    graph = graph.module() if isinstance(graph, torch.export.ExportedProgram) else graph
    expected = model(images())
    assert largest_difference([expected], [before]) > 1e-3
    torch.testing.assert_close(graph(images()), expected, atol=1e-5, rtol=0)


COPIES = [
    pytest.param(clone, name, id=f"{kind}-{name}")
    for kind, clone in {"copy": copy.deepcopy, "pickle": lambda model: pickle.loads(pickle.dumps(model))}.items()
    for name in ("swin-classifier", "swinv2-classifier", "upernet", "mask2former")
    # transformers' own models around a backbone cannot be pickled: a hook in them is a local function.
    if kind == "copy" or name.endswith("classifier")
]


@pytest.mark.parametrize(("clone", "name"), COPIES)
def test_copies_are_whole_and_independent(clone, name):
    model = trained(name)
    other = clone(model)
    assert type(other) is type(model)
    for key, parameter in other.named_parameters():
        assert torch.equal(parameter, model.get_parameter(key))
    with torch.no_grad():
        expected = model(images())
        assert torch.equal(other(images()).to_tuple()[0], expected.to_tuple()[0])
        for parameter in other.parameters():
            parameter.zero_()
        assert torch.equal(model(images()).to_tuple()[0], expected.to_tuple()[0])
    other.delete_adapter("default")
    assert list(model.peft_config) == ["default"]
