"""The table of trained parameters: its formulas agree with models that are built, and with the authors' counts."""

import pytest

from scripts.parameter_table import AUTHORS, PAGE, PER_BLOCK, SIZES, by_formula, count


@pytest.mark.parametrize("method", PER_BLOCK)
def test_formula_of_a_block(method):
    assert count(method, "Swin-T")["trainable"] == by_formula(method, "Swin-T")


@pytest.mark.parametrize("method", [method for method in AUTHORS if method in PER_BLOCK])
def test_equal_to_the_authors_counts(method):
    assert AUTHORS[method] == {size: by_formula(method, size) for size in AUTHORS[method]}


def test_page_is_that_of_the_present_methods():
    table = PAGE.read_text(encoding="utf-8").partition("\n## ")[0]
    rows = {line.split("`")[1]: line for line in table.splitlines() if line.startswith("| `")}
    for method in PER_BLOCK:
        assert " | ".join(f"{by_formula(method, size):,}" for size in SIZES) in rows[method]
    for method in ("bitfit", "norm-tuning", "partial-1"):
        assert f"| {count(method, 'Swin-T')['trainable']:,} |" in rows[method]
