"""What the paper's settings take: counted as others count, and the page is that of the present presets."""

from functools import partial

import pytest

from scripts.paper_settings import PAGE, PAPER, Setting, cost_of, swin_backbone
from scripts.parameter_table import STAGES

SWIN_T = Setting("", "", "", partial(swin_backbone, "Swin-T", STAGES), (224, 224))


def test_operations_are_those_of_swins_paper():
    """Swin's paper counts 4.5 * 10^9 multiplications in the forward pass; the backward pass has twice as many."""
    full, mona = cost_of(SWIN_T, "full"), cost_of(SWIN_T, "mona")
    assert full.operations == pytest.approx(3 * 2 * 4.5e9, rel=0.05)
    assert 2 / 3 < mona.operations / full.operations < 0.9
    assert mona.kept_bytes < 0.9 * full.kept_bytes


def test_page_is_that_of_the_present_presets():
    page = PAGE.read_text(encoding="utf-8")
    for setting in PAPER:
        assert f"| {setting.images_seen:,} | Mona |" in page
    assert PAPER[0].images_seen == 160_000 * 16
