"""Distillation: crops, tokens that fit them, the pictures of a package, and the whole in small."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModel, Dinov2Config, Dinov2Model

from scripts.demonstration import distill, probing, wallpapers
from scripts.demonstration.cell_inputs import classifier, pixel_values
from scripts.demonstration.distill import Crops, Distillation, TaughtCrops

SIZE = distill.TEACHER_SIZE // 14


@pytest.fixture
def pictures():
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 255, (150, 200 + 10 * number, 3), np.uint8)) for number in range(3)]


@pytest.fixture
def tiny_teacher(tmp_path, monkeypatch):
    torch.manual_seed(0)
    settings = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_ratio": 2, "image_size": 56}
    Dinov2Model(Dinov2Config(**settings)).save_pretrained(tmp_path / "teacher")
    monkeypatch.setattr(distill, "dinov2_small", lambda: tmp_path / "teacher")


def test_a_crop_is_the_same_at_all_sizes_and_times(pictures):
    crops = Crops(pictures, seed=1)
    small, large = crops.crop(5, 32), crops.crop(5, 64)
    assert torch.equal(small, Crops(pictures, seed=1).crop(5, 32))
    assert torch.allclose(torch.nn.functional.avg_pool2d(large, 2), small, atol=0.35)
    assert not torch.allclose(small, crops.crop(6, 32), atol=0.35)


def test_a_mirrored_crop_has_mirrored_tokens(pictures):
    """The tokens are made to say the mean of their patch, so that crop and tokens can be compared."""
    crops, number = Crops(pictures, seed=1), 2
    means = [torch.nn.functional.avg_pool2d(crops.crop(one, 112), 14).mean(0).flatten() for one in range(number)]
    tokens = torch.stack([torch.cat([mean.mean()[None], mean])[:, None] for mean in means]).half()
    found = set()
    for row in (TaughtCrops(crops, tokens, 16, seed=0)[index] for index in range(16)):
        seen = torch.nn.functional.avg_pool2d(row["pixel_values"], 16).mean(0)
        assert torch.allclose(seen, row["patch_tokens"][..., 0], atol=0.15)
        found.add((round(float(row["class_token"]), 3), round(float(row["patch_tokens"][0, 0]), 3)))
    assert len(found) == 4  # two crops, each as it is and mirrored


def test_the_loss_falls_when_the_student_says_what_the_teacher_does(pictures):
    torch.manual_seed(0)
    model = Distillation(distill.build_student(), 3)
    batch = {"pixel_values": torch.randn(2, 3, 128, 128), "class_token": torch.randn(2, 3)}
    batch["patch_tokens"] = torch.randn(2, SIZE, SIZE, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        losses.append(model(**batch)["loss"])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_distillation_in_small(pictures, tiny_teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(distill, "wallpapers", lambda: pictures)
    monkeypatch.setattr(probing, "SETS", dict.fromkeys(("cells", "digits", "plain_digits"), two_classes))
    arguments = ["--num_crops", "4", "--max_steps", "2", "--per_device_train_batch_size", "2", "--warmup_steps", "1"]
    arguments += ["--use_cpu", "--bf16", "false", "--dataloader_num_workers", "0", "--disable_tqdm", "true"]
    distill.main([*arguments, "--output_dir", str(tmp_path / "out")])
    folder = tmp_path / "out" / "distilled"
    weights = load_file(folder / "model.safetensors")
    assert {weight.dtype for weight in weights.values() if weight.is_floating_point()} == {torch.float16}
    assert sum(file.stat().st_size for file in folder.iterdir()) < 6_000_000
    student = AutoModel.from_pretrained(folder)
    assert student(torch.zeros(1, 3, 128, 128)).pooler_output.shape == (1, 256)
    results = json.loads((folder / "training.json").read_text())["results"]
    assert results["student_cells_linear"] == 1  # black and white
    card = (folder / "README.md").read_text()
    assert "4 crops of 10 pictures" in " ".join(card.split())
    assert "{" not in card
    (tokens,) = (load_file(file)["tokens"] for file in tmp_path.glob("out-teacher-*.safetensors"))
    assert tokens.shape == (4, 1 + SIZE * SIZE, 12)
    assert tokens[:, 1:].float().std((0, 1)) == pytest.approx(1, abs=0.05)


def two_classes(size):
    images = torch.cat([torch.zeros(20, 3, size, size), torch.ones(20, 3, size, size)])
    return [(images + 0.01 * torch.randn(images.shape), np.repeat([0, 1], 20)) for _ in range(2)]


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="packages of Debian are read by its own tool")
def test_pictures_of_a_package_are_read_and_icons_are_not(pictures, tmp_path):
    folder = tmp_path / "package"
    (folder / "DEBIAN").mkdir(parents=True)
    (folder / "DEBIAN" / "control").write_text(
        "Package: some\nVersion: 1\nArchitecture: all\nMaintainer: A <a@b.c>\nDescription: d\n"
    )
    pictures[0].resize((2000, 1000)).save(folder / "large.jpg")
    pictures[1].resize((64, 64)).save(folder / "icon.png")
    (folder / "broken.jpg").write_text("no picture")
    subprocess.run(["dpkg-deb", "--build", folder, tmp_path / "some.deb"], check=True, capture_output=True)
    (found,) = wallpapers.pictures_in(tmp_path / "some.deb")
    assert found.size == (1024, 512)


@torch.no_grad()
def test_the_stored_swin_knows_images_apart():
    folder = Path(distill.__file__).parent / "distilled"
    assert sum(file.stat().st_size for file in folder.iterdir()) < 6_000_000
    results = json.loads((folder / "training.json").read_text())["results"]
    assert results["student_cells_linear"] > results["letters_cells_linear"] + 0.03  # why it is stored
    model = classifier(backbone="swin").eval()
    black, white = pixel_values(np.stack([np.zeros((60, 60)), np.full((60, 60), 255)]).astype(np.uint8), 128)
    features = model.swin(torch.stack([black, white])).pooler_output
    assert torch.nn.functional.cosine_similarity(*features, dim=0) < 0.9
    assert features.dtype == torch.float32
