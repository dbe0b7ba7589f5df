"""Evaluation of semantic segmentation: whole images or sliding windows, and metrics from a confusion matrix."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from transformers import EvalPrediction
from transformers.modeling_outputs import SemanticSegmenterOutput

from mona_peft.tasks.data.segmentation.dataset import UNCOUNTED, collate
from mona_peft.tasks.training.losses import counted_over_processes
from mona_peft.tasks.training.trainer import WholeModelTrainer

STRIDE = 2 / 3
"""From one window to the next, as a share of the window's side."""


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

    def __call__(self, prediction: EvalPrediction, compute_result: bool) -> dict[str, float]:
        self.confusion += prediction.predictions.sum(0).cpu().numpy()
        if not compute_result:
            return {}
        scores = segmentation_scores(self.confusion)
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
        eval_mode: `whole`: the model sees whole images. `slide`: windows of `crop_size`, whose scores are averaged
            where they overlap; for models that score pixels.
        crop_size: Side of a window in pixels.
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
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.eval_mode = eval_mode
        self.crop_size = crop_size

    def get_train_dataloader(self) -> Any:
        """Leaves the last, smaller batch out: batch norm can't be trained on a single image. Evaluation needs all."""
        given, self.args.dataloader_drop_last = self.args.dataloader_drop_last, True
        try:
            return super().get_train_dataloader()
        finally:
            self.args.dataloader_drop_last = given

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
        loss, class_maps = self.segment(model, inputs, [tuple(map_.shape) for map_ in truth])
        matrices = [confusion_matrix(*pair, self.num_classes) for pair in zip(truth, class_maps, strict=True)]
        return loss, torch.stack(matrices), index

    def predict_class_map(self, sample: dict[str, torch.Tensor]) -> torch.Tensor:
        """Returns the class map (H, W) that the present model predicts for one of `EvaluationImages`."""
        inputs = self._prepare_inputs(collate([sample]))
        # Without labels: some losses are sums over all processes, which would wait for the others for ever.
        image = {name: inputs[name] for name in ("pixel_values", "pixel_mask") if name in inputs}
        _, (class_map,) = self.segment(self.model.eval(), image, [tuple(inputs["truth"][0].shape)])
        return class_map

    @torch.no_grad()
    def segment(
        self, model: nn.Module, inputs: dict[str, Any], sizes: Sequence[tuple[int, int]]
    ) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
        """Predicts class maps.

        Args:
            model: In evaluation mode.
            inputs: Batch as `collate` makes it, on the model's device, with or without labels.
            sizes: (H, W) of each class map.

        Returns:
            The model's loss, averaged over images or windows, None without labels, and the class maps.
        """
        even = isinstance(inputs["pixel_values"], torch.Tensor)
        if even and self.eval_mode == "whole":
            batches = [inputs]
        else:
            batches = [collate([{name: values[i] for name, values in inputs.items()}]) for i in range(len(sizes))]
        losses, class_maps = [], []
        for batch in batches:
            with self.compute_loss_context_manager(), counted_over_processes():
                outputs = model(**batch) if self.eval_mode == "whole" else self._slide(model, batch)
            losses.append(outputs.loss)
            some = sizes[len(class_maps) : len(class_maps) + len(batch["pixel_values"])]
            class_maps += self.processing_class.post_process_semantic_segmentation(outputs, list(some))
        return _mean(losses), class_maps

    def _slide(self, model: nn.Module, batch: dict[str, torch.Tensor]) -> SemanticSegmenterOutput:
        height, width = batch["pixel_values"].shape[-2:]
        logits = batch["pixel_values"].new_zeros(1, self.num_classes, height, width)
        counts, losses = torch.zeros_like(logits[:, :1]), []
        for rows, columns in windows(height, width, self.crop_size):
            outputs = model(**{name: values[..., rows, columns] for name, values in batch.items()})
            size = batch["pixel_values"][..., rows, columns].shape[-2:]
            scores = nn.functional.interpolate(outputs.logits.float(), size, mode="bilinear", align_corners=False)
            logits[..., rows, columns] += scores
            counts[..., rows, columns] += 1
            losses.append(outputs.loss)
        return SemanticSegmenterOutput(loss=_mean(losses), logits=logits / counts)


def _mean(losses: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    """Returns the mean of those that are numbers; None where there are no labels."""
    return None if None in losses else torch.stack(losses).float().nanmean()


def windows(height: int, width: int, side: int) -> Iterator[tuple[slice, slice]]:
    """Yields the rows and columns of windows of `side` pixels that cover an image; the last ones end at its edges."""
    stride = max(1, int(side * STRIDE))
    for top in _starts(height, side, stride):
        for left in _starts(width, side, stride):
            yield slice(top, min(top + side, height)), slice(left, min(left + side, width))


def _starts(length: int, side: int, stride: int) -> list[int]:
    last = max(0, length - side)
    return [*range(0, last, stride), last]
