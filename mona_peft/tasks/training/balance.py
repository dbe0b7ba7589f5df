"""Classes that have different numbers of images: weights in the loss, or images drawn more often."""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from datasets import ClassLabel, Dataset
from torch import nn
from torch.nn import functional
from torch.utils.data import Sampler
from transformers.trainer_utils import EvalLoopOutput

from mona_peft.tasks.data.classification import class_counts
from mona_peft.tasks.data.dataset import ImageClassificationDataset
from mona_peft.tasks.training.metrics import best_thresholds
from mona_peft.tasks.training.mixing import Kind, Mixing
from mona_peft.tasks.training.trainer import WholeModelTrainer

Balance = Literal["none", "weights", "sampling"]


class ClassificationLoss:
    """Loss of images with one class, or with several, as `Trainer` takes it for `compute_loss_func`.

    One class: cross entropy, each image weighted by its class. Several: the binary cross entropy of each class, in
    which those images that show a class weigh as much as those that do not.

    Args:
        rows: Training images with their `label`.
        weighted: Whether classes are weighted.
        smoothing: Share of the target that is spread evenly over the classes (over yes and no, where there may be
            several).
    """

    def __init__(self, rows: Dataset, weighted: bool, smoothing: float = 0.0) -> None:
        counts = torch.tensor(class_counts(rows), dtype=torch.float32)
        self.several = not isinstance(rows.features["label"], ClassLabel)
        if self.several:
            weights = ((len(rows) - counts) / counts.clamp(min=1)).clamp(min=1 / len(rows))
        else:
            weights = len(rows) / (counts > 0).sum() / counts.clamp(min=1)
        self.weights = torch.where(counts > 0, weights, 1.0) if weighted else None
        self.smoothing = smoothing

    def __call__(self, outputs: Any, labels: torch.Tensor, num_items_in_batch: object = None) -> torch.Tensor:
        """Returns the loss of logits (B, C) and of labels: (B,) numbers, or (B, C) zeros and ones, or shares."""
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs.logits
        weights = None if self.weights is None else self.weights.to(logits.device, logits.dtype)
        if self.several:
            targets = labels.to(logits.dtype) * (1 - self.smoothing) + self.smoothing / 2
            return functional.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights)
        labels = labels.to(logits.dtype) if labels.ndim == 2 else labels  # shares, where images are mixed
        # The sum of the weights is 1 a batch's image on average; `cross_entropy` would divide by that of the batch.
        losses = functional.cross_entropy(
            logits, labels, weight=weights, reduction="none", label_smoothing=self.smoothing
        )
        return losses.mean()


class BalancedSampler(Sampler[int]):
    """Draws as many images as there are, with replacement, each class (or its rarest, of several) as often as others.

    Args:
        images: Training images; what is drawn follows from their seed and epoch.
    """

    def __init__(self, images: ImageClassificationDataset) -> None:
        self.images = images
        labels, counts = images.rows["label"][:], class_counts(images.rows)
        least = max(counts)
        self.weights = torch.tensor(
            [1 / min((counts[number] for number in _several(label)), default=least) for label in labels],
            dtype=torch.float64,
        )

    def __len__(self) -> int:
        return len(self.weights)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(1_000_003 * self.images.seed + int(self.images.epoch))
        return iter(torch.multinomial(self.weights, len(self), replacement=True, generator=generator).tolist())


class ClassificationTrainer(WholeModelTrainer):
    """`Trainer` of classifiers whose classes are balanced, and which may find several: the model is told so.

    Attributes:
        thresholds: By the names of the classes, the best ones for the validation images, if these were the last that
            were evaluated, and may show several classes.

    Args:
        balance: How.
        mixing: How the images of a batch are mixed.
        keyword arguments: Of `Trainer`.
    """

    def __init__(self, *, balance: Balance = "none", mixing: Kind = "none", **keyword_arguments: Any) -> None:
        images, args = keyword_arguments["train_dataset"], keyword_arguments["args"]
        several = not isinstance(images.rows.features["label"], ClassLabel)
        self.mixing = None if mixing == "none" else Mixing(mixing, len(class_counts(images.rows)))
        if balance == "weights" or self.mixing or (several and args.label_smoothing_factor):
            loss = ClassificationLoss(images.rows, balance == "weights", args.label_smoothing_factor)
            keyword_arguments["compute_loss_func"] = loss
        if several:
            keyword_arguments["model"].config.problem_type = "multi_label_classification"
        super().__init__(**keyword_arguments)
        self.balance = balance

    thresholds: dict[str, float] | None = None

    def evaluation_loop(self, *arguments: Any, **keyword_arguments: Any) -> EvalLoopOutput:
        """Evaluates, and finds the best thresholds where images may show several classes."""
        output = super().evaluation_loop(*arguments, **keyword_arguments)
        labels, self.thresholds = np.asarray(output.label_ids), None
        if labels.ndim == 2 and keyword_arguments.get("metric_key_prefix", "eval") == "eval":
            names = self.eval_dataset.rows.features["label"].feature.names
            self.thresholds = dict(zip(names, best_thresholds(output.predictions, labels), strict=True))
        return output

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *arguments: Any, **more: Any) -> torch.Tensor:
        """Trains on a batch, mixed where that is wanted."""
        if self.mixing is not None:
            inputs = self._prepare_inputs(inputs)
            images, targets = self.mixing(inputs["pixel_values"], inputs["labels"])
            inputs = {**inputs, "pixel_values": images, "labels": targets}
        return super().training_step(model, inputs, *arguments, **more)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        if self.balance == "sampling":
            return BalancedSampler(self.train_dataset.images)
        return super()._get_train_sampler(train_dataset)


def _several(label: int | list[int]) -> list[int]:
    return label if isinstance(label, list) else [label]
