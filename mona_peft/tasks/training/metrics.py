"""Metrics as `evaluate` modules that are defined here, so that none has to be fetched from the hub."""

from collections.abc import Callable

import datasets
import evaluate
import numpy as np
from numpy.typing import ArrayLike
from transformers import EvalPrediction


class TopKAccuracy(evaluate.Metric):
    """Share of images whose true class is among the k classes of highest score.

    Args:
        k: Number of classes that count as an answer.
        keyword arguments: As every `evaluate.Metric` takes them.
    """

    def __init__(self, k: int = 1, **kwargs) -> None:
        self.k = k
        super().__init__(config_name=f"top{k}", **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=f"Share of images whose true class is among the {self.k} classes of highest score.",
            citation="",
            inputs_description="predictions: scores (B, num_classes); references: class numbers (B,).",
            features=datasets.Features(
                {"predictions": datasets.List(datasets.Value("float32")), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions: ArrayLike, references: ArrayLike) -> dict[str, float]:
        # Of equal scores the lower class number comes first, so that equal scores for all classes are no right answer.
        ranking = np.argsort(-np.asarray(predictions), axis=-1, kind="stable")
        hits = (ranking[:, : self.k] == np.asarray(references)[:, None]).any(axis=-1)
        return {f"top{self.k}": float(hits.mean())}


def classification_metrics(num_classes: int) -> Callable[[EvalPrediction], dict[str, float]]:
    """Returns `Trainer`'s `compute_metrics`: `top1`, and `top5` where it says anything (more than five classes)."""
    metrics = [TopKAccuracy(k, keep_in_memory=True) for k in (1, 5) if k < num_classes]
    combined = evaluate.combine(metrics)

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        return combined.compute(predictions=prediction.predictions, references=prediction.label_ids)

    return compute


def multi_label_metrics(threshold: float = 0.5) -> Callable[[EvalPrediction], dict[str, float]]:
    """Returns `Trainer`'s `compute_metrics` for images that may show several classes.

    Args:
        threshold: From this probability on, a class counts as found. (Those of `best_thresholds` would flatter the
            images that they were chosen on.)

    Returns:
        `map`, the mean over classes of average precision; `f1_macro`, the mean over classes of F1; `f1_micro`, F1 of
        all pairs of image and class. Classes that no image shows do not count.
    """

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        from sklearn.metrics import average_precision_score, f1_score

        truth = np.asarray(prediction.label_ids) > 0.5
        logits = np.asarray(prediction.predictions, dtype=np.float64)
        shown = truth.any(0)
        if not shown.any():
            return {}
        found = logits >= np.log(threshold / (1 - threshold))
        return {
            "map": float(average_precision_score(truth[:, shown], logits[:, shown], average="macro")),
            "f1_macro": float(f1_score(truth[:, shown], found[:, shown], average="macro", zero_division=0)),
            "f1_micro": float(f1_score(truth, found, average="micro", zero_division=0)),
        }

    return compute


def best_thresholds(logits: ArrayLike, truth: ArrayLike) -> list[float]:
    """Returns the probability from which on each class is best taken for found: where its F1 is greatest.

    It lies in the middle between the score that decides and the next one below.

    Args:
        logits: (N, C) scores of images.
        truth: (N, C) zeros and ones.

    Returns:
        C numbers between 0 and 1; 0.5 for a class that all images show, or none.
    """
    from sklearn.metrics import precision_recall_curve

    scores = 1 / (1 + np.exp(-np.asarray(logits, dtype=np.float64)))
    chosen = []
    for score, shown in zip(scores.T, np.asarray(truth).T > 0.5, strict=True):
        if shown.all() or not shown.any():
            chosen.append(0.5)
            continue
        precision, recall, thresholds = precision_recall_curve(shown, score)
        best = int(np.argmax(precision[:-1] * recall[:-1] / np.maximum(precision[:-1] + recall[:-1], 1e-12)))
        below = score[score < thresholds[best]].max(initial=0.0)
        chosen.append(float((thresholds[best] + below) / 2))
    return chosen
