"""Images that are mixed two by two: their classes are mixed by the same shares, and the loss follows."""

import json
from types import SimpleNamespace

import pytest
import torch
from datasets import ClassLabel, Dataset, Features

from mona_peft.cli import run as command
from mona_peft.tasks.training.balance import ClassificationLoss
from mona_peft.tasks.training.mixing import Mixing
from tests.tiny_runs import arguments

CLASSES = 6


@pytest.mark.parametrize("kind", ["mixup", "cutmix", "both"])
@pytest.mark.parametrize("several", [False, True])
def test_classes_are_mixed_as_their_images_are(kind, several):
    """Every image has the number of its class for pixels, so that the mean of a mixed one tells what is in it."""
    labels = torch.arange(CLASSES)
    images = labels.float().view(-1, 1, 1, 1).expand(-1, 3, 20, 30)
    shown = torch.nn.functional.one_hot(labels, CLASSES) if several else labels
    shares = set()
    for _ in range(30):
        mixed, targets = Mixing(kind, CLASSES)(images, shown)
        torch.testing.assert_close(mixed.mean((1, 2, 3)), targets @ labels.float(), atol=1e-4, rtol=0)
        torch.testing.assert_close(targets.sum(1), torch.ones(CLASSES))
        shares.add(round(targets.max(1).values.min().item(), 4))
    assert len(shares) > 10
    torch.testing.assert_close(images.mean((1, 2, 3)), labels.float())  # what was given is as it was


def test_what_is_mixed_follows_from_torchs_generator():
    images, labels = torch.randn(4, 3, 8, 8), torch.arange(4)
    first, second = (torch.manual_seed(3) and Mixing("both", 4)(images, labels) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighted", [False, True])
def test_loss_of_mixed_classes_is_the_mixed_loss(weighted, smoothing):
    rows = Dataset.from_dict({"label": [0, 0, 1]}, features=Features({"label": ClassLabel(names=["a", "b"])}))
    loss = ClassificationLoss(rows, weighted, smoothing)
    outputs = SimpleNamespace(logits=torch.randn(1, 2))
    of_class = [loss(outputs, torch.tensor([number])) for number in (0, 1)]
    mixed = loss(outputs, torch.tensor([[0.3, 0.7]]))
    torch.testing.assert_close(mixed, 0.3 * of_class[0] + 0.7 * of_class[1])


def history(folder, *options: str) -> list[float]:
    argv = ["train", "image-classification", *arguments("image-classification"), "--output_dir", str(folder)]
    assert command([*argv, "--logging_steps", "1", *options]) == 0
    logged = json.loads((folder / "metrics.json").read_text())["history"]
    return [entry["loss"] for entry in logged if "loss" in entry]


def test_strong_augmentation_mixes_unless_it_is_told_not_to(tmp_path):
    strong = ("--augmentation", "strong")
    assert history(tmp_path / "mixed", *strong) != history(tmp_path / "alone", *strong, "--mixing", "none")
