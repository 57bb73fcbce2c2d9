import json
import os

import pytest

from pipeline.reports.validation import validation_page, write_validation

COUNTS = {
    "found": 4,
    "accepted": 2,
    "train": 1,
    "test": 1,
    "warned": 1,
    "quarantined_by_ingest": 1,
    "quarantined_by_validation": 1,
    "not_judged": 0,
}


@pytest.fixture
def result():
    return {
        "organ": "abdomen",
        "counts": COUNTS,
        "problems": [],
        "quarantined": [
            {"case": "a", "by": "ingest", "reason": "a: the image is cut off", "remedy": "copy it again"},
            {"case": "b", "by": "validation", "reason": "it is a copy of c", "remedy": "remove one"},
        ],
        "warned": [{"case": "c", "reason": "<liver> is absent", "remedy": "look"}],
        "checks": [
            {"title": "no copies", "severity": "error", "rows": 3, "failed": ["b"], "passed": False},
            {
                "title": "liver is labelled",
                "severity": "warning",
                "rows": 3,
                "failed": ["c"],
                "passed": False,
            },
        ],
    }


def test_each_case_stands_with_its_reason_and_remedy(result):
    page = validation_page(result, {"c": b"png"})
    for told in ("the image is cut off", "copy it again", "it is a copy of c", "&lt;liver&gt; is absent"):
        assert told in page
    assert "a: the image" not in page  # the case has a column of its own
    assert page.count("data:image/png;base64,") == 1
    assert "without a picture here: 2" in page


def test_the_page_is_offline_and_has_no_script(result):
    page = validation_page(result, {"c": b"png"})
    for forbidden in ("http://", "https://", "<script", "<link"):
        assert forbidden not in page


def test_problems_are_said_first(result):
    result["problems"] = [{"reason": "2 cases are accepted, fewer than 8", "remedy": "add cases"}]
    page = validation_page(result, {})
    assert page.index("fewer than 8: add cases.") < page.index("Quarantined</h2>")
    assert "stopped here" in page


def test_nothing_wrong_leaves_out_the_empty_sections(result):
    page = validation_page(result | {"quarantined": [], "warned": []}, {})
    for heading in ("Quarantined</h2>", "What they look like", "Why nothing is trained"):
        assert heading not in page


def test_the_folder_is_replaced_as_a_whole(tmp_path, result):
    folder = tmp_path / "reports/validation"
    folder.mkdir(parents=True)
    (folder / "from_before.txt").touch()
    killed = tmp_path / "reports/.validation.partial"
    killed.mkdir()
    (killed / "half.html").touch()
    write_validation(folder, result, {})
    assert sorted(os.listdir(folder)) == ["index.html", "result.json"]
    assert os.listdir(folder.parent) == ["validation"]
    assert json.loads((folder / "result.json").read_text()) == result
