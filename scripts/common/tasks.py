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
