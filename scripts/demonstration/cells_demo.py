"""Which cells are broken? DINOv2-small on real images of solar cells: the head alone, Mona, all weights."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from peft import get_peft_model
from safetensors.torch import save_file
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, roc_auc_score
from torch import nn
from transformers import Dinov2ForImageClassification, HfArgumentParser, Trainer, TrainingArguments, set_seed

from mona_peft import MonaConfig
from mona_peft.tasks.reporting.pages import table
from mona_peft.tasks.training.records import hardware, parameter_counts, software, write_json
from scripts.demonstration.cell_inputs import (
    FIRST_BLOCK,
    MIRRORED,
    CellInputs,
    classifier,
    mirrored_inputs,
    pixel_values,
)
from scripts.demonstration.cells_picture import draw_cells, draw_matrices
from scripts.demonstration.frozen_prefix import above
from scripts.demonstration.outputs import check_reloaded, clear
from scripts.demonstration.reload_cells import predict
from scripts.demonstration.solar_cells import ELPV, PUBLISHED, SolarCells, load_solar_cells, split

NUM_EPOCHS = 3
"""Of all ways alike: as many as two cores have time for in less than five minutes."""


@dataclass(frozen=True)
class Way:
    """A way of fine-tuning.

    Attributes:
        title: As a person reads it.
        learning_rate: Peak of the schedule: the one that the study (docs/comparison/solar_cells.md) chose for this way,
            by validation cells, with 400 cells to train on. All of these are among the cells to train on here.
        num_epochs: Of training.
    """

    title: str
    learning_rate: float
    num_epochs: float


WAYS = {
    "fixed": Way("head alone", 1e-2, NUM_EPOCHS),
    "full": Way("all weights of the last four blocks", 1e-4, NUM_EPOCHS),
    "mona": Way("Mona and head", 3e-3, NUM_EPOCHS),
}
"""Ways in the order in which they are trained."""

DEFAULTS = {
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 64,
    "weight_decay": 0.05,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.1,
    "max_grad_norm": 5.0,
    "bf16": True,
    "use_cpu": not torch.accelerator.is_available(),
    "save_strategy": "no",
    "logging_steps": 25,
    "report_to": "none",
    "remove_unused_columns": False,
    "label_names": ["labels"],
}
"""Of all ways, where the defaults of `TrainingArguments` do not suit them."""


def main(output_dir: Path, training_arguments: Sequence[str] = ()) -> None:
    """Runs the demonstration.

    Args:
        output_dir: Gets everything.
        training_arguments: Of `TrainingArguments`, for all trainings.

    Raises:
        OSError, ValueError: Wheels can't be downloaded or are not the expected ones, the output directory holds
            something else, or an argument is not known.
    """
    parser = HfArgumentParser(TrainingArguments, allow_abbrev=False)
    parser.set_defaults(**DEFAULTS)
    clear(output_dir)
    began = time.monotonic()
    try:
        cells, model = load_solar_cells(), classifier()
    except OSError as error:
        raise OSError(f"{error}\nWithout a connection: make demo DATA=digits.") from error
    training, test = split(cells)
    print(f"{len(training):,} cells to train on, {len(test)} to test. The images: ELPV, {ELPV.licence}.", flush=True)
    print("Running the frozen blocks once over all training cells", flush=True)
    started = time.monotonic()
    inputs = mirrored_inputs(model, FIRST_BLOCK, pixel_values(cells.images[training]), MIRRORED[:2])
    images = CellInputs(inputs, cells.labels[training], np.arange(len(training)), is_mirrored=True)
    frozen_seconds = time.monotonic() - started
    test_pixels = pixel_values(cells.images[test])

    records: dict[str, dict[str, Any]] = {}
    scores: dict[str, np.ndarray] = {}
    for name, way in WAYS.items():
        print(f"\nTraining: {way.title}", flush=True)
        with TemporaryDirectory() as scratch:
            given = ["--output_dir", scratch, "--learning_rate", repr(way.learning_rate)]
            given += ["--num_train_epochs", repr(way.num_epochs), *training_arguments]
            (args,) = parser.parse_args_into_dataclasses(given, look_for_args_file=False)
            set_seed(args.seed)
            started = time.monotonic()
            model = adapted(name)
            with above(whole(model), FIRST_BLOCK):
                trainer = Trainer(model=model, args=args, train_dataset=images)
                trainer.train()
            seconds = time.monotonic() - started
        scores[name] = predict(model, test_pixels)
        records[name] = {
            **{"title": way.title, "results": measured(cells, test, scores[name])},
            **{"parameters": parameter_counts(model), "seconds": round(seconds)},
            **{"learning_rate": args.learning_rate, "num_epochs": args.num_train_epochs},
            **{"software": software(), "hardware": hardware(args.device)},
        }
    adapter = output_dir / "mona" / "adapter"
    model.save_pretrained(adapter)
    draw_matrices(cells, test, scores, {name: way.title for name, way in WAYS.items()}, output_dir)
    draw_cells(cells, test, scores["mona"], model, test_pixels, output_dir)
    results = results_table(records)
    (output_dir / "demo.md").write_text(results + "\n", encoding="utf-8")
    write_json(output_dir / "demo.json", records)
    print(f"\n{results}\n")
    with TemporaryDirectory() as folder:
        file = Path(folder, "pixels.safetensors")
        save_file({"pixel_values": test_pixels}, file)
        check_reloaded("scripts.demonstration.reload_cells", [str(adapter), str(file)], scores["mona"].argmax(-1))
    print(
        f"Pictures, adapter and figures are in {output_dir}. It took {time.monotonic() - began:.0f} s, "
        f"{frozen_seconds:.0f} of them in the frozen blocks."
    )


def adapted(name: str) -> nn.Module:
    """Returns DINOv2-small with a new head, ready to be trained in one of the ways."""
    model = classifier().requires_grad_(False)
    last = range(FIRST_BLOCK, model.config.num_hidden_layers)
    if name == "mona":
        return get_peft_model(model, MonaConfig(layers_to_transform=list(last), modules_to_save="task-head"))
    model.classifier.requires_grad_(True)
    if name == "full":
        model.dinov2.layernorm.requires_grad_(True)
        for number in last:
            model.dinov2.encoder.layer[number].requires_grad_(True)
    return model


def whole(model: nn.Module) -> Dinov2ForImageClassification:
    """Returns the classifier in a `PeftModel`, or the classifier itself."""
    return getattr(model, "get_base_model", lambda: model)()


def measured(cells: SolarCells, test: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """Returns what scores of the test cells, (N, 2), come to."""
    labels, predicted = cells.labels[test], scores.argmax(-1)
    return {
        "accuracy": float((predicted == labels).mean()),
        "balanced_accuracy": float(balanced_accuracy_score(labels, predicted)),
        "auc": float(roc_auc_score(labels, scores[:, 1] - scores[:, 0])),
        "confusion": confusion_matrix(labels, predicted).tolist(),
    }


def results_table(records: dict[str, dict[str, Any]]) -> str:
    """Returns what each way reaches and costs, with what was published, as a Markdown table."""
    columns = ("test accuracy", "balanced", "AUC", "defects found", "false alarms", "trained parameters", "time")
    rows = []
    for record in records.values():
        results, ((_, false), (missed, found)) = record["results"], record["results"]["confusion"]
        rows.append(
            [
                record["title"],
                *(f"{results['accuracy']:.1%}", f"{results['balanced_accuracy']:.1%}", f"{results['auc']:.3f}"),
                *(f"{found} of {missed + found}", str(false), f"{record['parameters']['trainable']:,}"),
                f"{record['seconds']} s",
            ]
        )
    published = [[f"published: {name}", f"{accuracy:.1%}", *[""] * 6] for name, accuracy in PUBLISHED.items()]
    return table(["", *columns], rows + published)
