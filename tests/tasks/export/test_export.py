"""The command `export`: files run by onnxruntime and torch give what the model gives, and no other file is left."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import (
    CLIPImageProcessorPil,
    DeformableDetrImageProcessorPil,
    Dinov2Config,
    UperNetConfig,
    ViTImageProcessorPil,
)

import mona_peft
from mona_peft.cli import run as cli
from mona_peft.tasks.export import formats
from mona_peft.tasks.export.images import FixedSize
from mona_peft.tasks.export.program import TensorsOut, export_program
from mona_peft.tasks.export.run import export_model
from mona_peft.tasks.export.verification import verify
from tests.script_runs import run_installed
from tests.trained_runs import KINDS

OUTPUTS = {
    "image-classification": ["logits"],
    "semantic-segmentation": ["logits"],
    "object-detection": ["logits", "pred_boxes"],
    "instance-segmentation": ["class_queries_logits", "masks_queries_logits"],
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number, size in enumerate([(90, 70), (60, 100), (64, 64)]):
        pixels = np.random.default_rng(number).integers(0, 255, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize(size).save(folder / f"{number}.png")
    return folder


def by_description(folder: Path, photos: list[Path]) -> np.ndarray:
    """Images prepared by what `preprocessing.json` says, without transformers."""
    batch = []
    for photo in photos:
        with Image.open(photo) as opened:
            image = opened.convert("RGB")
        for step in json.loads((folder / "preprocessing.json").read_text())["input"]["steps"]:
            ((name, how),) = step.items()
            if name == "resize":
                resample = Image.Resampling[how["resample"].upper()]
                image = np.asarray(image.resize((how["width"], how["height"]), resample), dtype=np.float32)
            elif name == "multiply":
                image = image * how
            elif name == "normalize":
                image = (image - np.float32(how["mean"])) / np.float32(how["std"])
        batch.append(image.transpose(2, 0, 1))
    return np.stack(batch).astype(np.float32)


@pytest.mark.parametrize(
    "task", ["image-classification", *(pytest.param(task, marks=pytest.mark.slow) for task in list(KINDS)[1:])]
)
def test_onnx_as_a_user_types_it(runs, photos, tmp_path, task):
    out = tmp_path / "out"
    command = ["export", str(runs[task]), "--format", "onnx", "--output_dir", str(out)]
    said = run_installed(*command, "--images", str(photos)).stdout
    assert "ms, in PyTorch" in said
    assert "Checked with the given images." in said
    assert sorted(path.name for path in out.iterdir()) == ["model.onnx", "preprocessing.json"]
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == OUTPUTS[task]
    trained = mona_peft.load(runs[task])
    for names in (["0.png"], ["0.png", "1.png", "2.png", "0.png", "1.png"]):  # a batch of a size that was not exported
        images = by_description(out, [photos / name for name in names])
        found = session.run(None, {"pixel_values": images})
        with torch.no_grad():
            outputs = trained.model(pixel_values=torch.from_numpy(images))
        for name, values in zip(OUTPUTS[task], found, strict=True):
            expected = outputs[name].numpy()
            np.testing.assert_allclose(values, expected, atol=1e-4 * max(1, np.abs(expected).max()))
    description = json.loads((out / "preprocessing.json").read_text())
    assert description["labels"] == KINDS[task].labels
    assert [output["name"] for output in description["outputs"]] == OUTPUTS[task]
    assert description["input"]["shape"] == ["batch", 3, 64, 64]
    assert description["verification"]["relative"] < 1e-3


@pytest.mark.parametrize(
    ("task", "format", "precision", "least", "most"),
    [
        ("image-classification", "torch", "fp16", 1e-6, 1e-2),
        ("semantic-segmentation", "torch", "fp32", 0, 1e-5),
        pytest.param("image-classification", "onnx", "fp16", 1e-6, 1e-2, marks=pytest.mark.slow),
        pytest.param("image-classification", "onnx", "int8", 1e-4, 0.1, marks=pytest.mark.slow),
    ],
)
def test_precisions_and_formats(runs, photos, tmp_path, task, format, precision, least, most):
    """Files in less precision differ, a little; they take any number of images, too."""
    command = ["export", str(runs[task]), "--format", format, "--precision", precision]
    assert cli([*command, "--output_dir", str(tmp_path), "--images", str(photos)]) == 0
    images = torch.from_numpy(by_description(tmp_path, sorted(photos.iterdir())))
    (found,) = formats.FORMATS[format].load(tmp_path)(images)
    with torch.no_grad():
        expected = mona_peft.load(runs[task]).model(images).logits.numpy()
    difference = np.abs(found - expected).max() / np.abs(expected).max()
    assert least <= difference <= most
    assert json.loads((tmp_path / "preprocessing.json").read_text())["precision"] == precision


class Copy(formats.TorchProgram):
    """A format that writes a few bytes and runs the model itself, with something added."""

    def __init__(self, error: float) -> None:
        self.error = error

    def write(self, model, example, precision, folder):
        (folder / self.file).write_bytes(b"model")
        self.model = model

    def load(self, folder):
        return lambda images: [output.detach().numpy() + self.error for output in self.model(images)]


def test_files_that_do_not_agree_are_removed(runs, tmp_path, monkeypatch, capsys):
    command = ["export", str(runs["image-classification"]), "--format", "torch", "--output_dir", str(tmp_path / "out")]
    monkeypatch.setitem(formats.FORMATS, "torch", Copy(1.0))
    assert cli(command) == 1
    assert "does not give what the model gives" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    monkeypatch.setitem(formats.FORMATS, "torch", Copy(float("nan")))
    assert cli(command) == 1
    monkeypatch.setitem(formats.FORMATS, "torch", Copy(0.0))
    (tmp_path / "out" / ".unfinished_adapter.x").mkdir(parents=True)  # as a killed one leaves it
    assert cli(command) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["model.pt2", "preprocessing.json"]
    assert cli(command) == 2  # what is there is not written over
    assert "has model.pt2 and preprocessing.json already" in capsys.readouterr().err


def test_what_is_missing_is_said(runs, tmp_path, monkeypatch, capsys):
    command = ["export", str(runs["image-classification"]), "--output_dir", str(tmp_path / "out")]
    assert cli([*command, "--format", "torch", "--precision", "int8"]) == 2
    assert "--format torch knows fp32, fp16" in capsys.readouterr().err
    assert cli([*command, "--images", "nowhere"]) == 2
    assert "nowhere: no such file" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert cli(command) == 2
    assert "onnxruntime. Install it with: pip install" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_patches_must_fill_images(tmp_path):
    """The commands pad the images of plain backbones, as a file can't."""
    config = UperNetConfig(backbone_config=Dinov2Config(patch_size=14, out_features=["stage12"]))
    with pytest.raises(ValueError, match=r"patches are 14 pixels wide.* --image_size 112 98"):
        export_model(
            SimpleNamespace(config=config),
            ViTImageProcessorPil(),
            ["a"],
            "semantic-segmentation",
            tmp_path / "out",
            format="torch",
            image_size=(112, 100),
        )


class Branches(nn.Module):
    """Looks at the numbers of an image to decide what it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": pixel_values.mean((2, 3)) * (self.weight if pixel_values.sum() > 0 else 2)}


def test_what_can_not_be_exported_says_why():
    model = TensorsOut(Branches(), ("logits",))
    with pytest.raises(ValueError, match="Branches can't be exported"):
        export_program(model, torch.rand(2, 3, 4, 4))


def test_queries_may_come_in_another_order():
    generator = torch.Generator().manual_seed(0)
    logits, boxes = torch.randn(2, 10, 4, generator=generator), torch.rand(2, 10, 4, generator=generator)
    order = torch.randperm(10, generator=generator)

    def original(images):
        return [logits[: len(images)].numpy(), boxes[: len(images)].numpy()]

    def shuffled(images):
        return [logits[: len(images), order].numpy(), boxes[: len(images), order].numpy()]

    def moved(images):
        best = logits[0].amax(-1).argmax()
        other = boxes.clone()
        other[0, best, 0] += 0.1
        return [logits[: len(images)].numpy(), other[: len(images)].numpy()]

    images = torch.zeros(2, 3, 4, 4)
    assert verify(("logits", "pred_boxes"), shuffled, original, images, 1e-3).agrees
    found = verify(("logits", "pred_boxes"), moved, original, images, 1e-3)
    assert not found.agrees
    assert found.difference["pred_boxes"] == pytest.approx(0.1, abs=1e-6)


@pytest.mark.parametrize(
    ("processor", "size", "expected"),
    [
        (CLIPImageProcessorPil(), None, (224, 224)),  # resizes the shorter side and cuts out the middle
        (DeformableDetrImageProcessorPil(), (96, 128), (96, 128)),  # gives images several sizes, and fills them up
        (CLIPImageProcessorPil(), (96, 128), (96, 128)),
    ],
)
def test_images_have_one_size(processor, size, expected):
    images = [Image.new("RGB", (300, 200), (200, 0, 0)), Image.new("RGB", (90, 400), (0, 0, 200))]
    prepare = FixedSize(processor, size)
    assert prepare(images).shape == (2, 3, *expected)
    steps = [next(iter(step)) for step in prepare.describe()["steps"]]
    cut = ["center_crop"] if size is None else []
    assert steps == ["decode", "resize", *cut, "multiply", "normalize"]
    if size is None:
        whole = processor(images, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(prepare(images), whole)
    else:  # the whole image, resized
        assert prepare(images).flatten(2).std(-1).max() < 1e-6


def test_images_of_several_sizes_need_one():
    with pytest.raises(ValueError, match="Give --image_size HEIGHT WIDTH"):
        FixedSize(DeformableDetrImageProcessorPil())
