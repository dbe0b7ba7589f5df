"""The model card beside what was trained: how to load it, what it was trained on, what it reaches."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from mona_peft.integration.card import import_note
from mona_peft.tasks.models.methods import METHODS
from mona_peft.tasks.reporting.pages import table
from mona_peft.tasks.task import Task

MAX_NAMED_CLASSES = 20

BODY = """# {title}

Trained on {dataset}: {num_images} images of {num_classes} classes. {trainable:,} parameters were trained, the head
included: {share:.2%} of the model's {base:,}. {files}

## Load it

```python
{load_code}
```

{import_note}Images are prepared by `transformers.AutoImageProcessor.from_pretrained({adapter_path!r})`.

## Results

{results}

## Training

The method, and the arguments of `transformers.TrainingArguments`:

```json
{settings}
```

Seed {seed}. Versions: {versions}.
"""
PART = "What was not trained is not part of these files."
WHOLE = "These files hold the whole model."


def load_pretrained_code(auto_class: str, name: str, classes: Sequence[str]) -> list[str]:
    """Returns the lines of Python that load a pre-trained model, with a head for these classes, as `base`.

    Args:
        auto_class: Name of the class of transformers that loads it.
        name: Name on the hub, or folder.
        classes: Names of the classes.
    """
    # Names of classes become part of the loaded model's config; a long list would hide the two lines that matter.
    numbered = dict(enumerate(classes))
    labels = f"id2label={numbered!r}" if len(numbered) <= MAX_NAMED_CLASSES else f"num_labels={len(numbered)}"
    return [
        f"from transformers import {auto_class}",
        "",
        f"base = {auto_class}.from_pretrained(",
        f"    {name!r}, {labels}, ignore_mismatched_sizes=True",
        ")",
    ]


def load_code(record: dict[str, Any]) -> str:
    """Returns the Python code that loads what was trained: the base model with the adapter, or the whole model.

    Args:
        record: Record of the run, as `run_training` writes it.
    """
    if _is_whole(record):
        return "\n".join(
            [
                f"from {record['model_module']} import {record['model_class']}",
                "",
                f"model = {record['model_class']}.from_pretrained({record['adapter_path']!r})",
            ]
        )
    lines = [
        "from peft import PeftModel",
        *record["load_base"],
        f"model = PeftModel.from_pretrained(base, {record['adapter_path']!r})",
    ]
    return "\n".join(["import mona_peft  # registers the method with PEFT", *lines] if _peft_type(record) else lines)


def model_card(record: dict[str, Any], task: Task) -> ModelCard:
    """Returns the card of a run.

    Args:
        record: Record of the run, as `run_training` writes it.
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
        load_code=load_code(record),
        import_note=f"{import_note(_peft_type(record))} " if _peft_type(record) else "",
        adapter_path=record["adapter_path"],
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
