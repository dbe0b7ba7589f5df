"""What the training scripts do, as data: names, metrics and the classes of transformers that load the models."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """A task of a training script.

    Attributes:
        name: As a person reads it.
        pipeline_tag: Name of the task on the hub.
        auto_class: Name of the class of transformers that loads the task's models.
        hub_metric: Name of the main metric on the hub.
        metrics: What a person reads for the names that `Trainer` logs; the first is the one that decides.
    """

    name: str
    pipeline_tag: str
    auto_class: str
    hub_metric: str
    metrics: dict[str, str]

    @property
    def main_metric(self) -> str:
        """Name of the metric that decides."""
        return next(iter(self.metrics))


IMAGE_CLASSIFICATION = Task(
    name="image classification",
    pipeline_tag="image-classification",
    auto_class="AutoModelForImageClassification",
    hub_metric="accuracy",
    metrics={"top1": "top-1 accuracy", "top5": "top-5 accuracy"},
)

SEMANTIC_SEGMENTATION = Task(
    name="semantic segmentation",
    pipeline_tag="image-segmentation",
    auto_class="AutoModelForSemanticSegmentation",
    hub_metric="mean_iou",
    metrics={"mean_iou": "mIoU", "pixel_accuracy": "pixel accuracy"},
)

BOX_METRICS = {
    "box_ap": "box AP",
    "box_ap50": "box AP50",
    "box_ap75": "box AP75",
    "box_ap_small": "box AP, small",
    "box_ap_medium": "box AP, medium",
    "box_ap_large": "box AP, large",
}

OBJECT_DETECTION = Task(
    name="object detection",
    pipeline_tag="object-detection",
    auto_class="AutoModelForObjectDetection",
    hub_metric="mean_average_precision",
    metrics=BOX_METRICS,
)

INSTANCE_SEGMENTATION = Task(
    name="instance segmentation",
    pipeline_tag="image-segmentation",
    auto_class="AutoModelForUniversalSegmentation",
    hub_metric="mean_average_precision",
    metrics={name.replace("box", "mask"): label.replace("box", "mask") for name, label in BOX_METRICS.items()}
    | BOX_METRICS,
)
