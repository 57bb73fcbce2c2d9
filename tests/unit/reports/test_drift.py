import re

import pytest

from pipeline.reports.drift import drift_page, drift_png
from pipeline.validation.drift import drift


@pytest.fixture
def now():
    quantiles = [float(value) for value in range(1, 22)]
    return {
        "cases": 20,
        "modality": "CT",
        "spacing": dict.fromkeys("zyx", quantiles),
        "histogram": [1 / 16] * 16,
        "volumes": {"<liver>": quantiles},
        "labelled": {"<liver>": 20},
        "scanners": {"One": 12, "Two": 8},
    }


@pytest.fixture
def then(now):
    return now | {"scanners": {"One": 20}, "volumes": {"<liver>": [100.0 + one for one in range(21)]}}


def test_each_subject_stands_with_its_verdict_and_a_sentence(now, then):
    rows = drift(now, then)
    page = drift_page("abdomen", rows, now, then, 7)
    for row in rows:
        assert row.verdict in page
    assert "never seen before: Two" in page
    # Those of its test set are among them, of which it has learned nothing.
    assert "accepted cases when version 7 was trained" in page
    assert "&lt;liver&gt;" in page
    assert "<liver>" not in page
    assert page.count("data:image/png;base64,") == 1


def test_the_page_is_offline_and_the_same_for_the_same_data(now, then):
    page = drift_page("abdomen", drift(now, then), now, then, None)
    assert not re.search(r"https?://|<script|<link|@import", page)
    assert page == drift_page("abdomen", drift(now, then), now, then, None)


def test_data_with_nothing_measured_can_be_drawn(now):
    bare = now | {"histogram": [], "volumes": {"<liver>": []}, "scanners": {}}
    assert drift_png(bare, bare).startswith(b"\x89PNG")


def test_a_name_with_dollars_is_no_formula(now):
    odd = now | {"scanners": {"a$\\frac$b": 20}, "volumes": {"a$\\frac$b": [1.0] * 21}}
    assert drift_png(odd, odd).startswith(b"\x89PNG")


def test_a_name_in_letters_that_the_font_of_pictures_lacks_warns_nobody(now):
    odd = now | {"volumes": {"肝臓": [1.0] * 21}, "labelled": {"肝臓": 20}}
    assert "肝臓" in drift_page("abdomen", drift(odd, odd), odd, odd, 1)


def test_another_modality_has_no_picture(now):
    other = now | {"modality": "MR"}
    assert "<img" not in drift_page("abdomen", drift(now, other), now, other, 1)
