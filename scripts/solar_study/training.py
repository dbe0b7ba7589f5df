"""One training of the study: stored tokens of the frozen blocks, a method above them, and what comes out."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property, partial
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from sklearn.metrics import balanced_accuracy_score, log_loss, roc_auc_score
from transformers import Trainer, TrainingArguments, default_data_collator, set_seed

from mona_peft.tasks.models.arguments import MethodArguments
from mona_peft.tasks.models.methods import METHODS
from mona_peft.tasks.training.records import hardware, parameter_counts, software
from mona_peft.tasks.training.trainer import WholeModelTrainer
from scripts.demonstration.cell_inputs import BACKBONES, MIRRORED, CellInputs, classifier, pixel_values
from scripts.demonstration.frozen_prefix import above, tokens_before
from scripts.demonstration.solar_cells import CLASSES, LEVELS, SPLIT_SEED, SolarCells, load_solar_cells, split, subset
from scripts.solar_study.plan import CELLS, NUM_EPOCHS, Row, Run

NUM_VALIDATION, BATCH_SIZE = 500, 16
TRAINERS = {False: Trainer, True: partial(WholeModelTrainer, data_collator=default_data_collator)}
"""By whether weight decay spares whatever has a single axis, or what `Trainer` knows as norms and biases by name."""


@dataclass
class Bench:
    """Everything that runs share."""

    cells: SolarCells

    def __post_init__(self) -> None:
        self.stored: dict[tuple[str, int], torch.Tensor] = {}
        self.is_stored: dict[tuple[str, int], np.ndarray] = {}

    @cached_property
    def parts(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the 1,968 cells to draw from and of the 656 test cells."""
        return split(self.cells)

    def inputs(self, row: Row, drawn: dict[str, np.ndarray]) -> torch.Tensor:
        """Returns what a row's blocks take, (N, V, ...): of all cells drawn, and of those to train in all mirrorings.

        What is not drawn, in this call or before, is not there.
        """
        key = row.backbone, row.first_block
        done = self.is_stored.setdefault(key, np.zeros((len(self.cells.images), len(MIRRORED)), bool))
        model = None
        for place, axes in enumerate(MIRRORED):
            wanted = drawn["train"] if place else np.concatenate(list(drawn.values()))
            lacking = wanted[~done[wanted, place]]
            if len(lacking):
                model = model or classifier(backbone=row.backbone)
                pixels = pixel_values(self.cells.images[lacking], BACKBONES[row.backbone].size).flip(axes)
                tokens = tokens_before(model, row.first_block, pixels).bfloat16()
                if key not in self.stored:
                    self.stored[key] = torch.zeros(*done.shape, *tokens.shape[1:], dtype=tokens.dtype)
                self.stored[key][lacking, place] = tokens
                done[lacking, place] = True
        return self.stored[key]

    def drawn(self, seed: int, cells: int) -> dict[str, np.ndarray]:
        """Returns numbers of the training, validation and test cells of a seed; no two parts share one.

        Whatever the number of training cells, those to validate are the same, and fewer are some of the more.
        """
        pool, test = self.parts
        middle = subset(self.cells, pool, CELLS, seed)
        validation = subset(self.cells, np.setdiff1d(pool, middle), NUM_VALIDATION, seed)
        among = middle if cells <= CELLS else np.setdiff1d(pool, validation)
        return {"train": subset(self.cells, among, cells, seed), "validation": validation, "test": test}


def load_bench() -> Bench:
    """Loads the cells."""
    return Bench(load_solar_cells())


def train(bench: Bench, run: Run) -> dict[str, Any]:
    """Trains and evaluates once.

    Returns:
        The record: settings, results by part, the scores of the test cells, parameters, time, versions, machine.
    """
    row, drawn = run.row, bench.drawn(run.seed, run.cells)
    inputs = bench.inputs(row, drawn)
    classes, answers = (LEVELS, bench.cells.levels) if row.has_levels else (CLASSES, bench.cells.labels)
    parts = {name: CellInputs(inputs, answers, numbers, name == "train") for name, numbers in drawn.items()}
    set_seed(run.seed)
    model = classifier(classes, row.backbone).requires_grad_(
        False
    )  # the frozen blocks; methods decide on what is above them
    method_args = MethodArguments(method=row.method, **row.settings)
    with above(model, row.first_block), TemporaryDirectory() as folder:
        adapted = METHODS[row.method](model, method_args)
        trainer = TRAINERS[row.is_sparing](
            model=adapted, args=training_arguments(folder, run), train_dataset=parts["train"]
        )
        started = time.process_time()
        trainer.train()
        seconds = time.process_time() - started
        scores = {name: _scores(trainer, parts[name]) for name in ("validation", "test")}
    labels = {name: bench.cells.labels[drawn[name]] for name in scores}
    return {
        "row": row.name,
        "learning_rate": run.rate,
        "seed": run.seed,
        "settings": {
            **{"method": row.method, **METHODS[row.method].settings(method_args)},
            **{"backbone": row.backbone, "first_block": row.first_block, "size": BACKBONES[row.backbone].size},
            **{"weight_decay": row.weight_decay},
            **({"classes": list(LEVELS)} if row.has_levels else {}),
            **({"decays": "what has several axes"} if row.is_sparing else {}),
            **{"epochs": NUM_EPOCHS[run.cells], "batch_size": BATCH_SIZE, "split_seed": SPLIT_SEED},
        },
        "num_images": {name: len(numbers) for name, numbers in drawn.items()},
        "results": {name: metrics(labels[name], scores[name]) for name in scores},
        "test_scores": [round(float(score), 6) for score in scores["test"]],
        "parameters": parameter_counts(adapted),
        "cpu_seconds": round(seconds, 1),
        "loss": [round(entry["loss"], 4) for entry in trainer.state.log_history if "loss" in entry],
        "software": software(),
        "hardware": hardware(trainer.args.device),
    }


def training_arguments(folder: str, run: Run) -> TrainingArguments:
    """Returns what is the same for all rows, and a run's own rate, seed and weight decay."""
    return TrainingArguments(
        output_dir=folder,
        seed=run.seed,
        learning_rate=run.rate,
        weight_decay=run.row.weight_decay,
        num_train_epochs=NUM_EPOCHS[run.cells],
        per_device_train_batch_size=BATCH_SIZE,
        per_device_eval_batch_size=64,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        max_grad_norm=5.0,
        bf16=True,
        use_cpu=not torch.accelerator.is_available(),
        save_strategy="no",
        logging_strategy="epoch",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
    )


def metrics(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Returns area under the ROC curve, balanced accuracy, accuracy and log loss of scores from 0, functional, to 1."""
    return {
        "auc": round(float(roc_auc_score(labels, scores)), 5),
        "balanced_accuracy": round(float(balanced_accuracy_score(labels, scores > 0.5)), 5),
        "accuracy": round(float(((scores > 0.5) == labels).mean()), 5),
        "loss": round(float(log_loss(labels, scores)), 5),
    }


def _scores(trainer: Trainer, part: CellInputs) -> np.ndarray:
    """Returns how defective each cell is said to be, from 0 to 1: the mean of the classes by their probabilities."""
    probabilities = softmax(trainer.predict(part).predictions.astype(np.float64), axis=1)
    return probabilities @ np.linspace(0, 1, probabilities.shape[1])
