"""The table of features takes nothing that was not seen to work."""

import pytest

from scripts.peft_features import passed_tests, table

REPORT = """<testsuites><testsuite>
<testcase classname="tests.test_hub" name="test_card[a]"/>
<testcase classname="tests.test_hub" name="test_card[b]"/>
<testcase classname="tests.test_hub" name="test_other"><failure/></testcase>
<testcase classname="tests.test_hub" name="test_skipped"><skipped/></testcase>
</testsuite></testsuites>"""


@pytest.fixture
def results(tmp_path):
    (tmp_path / "report.xml").write_text(REPORT)
    return passed_tests([tmp_path / "report.xml"])


def test_rows_count_the_tests_that_passed(results):
    lora = {"state": "no", "tests": ["test_card[a]"]}
    features = [{"feature": "Cards", "mona": ["test_card"], "lora": lora, "authors": "none"}, {"feature": "More"}]
    assert table(features, results) == "| Cards | yes (2) | no (1) | none |\n| More | - | - | - |\n"


@pytest.mark.parametrize("name", ["test_other", "test_skipped", "test_missing"])
def test_what_did_not_pass_is_refused(results, name):
    with pytest.raises(ValueError, match=f"Not seen to work.*{name}"):
        table([{"feature": "Cards", "mona": [name]}], results)
