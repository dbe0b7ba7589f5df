"""Evaluation of semantic segmentation: whole images or sliding windows, and metrics from a confusion matrix."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from transformers import EvalPrediction

from mona_peft.tasks.data.segmentation.dataset import IGNORE_INDEX, collate
from mona_peft.tasks.data.segmentation.masks import UNCOUNTED
from mona_peft.tasks.segmentation.inference import Segmenter
from mona_peft.tasks.training.losses import counted_over_processes
from mona_peft.tasks.training.trainer import WholeModelTrainer


def confusion_matrix(truth: torch.Tensor, predicted: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Counts pixels by true and predicted class.

    Args:
        truth: (H, W) classes; `UNCOUNTED` where a pixel does not count.
        predicted: (H, W) classes.
        num_classes: Number of classes.

    Returns:
        (num_classes, num_classes) Number of pixels, true classes in rows.
    """
    counted = truth != UNCOUNTED
    pairs = num_classes * truth[counted] + predicted[counted]
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)


def segmentation_scores(confusion: np.ndarray) -> dict[str, Any]:
    """Returns the metrics of a confusion matrix.

    Args:
        confusion: (C, C) Number of pixels, true classes in rows.

    Returns:
        `mean_iou`, over the classes that occur in truth or prediction; `pixel_accuracy`, the share of pixels whose
        class is right; `iou`, (C,) of each class, NaN where it does not occur.
    """
    hits, total = np.diag(confusion), confusion.sum()
    union = confusion.sum(0) + confusion.sum(1) - hits
    iou = np.full(len(hits), np.nan)
    np.divide(hits, union, out=iou, where=union > 0)
    return {
        "mean_iou": float(np.nanmean(iou)) if total else float("nan"),
        "pixel_accuracy": float(hits.sum() / total) if total else float("nan"),
        "iou": iou,
    }


class SegmentationMetrics:
    """`compute_metrics` for `batch_eval_metrics=True`: adds up the confusion matrices of the batches.

    Args:
        classes: Names of the classes.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = list(classes)
        self.confusion = np.zeros((len(self.classes), len(self.classes)), dtype=np.int64)
        self.class_iou: dict[str, float | None] = {}
        """Of the last evaluation; None for a class that does not occur."""
        self.last_confusion = self.confusion.copy()
        """Of the last evaluation: (C, C) number of pixels, true classes in rows."""

    def __call__(self, prediction: EvalPrediction, compute_result: bool) -> dict[str, float]:
        self.confusion += prediction.predictions.sum(0).cpu().numpy()
        if not compute_result:
            return {}
        scores = segmentation_scores(self.confusion)
        self.last_confusion = self.confusion.copy()
        self.confusion[:] = 0
        iou = scores.pop("iou")
        self.class_iou = {
            name: None if np.isnan(value) else float(value) for name, value in zip(self.classes, iou, strict=True)
        }
        return scores


class SemanticSegmentationTrainer(WholeModelTrainer):
    """`Trainer` whose predictions are confusion matrices, one an image, with the truth at the image's own size.

    Class maps of several sizes could not be gathered from several processes, and would fill the memory; matrices can,
    and an image that is seen twice, so that all processes have as many, is dropped by its matrix.

    Args:
        num_classes: Number of classes.
        eval_mode: As `Segmenter` takes it.
        crop_size: As `Segmenter` takes it.
        keyword arguments: Of `Trainer`; `processing_class` is the image processor of the model.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        eval_mode: Literal["whole", "slide"] = "whole",
        crop_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs["args"].batch_eval_metrics = True  # as `SegmentationMetrics` wants it
        super().__init__(**kwargs)
        self.segmenter = Segmenter(self.processing_class, num_classes, eval_mode, crop_size)

    def get_train_dataloader(self) -> Any:
        """Leaves the last, smaller batch out: batch norm can't be trained on a single image. Evaluation needs all."""
        given, self.args.dataloader_drop_last = self.args.dataloader_drop_last, True
        try:
            return super().get_train_dataloader()
        finally:
            self.args.dataloader_drop_last = given

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """Computes the loss; that of a batch of which no pixel counts is zero, not the mean of nothing."""
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        labels = inputs.get("labels")
        if isinstance(labels, torch.Tensor) and not (labels != IGNORE_INDEX).any():
            loss = torch.nan_to_num(loss)
        return (loss, outputs) if return_outputs else loss

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns the loss, the confusion matrices (B, C, C), and in place of labels the numbers (B,) of the images."""
        inputs = self._prepare_inputs(inputs)
        index, truth = inputs.pop("index"), inputs.pop("truth")
        with self.compute_loss_context_manager(), counted_over_processes():
            loss, class_maps = self.segmenter(model, inputs, [tuple(map_.shape) for map_ in truth])
        num_classes = self.segmenter.num_classes
        matrices = [confusion_matrix(*pair, num_classes) for pair in zip(truth, class_maps, strict=True)]
        if loss is not None and not any((map_ != UNCOUNTED).any() for map_ in truth):
            loss = torch.nan_to_num(loss)  # as in training
        return loss, torch.stack(matrices), index

    def predict_class_map(self, sample: dict[str, torch.Tensor]) -> torch.Tensor:
        """Returns the class map (H, W) that the present model predicts for one of `EvaluationImages`."""
        inputs = self._prepare_inputs(collate([sample]))
        # Without labels: some losses are sums over all processes, which would wait for the others for ever.
        image = {name: inputs[name] for name in ("pixel_values", "pixel_mask") if name in inputs}
        with self.compute_loss_context_manager():
            _, (class_map,) = self.segmenter(self.model.eval(), image, [tuple(inputs["truth"][0].shape)])
        return class_map
