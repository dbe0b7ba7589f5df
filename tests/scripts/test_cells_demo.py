"""The demonstration on solar cells, with a tiny DINOv2 and made-up cells in place of what is downloaded."""

import hashlib
import io
import json
import subprocess
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from peft import get_peft_model
from PIL import Image
from transformers import Dinov2Config, Dinov2ForImageClassification, Dinov2Model

from mona_peft import MonaConfig
from scripts import demo
from scripts.demonstration import cell_inputs, cells_demo, dinov2, solar_cells, wheels
from scripts.demonstration.frozen_prefix import above, tokens_before
from scripts.demonstration.solar_cells import ELPV, SolarCells, load_solar_cells, split, subset

TINY = {"hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 2, "mlp_ratio": 2, "image_size": 56}


@pytest.fixture(scope="module")
def tiny_dinov2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny-dinov2"
    torch.manual_seed(0)
    Dinov2Model(Dinov2Config(**TINY, architectures=["Dinov2Model"])).save_pretrained(folder)
    return folder


@pytest.fixture
def classifier(tiny_dinov2):
    return Dinov2ForImageClassification.from_pretrained(tiny_dinov2, num_labels=2, attn_implementation="eager").eval()


@pytest.fixture
def cells():
    """Returns 96 cells, of both kinds; the defective ones are dark in the middle."""
    random = np.random.default_rng(0)
    images = random.integers(120, 200, (96, 60, 60), dtype=np.uint8)
    thirds = np.tile([0, 0, 1, 2, 3, 3], 16)
    images[thirds > 1, 20:40, 20:40] = 0
    return SolarCells(images, thirds / 3, np.repeat(["mono", "poly"], 48))


def test_split_keeps_the_shares_and_shares_no_cell(cells, monkeypatch):
    monkeypatch.setattr(solar_cells, "NUM_TEST", 24)
    training, test = split(cells)
    assert sorted([*training, *test]) == list(range(96))
    assert (cells.kinds[test] == "mono").sum() == 12
    assert cells.labels[test].sum() == 12
    drawn = subset(cells, training, 36, seed=1)
    assert len(set(drawn)) == 36
    assert set(drawn) <= set(training)
    assert drawn.tolist() != subset(cells, training, 36, seed=2).tolist()


@torch.no_grad()
def test_blocks_above_see_what_the_whole_model_hands_them(classifier):
    pixels = torch.randn(3, 3, 42, 42)
    settings = {"bottleneck_dim": 4, "init_weights": False, "layers_to_transform": [1, 2]}
    adapted = get_peft_model(classifier, MonaConfig(**settings, modules_to_save="task-head")).eval()
    whole = adapted(pixel_values=pixels).logits
    tokens = tokens_before(classifier, 1, pixels, batch_size=2)
    assert tokens.shape == (3, 10, 12)
    adapted(pixel_values=torch.randn(1, 3, 56, 56))  # another grid
    with above(classifier, 1):
        short = adapted(pixel_values=tokens.float()).logits
    assert torch.allclose(short, whole, atol=0.05)  # the tokens are stored in bfloat16
    assert not torch.allclose(short, short.flip(0), atol=0.05)
    assert torch.equal(adapted(pixel_values=pixels).logits, whole)


def test_demonstration_in_small(cells, classifier, tiny_dinov2, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(solar_cells, "NUM_TEST", 24)
    monkeypatch.setattr(cells_demo, "load_solar_cells", lambda: cells)
    monkeypatch.setattr(cell_inputs, "dinov2_small", lambda: tiny_dinov2)
    for module in (cell_inputs, cells_demo):
        monkeypatch.setattr(module, "FIRST_BLOCK", 1)
    demo.main(["--output_dir", str(tmp_path / "demo"), "--max_steps", "2", "--seed", "3"])
    printed = capsys.readouterr().out
    records = json.loads((tmp_path / "demo" / "demo.json").read_text())
    assert cells_demo.results_table(records) in printed
    assert "24 of 24 predictions are the same" in printed
    assert np.sum(records["mona"]["results"]["confusion"]) == 24
    trained = {name: record["parameters"]["trainable"] for name, record in records.items()}
    assert trained["fixed"] == 2 * 24 + 2
    assert trained["fixed"] < trained["full"] < records["full"]["parameters"]["base"]
    for name in ("demo.png", "cells.png"):
        with Image.open(tmp_path / "demo" / name) as picture:
            assert picture.width > 1000


def test_cells_are_read_from_the_checked_wheel_in_the_cache(tmp_path, monkeypatch):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(
            "elpv_dataset/data/labels.csv", "images/a.png  0.3333333333333333  mono\nimages/b.png 1.0 poly\n"
        )
        for name, grey in (("a", 10), ("b", 250)):
            png = io.BytesIO()
            Image.new("L", (300, 300), grey).save(png, "PNG")
            archive.writestr(f"elpv_dataset/data/images/{name}.png", png.getvalue())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    wheel = wheels.cache_folder() / "wheels" / "elpv_dataset-1.0.0.post1-py3-none-any.whl"
    wheel.parent.mkdir(parents=True)
    wheel.write_bytes(file.getvalue())
    with pytest.raises(ValueError, match=r"elpv_dataset-1.* SHA-256 .* Remove it"):
        load_solar_cells()
    monkeypatch.setattr(solar_cells, "ELPV", replace(ELPV, sha256=hashlib.sha256(file.getvalue()).hexdigest()))
    cells = load_solar_cells()
    assert cells.images[:, 0, 0].tolist() == [10, 250]
    assert cells.labels.tolist() == [0, 1]
    assert cells.kinds.tolist() == ["mono", "poly"]


def test_what_cannot_be_downloaded_is_said_with_the_way_without(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    failed = subprocess.CompletedProcess([], 1, stderr="no route to host")
    commands = []
    monkeypatch.setattr(wheels.subprocess, "run", lambda command, **options: commands.append(command) or failed)
    with pytest.raises(OSError, match=r"(?s)elpv-dataset==1.0.0.post1 .*no route to host\s+Without .* DATA=digits"):
        demo.main(["--output_dir", str(tmp_path / "demo")])
    assert commands[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert not (tmp_path / "demo").exists()


def test_weights_come_out_of_an_onnx_graph_under_their_names():
    """The graph has what PyTorch's exporter makes of a linear layer, of a norm and of position embeddings."""
    random = np.random.default_rng(0)
    matrix, positions = (random.normal(size=shape).astype(np.float32) for shape in ((4, 6), (1, 9, 4)))
    arrays = {
        "backbone.encoder.layer.0.mlp.fc1.bias": random.normal(size=6).astype(np.float32),
        "backbone.encoder.layer.0.norm1.weight": random.normal(size=4).astype(np.float32),
        "onnx::MatMul_7": matrix,
        "onnx::Concat_2": positions,
        "onnx::Concat_1": positions[:, :1] + 1,
    }
    nodes = [
        helper.make_node("MatMul", ["x", "onnx::MatMul_7"], ["product"]),
        helper.make_node("Add", ["backbone.encoder.layer.0.mlp.fc1.bias", "product"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    constants = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    weights = dinov2.weights_of(helper.make_graph(nodes, "g", values[:1], values[1:], constants))
    assert torch.equal(weights["encoder.layer.0.mlp.fc1.weight"], torch.from_numpy(matrix.T))
    assert weights["embeddings.position_embeddings"].shape == (1, 10, 4)
    assert torch.equal(weights["embeddings.position_embeddings"][:, 1:], torch.from_numpy(positions))
    assert set(weights) == {
        *("encoder.layer.0.mlp.fc1.weight", "encoder.layer.0.mlp.fc1.bias", "encoder.layer.0.norm1.weight"),
        *("embeddings.position_embeddings", "embeddings.mask_token"),
    }
