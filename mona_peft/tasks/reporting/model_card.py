"""The model card beside what was trained: how to load it, what it was trained on, what it reaches."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from mona_peft.tasks.models.methods import METHODS
from mona_peft.tasks.reporting.pages import table
from mona_peft.tasks.task import (
    IMAGE_CLASSIFICATION,
    INSTANCE_SEGMENTATION,
    OBJECT_DETECTION,
    SEMANTIC_SEGMENTATION,
    Task,
)

BODY = """# {title}

Trained on {dataset}: {num_images} images of {num_classes} classes. {trainable:,} parameters were trained, the head
included: {share:.2%} of the model's {base:,}. {files}

## Use it

```python
import mona_peft

run = mona_peft.load({run!r})
model, image_processor, labels = run.model, run.image_processor, run.labels
```

`pip install "mona-peft[train]"` brings all that this needs{more_to_install}. With transformers' pipeline:

```python
from transformers import pipeline

predict = pipeline({pipeline_task!r}, model=model, image_processor=image_processor)
print(predict("path/to/image.jpg"{pipeline_arguments}))
```

or without it:

```python
import torch
from PIL import Image

image = Image.open("path/to/image.jpg").convert("RGB")
with torch.no_grad():
    outputs = model(**image_processor(image, return_tensors="pt"))
{prediction_code}
```

Folders of images: `mona-peft predict {run} path/to/images --output_dir predictions`.

## Results

{results}

## Training

The method, and the arguments of `transformers.TrainingArguments`:

```json
{settings}
```

Seed {seed}. Versions: {versions}.
"""
PREDICTION_CODE = {
    IMAGE_CLASSIFICATION.command: """\
print(labels[outputs.logits.argmax(-1).item()])""",
    SEMANTIC_SEGMENTATION.command: """\
(class_map,) = image_processor.post_process_semantic_segmentation(outputs, [image.size[::-1]])
print({labels[number] for number in class_map.unique().tolist()})""",
    OBJECT_DETECTION.command: """\
(found,) = image_processor.post_process_object_detection(outputs, threshold=0.5, target_sizes=[image.size[::-1]])
for box, label, score in zip(found["boxes"], found["labels"], found["scores"]):
    print(labels[label], f"{score:.2f}", box.tolist())  # left, top, right, bottom in pixels""",
    INSTANCE_SEGMENTATION.command: """\
(found,) = image_processor.post_process_instance_segmentation(outputs, target_sizes=[image.size[::-1]])
for segment in found["segments_info"]:
    mask = found["segmentation"] == segment["id"]  # (height, width)
    print(labels[segment["label_id"]], f"{segment['score']:.2f}", mask.sum().item(), "pixels")""",
}
"""From the outputs of a model to what it says of an image, by task."""

PIPELINE_ARGUMENTS = {
    SEMANTIC_SEGMENTATION.command: ', subtask="semantic"',
    INSTANCE_SEGMENTATION.command: ', subtask="instance"',
}
PART = "What was not trained is not part of these files: they are an adapter for the pre-trained model."
WHOLE = "These files hold the whole model."


def model_card(record: dict[str, Any], task: Task) -> ModelCard:
    """Returns the card of a run.

    Args:
        record: Record of the run, as a `Run` writes it.
        task: What was trained for.
    """
    title = f"{METHODS[record['method']['method']].title} for {record['base_model']}"
    body = BODY.format(
        title=title,
        dataset=record["dataset"],
        num_images=record["num_images"]["train"],
        num_classes=len(record["classes"]),
        trainable=record["parameters"]["trainable"],
        base=record["parameters"]["base"],
        share=record["parameters"]["trainable_share"],
        files=WHOLE if _is_whole(record) else PART,
        run=record["hub_model_id"] or record["adapter_path"],
        pipeline_task=task.pipeline_tag,
        pipeline_arguments=PIPELINE_ARGUMENTS.get(task.command, ""),
        prediction_code=PREDICTION_CODE[task.command],
        more_to_install=" beside torchvision" if record["model"].get("model_type") == "retinanet" else "",
        results=_results_table(record["results"], task),
        settings=json.dumps({**record["method"], **record["training"]}, indent=2),
        seed=record["seed"],
        versions=", ".join(f"{name} {version}" for name, version in record["software"].items() if version),
    )
    return ModelCard(f"---\n{_front_matter(record, task, title).to_yaml()}\n---\n\n{body}")


def _peft_type(record: dict[str, Any]) -> str | None:
    """Returns the name of the method in PEFT, if it is there by `mona_peft` alone."""
    return METHODS[record["method"]["method"]].peft_type


def _is_whole(record: dict[str, Any]) -> bool:
    return record["method"]["method"] == "full"


def _results_table(results: dict[str, dict[str, float]], task: Task) -> str:
    metrics = [name for name in task.metrics if name in results["validation"]]
    header = ["split", *(task.metrics[name] for name in metrics)]
    rows = [
        # Sizes of objects that a split lacks have no average precision there.
        [split, *(f"{result[name]:.4f}" if name in result else "" for name in metrics)]
        for split, result in results.items()
    ]
    return table(header, rows)


def _front_matter(record: dict[str, Any], task: Task, title: str) -> ModelCardData:
    # The hub takes its own names only, not a folder on somebody's machine.
    base_model = None if Path(record["base_model"]).exists() else record["base_model"]
    dataset = record["data"]["dataset"]
    hub_dataset = None if dataset is None or Path(dataset).exists() else dataset
    tags = [task.pipeline_tag, *([_peft_type(record).lower()] if _peft_type(record) else [])]
    split, result = list(record["results"].items())[-1]
    whole = _is_whole(record)
    return ModelCardData(
        base_model=base_model,
        library_name="transformers" if whole else "peft",
        pipeline_tag=task.pipeline_tag,
        tags=[*tags, f"base_model:{'finetune' if whole else 'adapter'}:{base_model}"] if base_model else tags,
        datasets=[hub_dataset] if hub_dataset else None,
        metrics=[task.hub_metric],
        model_name=title,
        eval_results=[
            EvalResult(
                task_type=task.pipeline_tag,
                dataset_type=hub_dataset or "imagefolder",
                dataset_name=record["dataset"],
                dataset_split=split,
                metric_type=task.hub_metric,
                metric_name=label,
                metric_value=result[name],
            )
            for name, label in task.metrics.items()
            if name in result
        ],
    )
