"""The page of backbones in the documentation."""

import pytest

from scripts.backbones_page import PAGE, page
from tests.backbones import BACKBONES, TABLE


@pytest.mark.skipif(BACKBONES != TABLE, reason=f"transformers lacks {sorted({*TABLE} - {*BACKBONES})}")
def test_the_page_is_up_to_date():
    assert PAGE.read_text() == page(), "run `python -m scripts.backbones_page`"
