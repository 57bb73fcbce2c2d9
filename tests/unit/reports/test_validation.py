import json
import os
import re

import pytest

from pipeline.reports.validation import AT_ONCE, validation_page, write_validation

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
        "notices": [],
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


def test_each_case_stands_with_picture_reason_and_remedy(result):
    page = validation_page(result, {"c": "pictures/00003.png"}, [("liver", (1, 2, 3))])
    for told in ("the image is cut off", "copy it again", "it is a copy of c", "&lt;liver&gt; is absent"):
        assert told in page
    assert "a: the image" not in page  # the case's name stands above
    assert page.count("<article") == 3
    assert page.count('<img loading="lazy" src="pictures/00003.png"') == 1
    assert page.count("no picture: the file cannot be read") == 2
    assert "rgb(1, 2, 3)" in page


def test_all_that_is_wrong_with_a_case_stands_in_one_place(result):
    result["warned"] += [{"case": "c", "reason": "it is small", "remedy": "look again"}]
    page = validation_page(result, {})
    assert page.count("<article") == 3
    assert "it is small" in page


def test_of_very_many_cases_the_rest_is_folded_away_and_none_left_out(result):
    result["warned"] = [
        {"case": f"case_{number}", "reason": "odd", "remedy": "look"} for number in range(AT_ONCE + 5)
    ]
    page = validation_page(result, {})
    assert page.count("<article") == AT_ONCE + 5 + 2
    assert "Show the other 5 cases" in page


def test_the_page_is_offline_and_has_no_script(result):
    page = validation_page(result, {"c": "pictures/00001.png"}, docs=True)
    for forbidden in ("http://", "https://", "<script", "<link"):
        assert forbidden not in page
    assert set(re.findall(r'(?:src|href)="([^"]*)"', page)) == {"pictures/00001.png", "data_docs/index.html"}


def test_problems_are_said_first_and_notices_after_them(result):
    result["problems"] = [{"reason": "2 cases are accepted, fewer than 8", "remedy": "add cases"}]
    result["notices"] = [{"reason": "no case of the test set has liver", "remedy": "add some"}]
    page = validation_page(result, {})
    assert page.index("fewer than 8: add cases.") < page.index("no case of the test set has liver")
    assert page.index("no case of the test set has liver") < page.index("Quarantined</h2>")
    assert "stopped here" in page


def test_nothing_wrong_leaves_out_the_empty_sections(result):
    page = validation_page(result | {"quarantined": [], "warned": []}, {})
    for heading in ("Quarantined</h2>", "Accepted with a warning", "Why nothing is trained", "as a whole"):
        assert heading not in page


def test_the_folder_is_replaced_as_a_whole(tmp_path, result):
    folder = tmp_path / "reports/validation"
    folder.mkdir(parents=True)
    (folder / "from_before.txt").touch()
    killed = tmp_path / "reports/.validation.partial"
    killed.mkdir()
    (killed / "half.html").touch()
    pictures = [("a", None), ("c", b"png")]
    write_validation(folder, result, pictures, docs={"index.html": "docs"})
    assert sorted(os.listdir(folder)) == ["data_docs", "index.html", "pictures", "result.json"]
    assert os.listdir(folder / "pictures") == ["00002.png"]
    assert (folder / "pictures/00002.png").read_bytes() == b"png"
    assert 'src="pictures/00002.png"' in (folder / "index.html").read_text()
    assert (folder / "data_docs/index.html").read_text() == "docs"
    assert os.listdir(folder.parent) == ["validation"]
    assert json.loads((folder / "result.json").read_text()) == result


def test_pictures_are_taken_one_after_the_other(tmp_path, result):
    """So that a thousand of them are never held together."""
    folder = tmp_path / "reports/validation"

    def drawn():
        for number, case in enumerate(("a", "b", "c"), start=1):
            assert len(list((tmp_path / "reports/.validation.partial/pictures").iterdir())) == number - 1
            yield case, b"png"

    write_validation(folder, result, drawn())
    assert len(os.listdir(folder / "pictures")) == 3
