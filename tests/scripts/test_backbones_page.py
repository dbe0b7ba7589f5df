"""The page of backbones in the documentation, and the figures that it tells of."""

import json
import shutil
from pathlib import Path

import pytest

from mona_peft.tasks.reporting.pages import fill_page
from scripts.backbone_costs import COSTS, FAMILIES, MODELS, beside_lora, describe, describe_composed
from scripts.backbones_page import MARK, PAGE, parts
from tests.backbones import BACKBONES, TABLE
from tests.composed import COMPOSED

WHOLE = pytest.mark.skipif(BACKBONES != TABLE, reason=f"transformers lacks {sorted({*TABLE} - {*BACKBONES})}")
KNOWN = json.loads(COSTS.read_text())
SOME = {"swin", "pvt", "dinov2", "resnet-basic", "sam", "llava"}
"""Measured again in each run of the tests, the others in the slow ones."""


def rows(names):
    return [name if name in SOME else pytest.param(name, marks=pytest.mark.slow) for name in names]


@WHOLE
def test_the_page_is_up_to_date(tmp_path):
    assert {part: list(known) for part, known in KNOWN.items()} == {FAMILIES: [*TABLE], MODELS: [*COMPOSED]}, (
        "run `python -m scripts.backbone_costs NAME` of the rows that are new"
    )
    filled = Path(shutil.copy(PAGE, tmp_path))
    fill_page(filled, MARK, parts())
    assert PAGE.read_text() == filled.read_text(), "run `python -m scripts.backbones_page`"


@pytest.mark.parametrize("name", rows(BACKBONES))
def test_families_are_as_described(name):
    measured = describe(BACKBONES[name])
    assert measured == {key: KNOWN[FAMILIES][name][key] for key in measured}


@pytest.mark.parametrize("name", rows(COMPOSED))
def test_composed_models_are_as_described(name):
    assert describe_composed(name) == KNOWN[MODELS][name]


@pytest.mark.parametrize(
    "name", [name if name == "dinov2" else pytest.param(name, marks=pytest.mark.slow) for name in BACKBONES]
)
def test_costs_are_those_of_the_model(name):
    measured = beside_lora(BACKBONES[name])
    # Other versions of PyTorch and transformers split operations otherwise.
    assert measured == pytest.approx({key: KNOWN[FAMILIES][name][key] for key in measured}, rel=0.02)
