"""The page of backbones in the documentation, and the costs that it tells of."""

import json

import pytest

from scripts.backbone_costs import COSTS, beside_lora
from scripts.backbones_page import PAGE, page
from tests.backbones import BACKBONES, TABLE

WHOLE = pytest.mark.skipif(BACKBONES != TABLE, reason=f"transformers lacks {sorted({*TABLE} - {*BACKBONES})}")
KNOWN = json.loads(COSTS.read_text())


@WHOLE
def test_the_page_is_up_to_date():
    assert PAGE.read_text() == page(), "run `python -m scripts.backbones_page`"


@pytest.mark.parametrize(
    "name", [name if name == "dinov2" else pytest.param(name, marks=pytest.mark.slow) for name in KNOWN]
)
def test_costs_are_those_of_the_model(name):
    # Other versions of PyTorch and transformers split operations otherwise.
    assert beside_lora(BACKBONES[name]) == pytest.approx(KNOWN[name], rel=0.02)
