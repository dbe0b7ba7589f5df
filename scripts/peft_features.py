"""Writes docs/peft_features.md, the table of PEFT features, from reports of the tests that ran.

    python -m pytest --junitxml report.xml tests
    python -m scripts.peft_features report.xml

Several reports may be given, as from `make test-quantization ARGS="--junitxml quantization.xml"`. A feature whose tests
did not run or did not pass is an error: nothing enters the table that was not seen to work.
"""

import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from mona_peft.tasks.training.records import software

DOCS = Path(__file__).parents[1] / "docs"
UNTESTED = "-"

HEADER = """# PEFT features

What a user of PEFT does with LoRA, tried on Swin, SwinV2 and composed models with random weights. Written by
`python -m scripts.peft_features` from the reports of the tests, whose numbers stand in brackets; `-` was not tried.
Versions: {versions}.

| | Mona here | LoRA in PEFT | the authors' code |
| --- | --- | --- | --- |
"""


def passed_tests(reports: Iterable[Path]) -> dict[str, bool]:
    """Returns whether each test passed, by its module and id, such as `tests.test_hub.test_card[pushed]`."""
    results = {}
    for report in reports:
        for case in ElementTree.parse(report).iter("testcase"):
            outcome = {child.tag for child in case}
            results[f"{case.get('classname')}.{case.get('name')}"] = not outcome & {"failure", "error", "skipped"}
    return results


def cell(entry: Any, results: dict[str, bool]) -> str:
    """Returns the text of a cell: what is said, and how many tests show it.

    Raises:
        ValueError: A test that is named did not run or did not pass.
    """
    if entry is None or isinstance(entry, str):
        return entry or UNTESTED
    state, names = (entry["state"], entry["tests"]) if isinstance(entry, dict) else ("yes", entry)
    matching = {test for name in names for test in results if name in test}
    missing = [name for name in names if not any(name in test for test in results)]
    failed = sorted(test for test in matching if not results[test])
    if missing or failed:
        raise ValueError(f"Not seen to work: no report has {missing}, and {failed} did not pass.")
    return f"{state} ({len(matching)})"


def table(features: list[dict[str, Any]], results: dict[str, bool]) -> str:
    """Returns the rows of the table.

    Raises:
        ValueError: A test that is named did not run or did not pass.
    """
    rows = []
    for feature in features:
        cells = [cell(feature.get(column), results) for column in ("mona", "lora", "authors")]
        rows.append(f"| {' | '.join([feature['feature'], *cells])} |\n")
    return "".join(rows)


def main(arguments: list[str]) -> None:
    """Runs the script with the paths of reports."""
    if not arguments:
        raise SystemExit(__doc__)
    features = yaml.safe_load((DOCS / "peft_features.yaml").read_text(encoding="utf-8"))
    versions = ", ".join(f"{name} {version}" for name, version in software().items() if version)
    rows = table(features, passed_tests(Path(argument) for argument in arguments))
    (DOCS / "peft_features.md").write_text(HEADER.format(versions=versions) + rows, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
