"""The model card beside a trained adapter: how to load it, what it was trained on, what it reaches."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from mona_peft.model_card import IMPORT_NOTE
from scripts.common.metrics import METRIC_NAMES

MAX_NAMED_CLASSES = 20
TITLES = {"mona": "Mona adapter", "fixed": "Task head"}

BODY = """# {title}

Trained on {dataset}: {num_images} images of {num_classes} classes. {trainable:,} parameters were trained, the head
included: {share:.2%} of the model's {base:,}. The backbone is unchanged and not part of these files.

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


def load_code(record: dict[str, Any]) -> str:
    """Returns the Python code that loads the base model and puts the adapter on it.

    Args:
        record: Record of the run, as the training script writes it.
    """
    # Names of classes become part of the loaded model's config; a long list would hide the two lines that matter.
    classes = dict(enumerate(record["classes"]))
    labels = f"id2label={classes!r}" if len(classes) <= MAX_NAMED_CLASSES else f"num_labels={len(classes)}"
    lines = [
        "from peft import PeftModel",
        "from transformers import AutoModelForImageClassification",
        "",
        "base = AutoModelForImageClassification.from_pretrained(",
        f"    {record['base_model']!r}, {labels}, ignore_mismatched_sizes=True",
        ")",
        f"model = PeftModel.from_pretrained(base, {record['adapter_path']!r})",
    ]
    return "\n".join(["import mona_peft  # registers Mona with PEFT", *lines] if _is_mona(record) else lines)


def model_card(record: dict[str, Any]) -> ModelCard:
    """Returns the card of a run.

    Args:
        record: Record of the run, as the training script writes it.
    """
    title = f"{TITLES[record['method']['method']]} for {record['base_model']}"
    body = BODY.format(
        title=title,
        dataset=record["dataset"],
        num_images=record["num_images"]["train"],
        num_classes=len(record["classes"]),
        trainable=record["parameters"]["trainable"],
        base=record["parameters"]["base"],
        share=record["parameters"]["trainable_share"],
        load_code=load_code(record),
        import_note=f"{IMPORT_NOTE} " if _is_mona(record) else "",
        adapter_path=record["adapter_path"],
        results=_results_table(record["results"]),
        settings=json.dumps({**record["method"], **record["training"]}, indent=2),
        seed=record["seed"],
        versions=", ".join(f"{name} {version}" for name, version in record["software"].items() if version),
    )
    return ModelCard(f"---\n{_front_matter(record, title).to_yaml()}\n---\n\n{body}")


def _is_mona(record: dict[str, Any]) -> bool:
    return record["method"]["method"] == "mona"


def _results_table(results: dict[str, dict[str, float]]) -> str:
    metrics = [name for name in METRIC_NAMES if name in results["validation"]]
    rows = [
        ["split", *(METRIC_NAMES[name] for name in metrics)],
        ["---"] * (1 + len(metrics)),
        *([split, *(f"{result[name]:.4f}" for name in metrics)] for split, result in results.items()),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _front_matter(record: dict[str, Any], title: str) -> ModelCardData:
    # The hub takes its own names only, not a folder on somebody's machine.
    base_model = None if Path(record["base_model"]).exists() else record["base_model"]
    dataset = record["data"]["dataset"]
    hub_dataset = None if dataset is None or Path(dataset).exists() else dataset
    tags = ["image-classification", *(["mona"] if _is_mona(record) else [])]
    split, result = list(record["results"].items())[-1]
    return ModelCardData(
        base_model=base_model,
        library_name="peft",
        pipeline_tag="image-classification",
        tags=[*tags, f"base_model:adapter:{base_model}"] if base_model else tags,
        datasets=[hub_dataset] if hub_dataset else None,
        metrics=["accuracy"],
        model_name=title,
        eval_results=[
            EvalResult(
                task_type="image-classification",
                dataset_type=hub_dataset or "imagefolder",
                dataset_name=record["dataset"],
                dataset_split=split,
                metric_type="accuracy",
                metric_name=label,
                metric_value=result[name],
            )
            for name, label in METRIC_NAMES.items()
            if name in result
        ],
    )
