"""COCO's average precision of boxes and masks, by faster-coco-eval, and a `Trainer` that evaluates with it."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import datasets
import numpy as np
import torch
from accelerate.utils import gather_object
from faster_coco_eval import COCO, COCOeval_faster
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import BaseImageProcessor
from transformers.trainer_utils import EvalLoopOutput

from mona_peft.tasks.objects.detections import Detections, find_boxes, find_masks
from mona_peft.tasks.training.trainer import WholeModelTrainer

MAX_DETECTIONS = 100
"""Detections of an image that count, those of highest score: COCO's convention."""

AVERAGE_PRECISIONS = {
    "ap": "AP_all",
    "ap50": "AP_50",
    "ap75": "AP_75",
    "ap_small": "AP_small",
    "ap_medium": "AP_medium",
    "ap_large": "AP_large",
}
"""Our names of the numbers, and those of faster-coco-eval."""

BOXES = {"box": "bbox"}
BOXES_AND_MASKS = {"box": "bbox", "mask": "segm"}
"""What is compared: COCO's names, by the prefixes of our metrics."""


def average_precisions(
    rows: datasets.Dataset, detections: Detections, kinds: Mapping[str, str] = BOXES
) -> dict[str, float]:
    """Compares detections with the annotation of all images of a dataset.

    Args:
        rows: The dataset in the form of `data.objects.loading`.
        detections: What was found.
        kinds: Which metrics: COCO's name of what is compared (`bbox`, `segm`), by the prefix of our names.

    Returns:
        `box_ap` (mean over intersections over union from 0.5 to 0.95), `box_ap50`, `box_ap75`, and `box_ap_small` (of
        objects below 32 × 32 pixels), `box_ap_medium` and `box_ap_large` (from 96 × 96 on), and so on, from 0 to 1. A
        number that has no meaning, as there are no objects of that size, is left out.
    """
    return precision_numbers(evaluate_objects(rows, detections, kinds))


def evaluate_objects(
    rows: datasets.Dataset, detections: Detections, kinds: Mapping[str, str] = BOXES
) -> dict[str, COCOeval_faster]:
    """Compares detections with the annotation, as `average_precisions` does; returns COCO's evaluations by prefix."""
    truth = COCO(_annotation(rows))
    evaluations = {}
    for prefix, kind in kinds.items():
        # From a box in an entry the area would be taken, also where masks are compared.
        field = "segmentation" if kind == "segm" else "bbox"
        entries = [
            {"image_id": image_id, "category_id": entry["category_id"], "score": entry["score"], field: entry[field]}
            for image_id, found in detections.items()
            for entry in sorted(found, key=lambda entry: -entry["score"])[:MAX_DETECTIONS]
        ]
        evaluations[prefix] = COCOeval_faster(truth, truth.loadRes(entries), kind, extra_calc=False)
        evaluations[prefix].run()
    return evaluations


def precision_numbers(evaluations: Mapping[str, COCOeval_faster]) -> dict[str, float]:
    """Returns the numbers of `average_precisions`."""
    return {
        f"{prefix}_{name}": float(evaluation.stats_as_dict[theirs])
        for prefix, evaluation in evaluations.items()
        for name, theirs in AVERAGE_PRECISIONS.items()
        if evaluation.stats_as_dict[theirs] >= 0
    }


def class_precisions(evaluation: COCOeval_faster) -> list[list[float | int | None]]:
    """Returns the numbers of each class.

    Returns:
        Per class: number of objects, AP, AP50, AP75, AP of small, medium and large objects; None where there is no
        such object.
    """
    precision = _precision(evaluation)
    counts = Counter(entry["category_id"] for entry in evaluation.cocoGt.dataset["annotations"] if not entry["iscrowd"])
    rows: list[list[float | int | None]] = []
    for number, category in enumerate(evaluation.params.catIds):
        of_class = precision[:, :, number]  # (overlaps, recalls, sizes)
        parts = [of_class[..., 0], of_class[0, :, 0], of_class[5, :, 0], *(of_class[..., size] for size in (1, 2, 3))]
        known = [part[part >= 0] for part in parts]
        rows.append([counts[category], *(float(part.mean()) if part.size else None for part in known)])
    return rows


def precision_recall(evaluation: COCOeval_faster) -> tuple[np.ndarray, np.ndarray]:
    """Returns recalls, (R,), and the precision of each class there at an overlap of 0.5, (classes, R); -1: unknown."""
    return np.asarray(evaluation.params.recThrs), _precision(evaluation)[0, :, :, 0].T


def _precision(evaluation: COCOeval_faster) -> np.ndarray:
    """Returns (overlaps, recalls, classes, sizes) precisions, with as many detections as count."""
    params = evaluation.params
    shape = (len(params.iouThrs), len(params.recThrs), len(params.catIds), len(params.areaRng), len(params.maxDets))
    return np.asarray(evaluation.eval["precision"]).reshape(shape)[..., -1]


def _annotation(rows: datasets.Dataset) -> dict[str, list[dict[str, Any]]]:
    """Returns a dataset as the content of a file of COCO instances."""
    rows = rows.select_columns(["image_id", "width", "height", "objects"])
    names = rows.features["objects"]["category"].feature.names
    annotations = []
    for row in rows:
        objects = row["objects"]
        for number, box in enumerate(objects["bbox"]):
            entry = {
                "id": len(annotations) + 1,  # the evaluator takes 0 for none
                "image_id": row["image_id"],
                "bbox": box,
                "category_id": objects["category"][number],
                "area": objects["area"][number],
                "iscrowd": int(objects["iscrowd"][number]),
            }
            if "mask" in objects:
                size = [row["height"], row["width"]]
                entry["segmentation"] = {"size": size, "counts": objects["mask"][number].encode()}
            annotations.append(entry)
    return {
        "images": [{"id": row["image_id"], "width": row["width"], "height": row["height"]} for row in rows],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in enumerate(names)],
    }


def box_detections(
    image_processor: BaseImageProcessor, outputs: Mapping[str, torch.Tensor], batch: dict[str, Any]
) -> Detections:
    """Turns the outputs of a detector into detections, by the image processor's post-processing.

    Args:
        image_processor: Of the model.
        outputs: Of the model.
        batch: Its inputs, with `labels` as the image processor makes them: with `image_id` and `orig_size`.
    """
    sizes = [tuple(label["orig_size"].tolist()) for label in batch["labels"]]
    found = find_boxes(image_processor, outputs, sizes)
    return {int(label["image_id"]): image for label, image in zip(batch["labels"], found, strict=True)}


def find_instances(
    image_processor: BaseImageProcessor, outputs: Mapping[str, torch.Tensor], batch: Mapping[str, Any]
) -> Detections:
    """Turns the outputs of a model into detections with masks.

    Args:
        image_processor: Of the model.
        outputs: Of the model, as `find_masks` takes them.
        batch: As `collate_instances` makes it of an `InstanceDataset`.
    """
    found = find_masks(image_processor, outputs, batch["pixel_values"].shape[-2:], batch["original_sizes"])
    return dict(zip(batch["image_ids"], found, strict=True))


class CocoTrainer(WholeModelTrainer):
    """`Trainer` that evaluates with COCO's average precision.

    `Trainer` joins outputs and labels of all batches and processes as tensors, which lists of objects are not: it
    mixes them up on one process and stops on several. Here every process post-processes its own batches, and what
    they found is joined. An image that several processes see, as the last batches are filled up, counts once. And the
    losses of boxes and masks are those of one process.

    Args:
        detect: Turns outputs of the model and a batch into detections.
        kinds: As `average_precisions` takes them.
        arguments: Those of `Trainer`. Datasets to evaluate on have their `rows`, in the form of `data.objects.loading`.
    """

    def __init__(
        self,
        *arguments,
        detect: Callable[[Mapping[str, torch.Tensor], dict[str, Any]], Detections],
        kinds: Mapping[str, str] = BOXES,
        **keyword_arguments,
    ) -> None:
        super().__init__(*arguments, **keyword_arguments)
        self.detect = detect
        self.kinds = kinds
        self._detections: Detections = {}
        self.evaluations: dict[str, COCOeval_faster] = {}
        """Of the last evaluation, by the prefixes of the metrics."""

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor, None, None]:
        """Notes what the model finds in a batch, and returns its loss alone."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
            self._detections |= self.detect(outputs, inputs)
        return loss.detach().mean(), None, None

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Adds the average precisions to the loss."""
        self._detections = {}
        output = super().evaluation_loop(
            dataloader, description, True, ignore_keys, metric_key_prefix=metric_key_prefix
        )
        detections = _joined(gather_object([self._detections]))
        self.evaluations = evaluate_objects(dataloader.dataset.rows, detections, self.kinds)
        metrics = precision_numbers(self.evaluations)
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in metrics.items()})
        return output

    @torch.no_grad()
    def find(self, images: Dataset) -> Detections:
        """Returns what the present model finds in a few images, on this process alone."""
        training = self.model.training
        batch = self._prepare_inputs(self.data_collator([images[index] for index in range(len(images))]))
        # Without labels: some losses are sums over all processes, which would wait for the others for ever.
        inputs = {name: value for name, value in batch.items() if name not in self.label_names}
        with self.compute_loss_context_manager():
            outputs = self.model.eval()(**inputs)
        self.model.train(training)
        return self.detect(outputs, batch)


def _joined(parts: Iterable[Detections]) -> Detections:
    joined: Detections = {}
    for part in parts:
        joined |= part
    return joined
