"""The tasks as data: names, metrics and the classes of transformers that load the models."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Task:
    """A task that models are trained for.

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

    @property
    def command(self) -> str:
        """Name of the task on the command line."""
        return self.name.replace(" ", "-")


IMAGE_CLASSIFICATION = Task(
    name="image classification",
    pipeline_tag="image-classification",
    auto_class="AutoModelForImageClassification",
    hub_metric="accuracy",
    metrics={"top1": "top-1 accuracy", "top5": "top-5 accuracy"},
)

MULTI_LABEL_CLASSIFICATION = replace(
    IMAGE_CLASSIFICATION, hub_metric="f1", metrics={"map": "mAP", "f1_macro": "F1 by class", "f1_micro": "F1"}
)
"""The same task and models, where an image may show several classes."""

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

TASKS = {
    task.command: task
    for task in (IMAGE_CLASSIFICATION, SEMANTIC_SEGMENTATION, OBJECT_DETECTION, INSTANCE_SEGMENTATION)
}
"""By their names on the command line."""


def find_task(name: str) -> Task:
    """Returns a task by its name on the command line, or as a person reads it.

    Raises:
        ValueError: There is no such task; names those there are.
    """
    try:
        return TASKS[name.replace(" ", "-").replace("_", "-")]
    except KeyError:
        raise ValueError(f"{name}: no such task. There are: {', '.join(TASKS)}.") from None
