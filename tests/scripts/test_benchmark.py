"""The benchmark: what it measures is what its names say, and its command writes a record and a report of it."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from mona_peft.tasks.comparison.memory import kept_bytes
from scripts.benchmark import gpu
from scripts.benchmark.__main__ import main
from scripts.benchmark.measure import interleaved, multiplications, ratios, training_step
from scripts.benchmark.models import METHODS, SIZES, build, stock_model
from scripts.benchmark.profile_block import main as profile_block
from scripts.benchmark.profile_step import main as profile_step
from scripts.benchmark.report import compiled_table
from scripts.benchmark.report import main as report
from tests.backbones import BACKBONES


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(SIZES, "tiny", {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4]})


@pytest.mark.parametrize("method", METHODS)
def test_methods_share_the_frozen_weights_and_train_their_own(method, tiny):
    base = stock_model("tiny", 64)
    before = {name: parameter.clone() for name, parameter in base.named_parameters()}
    model = build(method, base)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    model(torch.randn(1, 3, 64, 64)).logits.sum().backward()
    assert trained == {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    own = {parameter.data_ptr() for parameter in base.parameters()}
    assert sum(parameter.data_ptr() in own for parameter in model.parameters()) == len(own)
    assert all(torch.equal(parameter, before[name]) for name, parameter in base.named_parameters())


def test_kept_bytes_of_a_known_graph():
    layer = torch.nn.Linear(4, 3)
    x = torch.randn(5, 4)
    model = lambda x: torch.relu(layer(x)).exp()  # noqa: E731
    model.parameters, model.buffers = layer.parameters, list
    assert kept_bytes(model, x) == 4 * (5 * 4 + 2 * 5 * 3)


def test_multiplications_of_a_known_step():
    class Known(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> SimpleNamespace:
            tokens = super().forward(x)
            return SimpleNamespace(logits=F.scaled_dot_product_attention(tokens, tokens, tokens)[0, 0])

    layer = 2 * 5 * 4 * 3  # forward and to its weight
    attention = 7 * 5 * 5 * 3  # scores and sum; backward the scores again and the gradients of four matrices
    x, labels = torch.randn(1, 1, 5, 4), torch.zeros(5, dtype=torch.long)
    assert multiplications(partial(training_step, Known(4, 3), x, labels)) == layer + attention


def test_ratios_are_taken_within_a_round():
    summary = ratios({"a": [1.0, 10.0, 100.0], "b": [2.0, 20.0, 200.0]}, "a")
    assert summary["b"]["low"] == summary["b"]["ratio"] == summary["b"]["high"] == 2


def test_rounds_interleave_and_warm_up():
    calls = []

    class CountingClock:
        def time(self, work):
            work()
            return len(calls)

    work = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    seconds = interleaved(work, CountingClock(), rounds=2, warmup=1)
    assert "".join(calls) in ("abbaab", "baabba")
    assert sorted(seconds["a"] + seconds["b"]) == [3, 4, 5, 6]


def test_kept_bytes_of_swin_tiny():
    """The figures that the documentation promises; they are exact."""
    base = stock_model("swin-tiny", 224)
    pixel_values = torch.randn(2, 3, 224, 224)
    names = ("norm-tuning", "LoRA", "Mona", "Mona, MLP recomputed")
    kept = {name: kept_bytes(build(name, base), pixel_values) for name in names}
    assert kept["Mona"] <= 1.001 * kept["norm-tuning"]  # 0.997 at batch size 4
    assert kept["Mona"] <= 0.91 * kept["LoRA"]
    assert kept["Mona, MLP recomputed"] <= 0.59 * kept["LoRA"]


def test_kept_bytes_of_convnext():
    """Likewise: the depthwise convolution of the next block keeps Mona's output, so this costs nothing."""
    base = stock_model("convnext-tiny", 224)
    kept = {name: kept_bytes(build(name, base), torch.randn(1, 3, 224, 224)) for name in ("norm-tuning", "Mona")}
    assert kept["Mona"] <= 0.93 * kept["norm-tuning"]


@pytest.mark.parametrize("size", ["dinov2-small", "dinov2-base"])
def test_kept_bytes_of_dinov2(size, monkeypatch):
    """Likewise; of four blocks, as all blocks but the first keep the same."""
    monkeypatch.setitem(SIZES[size], "num_hidden_layers", 4)
    base = stock_model(size, 224)
    kept = {
        name: kept_bytes(build(name, base), torch.randn(1, 3, 224, 224)) for name in ("norm-tuning", "LoRA", "Mona")
    }
    assert kept["Mona"] <= 1.01 * kept["norm-tuning"]
    assert kept["Mona"] <= 0.91 * kept["LoRA"]


def test_command(tiny, tmp_path):
    path = tmp_path / "record.json"
    main(
        [
            "--cases",
            "tiny:64:1",
            "--methods",
            "Mona",
            "Mona, formula",
            "--rounds",
            "2",
            "--no_peak",
            "--output",
            str(path),
        ]
    )
    record = json.loads(path.read_text())
    methods = record["cases"]["tiny:64:1"]["methods"]
    assert methods["LoRA"]["step"]["ratio"] == 1
    assert len(methods["Mona"]["step"]["seconds"]) == 2
    assert methods["Mona"]["inference"]["ratio"] > 0
    assert methods["LoRA"]["load"]["ratio"] == 1
    assert len(methods["Mona"]["attach"]["seconds"]) == 2
    assert record["software"]["torch"] == torch.__version__
    assert record["settings"]["threads"] == 1

    page, plot = tmp_path / "page.md", tmp_path / "plot.png"
    marks = ["step", "kept", "compiled", "inference", "peak", "scaling", "attach", "provenance"]
    page.write_text(
        "before\n" + "".join(f"<!-- benchmark: {name} -->\nstale\n<!-- end -->\n" for name in marks) + "after"
    )
    report([str(path), "--page", str(page), "--plot", str(plot)])
    text = page.read_text()
    assert text.startswith("before\n<!-- benchmark: step -->\n| tiny, 64 px, batch size 1 |")
    assert text.endswith("<!-- end -->\nafter")
    assert "stale" not in text
    assert f"torch {torch.__version__}" in text
    assert plot.stat().st_size > 1000


def test_command_of_families(tmp_path, monkeypatch, capsys):
    path = tmp_path / "families.json"
    monkeypatch.setitem(BACKBONES, "vit", replace(BACKBONES["vit"], standard=("tiny", BACKBONES["vit"].make)))
    main(["families", "--names", "vit", "sam3", "--rounds", "2", "--output", str(path)])
    record = json.loads(path.read_text())
    assert record["software"]["torch"] == torch.__version__
    assert record["families"].keys() == {"vit"}
    assert record["families"]["vit"]["LoRA"]["ratio"] == 1
    assert len(record["families"]["vit"]["Mona"]["seconds"]) == 2
    assert "sam3 is too large" in capsys.readouterr().out


def test_command_compiled(tiny, tmp_path):
    path = tmp_path / "record.json"
    main(["--cases", "tiny:64:1", "--methods", "Mona", "--rounds", "2", "--compile", "eager", "--output", str(path)])
    case = json.loads(path.read_text())["cases"]["tiny:64:1"]
    for method in ("LoRA", "Mona"):
        assert case["methods"][method].keys() == {"first_seconds", "kept_bytes", "step"}
    (*_, row) = compiled_table([case]).splitlines()
    assert row.startswith("| tiny, 64 px, batch size 1, compiled |")


def test_profile_of_a_block(tiny, capsys):
    profile_block(["--size", "tiny", "--image_size", "64", "--stage", "2", "--batch_size", "1", "--rounds", "2"])
    printed = capsys.readouterr().out
    assert "Mona: " in printed
    assert "x the block with trained norms" in printed
    assert "aten::mm" in printed


def test_profile_of_a_step(tiny, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("<!-- profile: step -->\n<!-- end -->\n<!-- profile: provenance -->\n<!-- end -->\n")
    profile_step(["--case", "tiny:64:1", "--rounds", "1", "--page", str(page)])
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    shares = {kind: [float(share) for share in figures] for kind, *figures in rows[-10:]}
    assert min(shares["matrix products"] + shares["depthwise filters"]) > 0
    forward, backward, together = shares["together"]
    assert abs(forward + backward - together) < 0.2
    assert "| together |" in page.read_text()
    assert f"torch {torch.__version__}" in page.read_text()


@pytest.mark.parametrize(
    ("there", "status", "words", "exit_status"),
    [
        (True, 0, "passed", 0),
        (True, 1, "FAILED", 1),
        (True, 5, "none ran", 0),
        (False, 1, "Triton is not installed", 0),
    ],
)
def test_what_became_of_the_tests_on_a_gpu(there, status, words, exit_status, monkeypatch):
    monkeypatch.setattr(gpu, "find_spec", lambda name: there or None)
    monkeypatch.setattr(gpu, "subprocess", SimpleNamespace(run=lambda *_, **__: SimpleNamespace(returncode=status)))
    said, code = gpu.run_tests("chosen")
    assert words in said
    assert code == exit_status


@pytest.mark.parametrize("case", ["swin-tiny", "swin-tiny:224", "swin-huge:224:4", "swin-tiny:a:4"])
def test_a_malformed_case_is_refused(case):
    with pytest.raises(SystemExit, match="write SIZE:IMAGE_SIZE:BATCH_SIZE"):
        main(["--cases", case])
