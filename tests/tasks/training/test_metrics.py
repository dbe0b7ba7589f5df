"""Metrics compared with cases computed by hand."""

import numpy as np
import pytest
from transformers import EvalPrediction

from mona_peft.tasks.training.metrics import TopKAccuracy, classification_metrics

SCORES = np.array(
    [
        [0.1, 0.9, 0.3, 0.2],  # ranking 1 2 3 0
        [0.8, 0.1, 0.7, 0.6],  # ranking 0 2 3 1
        [0.0, 0.0, 0.0, 0.0],  # equal scores: ranking 0 1 2 3
    ],
    dtype=np.float32,
)


@pytest.mark.parametrize(
    ("k", "labels", "expected"),
    [
        (1, [1, 2, 3], 1 / 3),
        (2, [2, 2, 1], 3 / 3),
        (2, [0, 1, 2], 0 / 3),
        (3, [3, 3, 3], 2 / 3),
    ],
)
def test_top_k_accuracy(k, labels, expected):
    metric = TopKAccuracy(k, keep_in_memory=True)
    assert metric.compute(predictions=SCORES, references=labels) == {f"top{k}": pytest.approx(expected)}


def test_top_k_accuracy_over_several_batches():
    metric = TopKAccuracy(1, keep_in_memory=True)
    metric.add_batch(predictions=SCORES[:2], references=[1, 2])
    metric.add_batch(predictions=SCORES[2:], references=[0])
    assert metric.compute() == {"top1": pytest.approx(2 / 3)}


@pytest.mark.parametrize(("num_classes", "names"), [(2, {"top1"}), (5, {"top1"}), (6, {"top1", "top5"})])
def test_top5_is_left_out_where_it_says_nothing(num_classes, names):
    prediction = EvalPrediction(np.eye(num_classes, dtype=np.float32), np.arange(num_classes))
    assert classification_metrics(num_classes)(prediction) == dict.fromkeys(names, 1.0)
