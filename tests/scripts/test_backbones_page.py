"""The page of backbones in the documentation."""

from scripts.backbones_page import PAGE, page


def test_the_page_is_up_to_date():
    assert PAGE.read_text() == page(), "run `python -m scripts.backbones_page`"
