"""The embedded default: what is drawn, what the backbone is, and the demonstration itself in small."""

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from sklearn.datasets import load_digits
from transformers import AutoModelForImageClassification

from scripts import demo
from scripts.demonstration import digits_demo, pretrain_backbone, pretraining
from scripts.demonstration.digits import SCANS, digit_stencil, handwritten_digits
from scripts.demonstration.overlay import Variation, overlay
from scripts.demonstration.photographs import PHOTOGRAPHS, photographs, random_background
from scripts.demonstration.symbols import CLASSES, FONTS, PrintedSymbols, symbol_stencil
from scripts.train_image_classification import DEMONSTRATION_BACKBONE, parse

BACKBONE = Path(DEMONSTRATION_BACKBONE)
each_backbone = pytest.mark.parametrize(
    ("backbone", "num_parameters"),
    [(BACKBONE, 2_702_932), (Path(pretraining.BACKBONE), 688_900)],
    ids=["wide", "narrow"],
)
PLAIN = Variation(size=(0.5, 0.5), angle=0, shear=0, stretch=1, contrast=60, opacity=1)


def test_groups_share_no_photograph_and_no_scan():
    names = [name for group in PHOTOGRAPHS.values() for name in group]
    assert len(names) == len(set(names))
    scans = [scan for split in SCANS.values() for scan in split]
    assert sorted(scans) == list(range(len(load_digits().target)))
    assert all(min(image.size) >= 96 for group in PHOTOGRAPHS for image in photographs(group))


def test_backbone_knows_no_digits():
    assert len(set(CLASSES)) == len(CLASSES) > 100
    assert not [character for character in CLASSES if unicodedata.numeric(character, None) is not None]


@pytest.mark.parametrize("font", FONTS)
def test_every_character_of_a_font_is_drawn_and_differs_from_the_others(font):
    stencils = {character: symbol_stencil(character, font) for character in FONTS[font]}
    drawn = {(stencil.size, stencil.tobytes()) for stencil in stencils.values()}
    assert len(drawn) == len(stencils)
    assert all(stencil.getextrema()[1] > 200 for stencil in stencils.values())


def test_overlay_changes_only_where_the_shape_is():
    background = random_background("test", 64, np.random.default_rng(0))
    picture, shape = overlay(background, Image.new("L", (30, 60), 255), PLAIN, np.random.default_rng(1))
    changed = (np.asarray(picture) != np.asarray(background)).any(-1)
    rows, columns = np.nonzero(changed)
    # A bar of 16 x 32 pixels, filled to its corners.
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (32, 16)
    assert changed.sum() == 32 * 16
    assert ((shape == 255) == changed).all()
    colours = np.asarray(picture)[changed]
    assert (colours == colours[0]).all()
    grey = np.asarray(background.convert("L"))[changed].mean()
    assert abs(colours[0] @ (0.299, 0.587, 0.114) - grey) >= 59


def test_varied_shapes_stay_inside_and_keep_their_size():
    variation = Variation(size=(0.3, 0.9), angle=25, shear=0.3, stretch=1.5, contrast=30, opacity=1)
    black = Image.new("RGB", (64, 64))
    for number in range(50):
        random = np.random.default_rng(number)
        picture, _ = overlay(black, digit_stencil(load_digits().images[number]), variation, random)
        rows, columns = np.nonzero(np.asarray(picture).max(-1) > 4)
        longer = max(np.ptp(rows), np.ptp(columns)) + 1
        assert 0.3 * 64 - 3 <= longer <= 0.9 * 64 + 1


def test_pictures_follow_from_seed_and_number():
    symbols = PrintedSymbols(64, seed=3)
    (first, label), (again, same_label) = symbols.picture(5), PrintedSymbols(64, seed=3).picture(5)
    assert (first.tobytes(), label) == (again.tobytes(), same_label)
    assert first.tobytes() != symbols.picture(6)[0].tobytes()
    assert first.tobytes() != PrintedSymbols(64, seed=4).picture(5)[0].tobytes()


def test_digits_are_the_same_every_time_and_labelled_right():
    digits, again = handwritten_digits(), handwritten_digits.__wrapped__()
    assert {split: len(rows) for split, rows in digits.items()} == {"train": 1000, "validation": 297, "test": 500}
    for split, scans in SCANS.items():
        assert digits[split]["label"][:] == load_digits().target[scans].tolist()
        assert digits[split][7]["image"].tobytes() == again[split][7]["image"].tobytes()
        assert digits[split][7]["image"].size == (64, 64)


@each_backbone
def test_backbone_is_small_stored_in_half_and_loaded_in_full_precision(backbone, num_parameters):
    weights = backbone / "model.safetensors"
    assert weights.stat().st_size <= 6_000_000
    with safe_open(weights, framework="pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} <= {"F16", "I64"}  # noqa: SIM118
    model = AutoModelForImageClassification.from_pretrained(backbone)
    assert model.dtype == torch.float32
    assert model.num_parameters() == num_parameters
    assert f"{num_parameters:,} parameters" in (backbone / "README.md").read_text()
    assert tuple(model.config.id2label.values()) == CLASSES


@torch.no_grad()
@each_backbone
def test_backbone_is_as_good_as_its_card_says(backbone, num_parameters):
    record = json.loads((backbone / "training.json").read_text())
    accuracy = record["results"]["top1"]
    assert f"{accuracy:.2%}" in (backbone / "README.md").read_text()
    processor = pretrain_backbone.ViTImageProcessorPil.from_pretrained(backbone)
    pictures = pretrain_backbone.SymbolDataset(PrintedSymbols(64, record["seed"] + 1), 400, processor)
    pixel_values = torch.stack([pictures[number]["pixel_values"] for number in range(400)])
    labels = torch.tensor([pictures[number]["labels"] for number in range(400)])
    model = AutoModelForImageClassification.from_pretrained(backbone).eval()
    hits = (model(pixel_values).logits.argmax(-1) == labels).float().mean().item()
    # Of 400 pictures one sees the accuracy of all but for chance.
    assert abs(hits - accuracy) < 4 * (accuracy * (1 - accuracy) / 400) ** 0.5


def test_pretraining_writes_a_model_that_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain_backbone, "NUM_EVALUATION_PICTURES", 8)
    arguments = [
        *("--max_steps", "4", "--per_device_train_batch_size", "4", "--warmup_steps", "1", "--save_steps", "2"),
        *("--dataloader_num_workers", "0", "--bf16", "false", "--eval_strategy", "no", "--disable_tqdm", "true"),
        *("--save_total_limit", "5", "--use_cpu"),
    ]
    pretrain_backbone.main([*arguments, "--output_dir", str(tmp_path / "straight")])
    # As if it had been interrupted after the second step: whole models restore every weight.
    (tmp_path / "resumed").mkdir()
    (tmp_path / "straight" / "checkpoint-2").rename(tmp_path / "resumed" / "checkpoint-2")
    pretrain_backbone.main([*arguments, "--output_dir", str(tmp_path / "resumed"), "--resume_from_checkpoint", "last"])
    straight, resumed = (tmp_path / name / "backbone" / "model.safetensors" for name in ("straight", "resumed"))
    assert straight.read_bytes() == resumed.read_bytes()
    first = tmp_path / "resumed" / "checkpoint-2" / "model.safetensors"
    assert first.read_bytes() != (tmp_path / "resumed" / "checkpoint-4" / "model.safetensors").read_bytes()


def test_default_arguments_are_the_digits_preset():
    model_args, data_args, method_args, _ = parse(["--use_cpu"])
    assert Path(model_args.model_name_or_path) == BACKBONE
    assert data_args.dataset is None
    assert method_args.bottleneck_dim == 16


def test_demonstration_in_small(tmp_path, capsys):
    output_dir = tmp_path / "demo"
    arguments = ["--data", "digits", "--output_dir", str(output_dir), "--max_steps", "2"]
    arguments += ["--eval_strategy", "no", "--use_cpu", "--model", pretraining.BACKBONE, "--bottleneck_dim", "4"]
    demo.main(arguments)
    printed = capsys.readouterr().out
    records = json.loads((output_dir / "demo.json").read_text())
    assert digits_demo.results_table(records) in printed
    assert "500 of 500 predictions are the same" in printed
    assert records["fixed"]["parameters"]["adapter"] == 0
    assert 0 < records["mona"]["parameters"]["trainable_share"] < 0.06
    with Image.open(output_dir / "demo.png") as picture:
        assert picture.width > 1000
    # Once more over its own outputs, but not over somebody else's.
    (output_dir / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"--dataset: the demonstration is about its own"):
        demo.main(["--data", "digits", "--dataset", "mine"])
    with pytest.raises(ValueError, match=r"holds thesis.tex, which no demonstration wrote"):
        demo.main(arguments)
    assert (output_dir / "thesis.tex").read_text() == "years of work"
    assert (output_dir / "mona" / "metrics.json").is_file()
