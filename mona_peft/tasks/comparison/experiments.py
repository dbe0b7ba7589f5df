"""Experiments, and which of them a comparison still needs.

The learning rate of every row is chosen in the same way, with the first seed, on the validation images, from the same
grid. Rates are tried from the middle of the grid outwards, until the best one has worse neighbours on both sides or
lies at the grid's edge. The other seeds run at the chosen rate only, and only of these runs are test results shown.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from mona_peft.tasks.comparison.rows import BACKBONE_ROWS, METHOD_ROWS, Row
from mona_peft.tasks.comparison.study import Study
from mona_peft.tasks.models.methods import METHODS
from mona_peft.tasks.training.arguments import recipe

NUM_FIRST_RATES = 3
"""How many rates from the middle of the grid are tried in any case."""

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Experiment:
    """One training: a row's override of the defaults, on a pre-trained model, with a learning rate and a seed.

    Attributes:
        study: What is trained for, and how.
        row: What is trained.
        backbone: Name on the hub, or folder, of the pre-trained model, or of the backbone of a new one.
        learning_rate: Peak of the schedule.
        seed: Of the head's and the adapter's weights, the order and augmentation of images, and dropout.
        defaults: Arguments of the training script that all experiments of a comparison share.
    """

    study: Study
    row: Row
    backbone: str
    learning_rate: float
    seed: int
    defaults: tuple[str, ...]

    @property
    def name(self) -> str:
        """Path of the record in the folder of results, without its suffix."""
        return f"{backbone_name(self.backbone)}/{self.row.name}/rate-{self.learning_rate:g}-seed-{self.seed}"

    def arguments(self, output_dir: str) -> tuple[Any, ...]:
        """Returns the arguments of the training script, parsed."""
        model_args, _, method_args, args = parse_defaults(self.study, with_model(self.defaults, self.backbone))
        length = (
            ("--max_steps", str(round(self.row.length * args.max_steps)))
            if args.max_steps > 0
            else ("--num_train_epochs", repr(self.row.length * args.num_train_epochs))
        )
        width = round(self.row.width * method_args.bottleneck_dim)
        option = "--backbone" if getattr(model_args, "model_type", None) else "--model_name_or_path"
        argv = [
            *self.defaults,
            *(option, self.backbone, "--method", self.row.method, "--bottleneck_dim", str(width)),
            *("--learning_rate", repr(self.learning_rate), "--seed", str(self.seed)),
            *length,
            *self.row.options,
            *("--output_dir", output_dir, "--save_total_limit", "1", "--disable_tqdm", "true"),
            *("--stop_on_non_finite_loss", "false"),  # a rate that is too high has a result: a bad one
        ]
        return self.study.parse(argv)


@cache
def settings_of(experiment: Experiment) -> dict[str, Any]:
    """Returns all that decides what comes out of an experiment, as JSON has it; by this its record is known again."""
    model_args, data_args, method_args, args = experiment.arguments("outputs")
    method = {"method": method_args.method, **METHODS[method_args.method].settings(method_args)}
    settings = {**asdict(model_args), **asdict(data_args), **method, **recipe(args), "seed": experiment.seed}
    return json.loads(json.dumps(settings))


def backbone_name(backbone: str) -> str:
    """Returns the name of a backbone's folder of results: the last part of its own."""
    return Path(backbone).name


def with_model(defaults: tuple[str, ...], backbone: str) -> tuple[str, ...]:
    """Returns the arguments that all experiments share, with a model where a preset has none."""
    names = {argument.split("=")[0] for argument in defaults}
    if "--preset" in names:
        return defaults
    return (*defaults, "--backbone" if "--model_type" in names else "--model", backbone)


@cache
def parse_defaults(study: Study, defaults: tuple[str, ...]) -> tuple[Any, ...]:
    """Returns what the training script of a task makes of the arguments that all experiments share."""
    return study.parse(defaults)


@dataclass(frozen=True)
class Comparison:
    """What is to be compared.

    Attributes:
        study: What is trained for, and how.
        defaults: Arguments of the training script that all experiments share.
        backbones: Pre-trained models, or backbones of new ones. All rows run on the first, those of `BACKBONE_ROWS` on
            the others.
        rows: Of the tables.
        rates: The grid of learning rates, ascending.
        seeds: The first one chooses the rate.
    """

    study: Study
    defaults: tuple[str, ...]
    backbones: tuple[str, ...]
    rows: tuple[Row, ...]
    rates: tuple[float, ...]
    seeds: tuple[int, ...]

    def all(self) -> Iterator[Experiment]:
        """Returns every experiment that there could be, at all rates with all seeds."""
        choices = product(self.backbones, self.rows, self.rates, self.seeds)
        return (self._experiment(row, backbone, rate, seed) for backbone, row, rate, seed in choices)

    def repeated_rows(self) -> Iterator[tuple[Row, Row]]:
        """Returns rows that are the same training as an earlier one, since the defaults are what they override."""
        earlier: dict[str, Row] = {}
        for row in self.rows:
            settings = settings_of(self._experiment(row, self.backbones[0], self.rates[0], self.seeds[0]))
            same = earlier.setdefault(json.dumps(settings), row)
            if same is not row:
                yield row, same

    def missing(self, records: Mapping[str, Record]) -> list[Experiment]:
        """Returns the experiments that can run now and have no record yet, the most wanted first.

        Args:
            records: By the names of their experiments.
        """
        return [experiment for experiment in self._needed(records) if experiment.name not in records]

    def _needed(self, records: Mapping[str, Record]) -> Iterator[Experiment]:
        methods = [row for row in self.rows if row in METHOD_ROWS]
        others = [row for row in self.rows if row not in METHOD_ROWS]
        further = [row for row in self.rows if row in BACKBONE_ROWS]
        tiers = [(methods, self.backbones[:1]), (others, self.backbones[:1]), (further, self.backbones[1:])]
        for rows, backbones in tiers:
            pairs = [(row, backbone) for backbone in backbones for row in rows]
            chosen = []
            for row, backbone in pairs:
                search = [self._experiment(row, backbone, rate, self.seeds[0]) for rate in self.rates]
                scores = {e.learning_rate: validation_score(records[e.name]) for e in search if e.name in records}
                wanted = rates_to_try(self.rates, scores)
                yield from (experiment for experiment in search if experiment.learning_rate in wanted)
                if not wanted:
                    chosen.append((row, backbone, best_rate(scores)))
            for seed in self.seeds[1:]:
                for row, backbone, rate in chosen:
                    yield self._experiment(row, backbone, rate, seed)

    def _experiment(self, row: Row, backbone: str, rate: float, seed: int) -> Experiment:
        return Experiment(self.study, row, backbone, rate, seed, self.defaults)


Score = tuple[float, float]
"""Of a run on the validation images, the greater the better: the metric that decides; among equals, minus the loss."""


def validation_score(record: Record) -> Score:
    """Returns the score of a run; one whose loss is not a number has the worst loss."""
    results = record["results"]["validation"]
    metric, loss = results[record["metric"]], results["loss"]
    return (-math.inf if metric is None else metric, -math.inf if loss is None else -loss)


def best_rate(scores: Mapping[float, Score]) -> float:
    """Returns the rate with the best score; of equal ones the lowest."""
    return max(sorted(scores), key=lambda rate: scores[rate])


def rates_to_try(rates: Sequence[float], scores: Mapping[float, Score]) -> set[float]:
    """Returns the rates of a grid that the choice still needs: none when it is made.

    Args:
        rates: The grid, ascending.
        scores: Of the rates that were tried.
    """
    start = (len(rates) - NUM_FIRST_RATES) // 2
    wanted = set(rates[max(start, 0) :][:NUM_FIRST_RATES]) - scores.keys()
    if wanted:
        return wanted
    best = rates.index(best_rate(scores))
    return set(rates[max(best - 1, 0) : best + 2]) - scores.keys()
