"""The table of trained parameters: formulas and the authors' counts agree with models that are built."""

import pytest

from scripts.parameter_table import AUTHORS, PAGE, PER_BLOCK, SIZES, by_formula, count


@pytest.mark.parametrize("method", PER_BLOCK)
def test_formula_of_a_block(method):
    counts = {size: count(method, size)["trainable"] for size in ("Swin-T", "Swin-L")}
    assert counts == {size: by_formula(method, size) for size in counts}


@pytest.mark.parametrize("method", [method for method in AUTHORS if method != "full"])
def test_equal_to_the_authors_counts(method):
    assert AUTHORS[method] == {size: count(method, size)["trainable"] for size in AUTHORS[method]}


def test_page_is_that_of_the_present_methods():
    page = PAGE.read_text(encoding="utf-8")
    for method in ("bitfit", "partial-1", "mona-v1"):
        numbers = " | ".join(f"{count(method, size)['trainable']:,}" for size in SIZES)
        assert any(line.startswith(f"| `{method}` |") and numbers in line for line in page.splitlines())
