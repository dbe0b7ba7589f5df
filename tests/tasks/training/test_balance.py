"""Classes that have different numbers of images."""

from types import SimpleNamespace

import torch
from datasets import ClassLabel, Dataset, Features, List

from mona_peft.tasks.training.balance import BalancedSampler, ClassificationLoss


def rows(labels, several=False) -> Dataset:
    kind = ClassLabel(names=["a", "b"])
    return Dataset.from_dict({"label": labels}, features=Features({"label": List(kind) if several else kind}))


def test_weighted_loss_is_that_of_an_even_set():
    logits, labels = torch.randn(4, 2), torch.tensor([0, 0, 0, 1])
    loss = ClassificationLoss(rows(labels.tolist()), weighted=True)(SimpleNamespace(logits=logits), labels)
    each = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(loss, (each[:3].mean() + each[3]) / 2)


def test_weighted_loss_of_several_classes_counts_yes_and_no_alike():
    logits, labels = torch.zeros(4, 2), torch.tensor([[1.0, 1], [0, 1], [0, 1], [0, 0]])
    loss = ClassificationLoss(rows([[0, 1], [1], [1], []], several=True), weighted=True)
    logits.requires_grad_()
    loss(SimpleNamespace(logits=logits), labels).backward()
    torch.testing.assert_close(logits.grad.sum(0), torch.zeros(2))  # neither answer is preferred at the start


def test_rare_images_are_drawn_as_often_and_anew_each_epoch():
    images = SimpleNamespace(rows=rows([0] * 90 + [1] * 10), seed=0, epoch=torch.tensor(0))
    sampler = BalancedSampler(images)
    first, again = list(sampler), list(sampler)
    assert first == again
    assert 30 < sum(number >= 90 for number in first) < 70
    images.epoch.fill_(1)
    assert list(sampler) != first
