import re

import pandas as pd
import pytest

from pipeline.params import ValidateParams
from pipeline.reports.data_docs import data_docs, offline
from pipeline.validation.judge import judge_dataset


@pytest.fixture(scope="module")
def outcomes():
    rows = pd.DataFrame({"case": ["a", "b"], "patient": ["a", "b"], "annotated": "", "ml_liver": [1500.0, 0]})
    return judge_dataset(rows, 4, ["liver"], ValidateParams()).outcomes


def test_there_is_a_page_a_suite_and_an_index(outcomes):
    pages = data_docs("abdomen", outcomes)
    assert set(pages) == {"index.html", "dataset.html"}
    assert 'href="dataset.html"' in pages["index.html"]
    assert "at least 8 cases are accepted" in pages["dataset.html"]


def test_nothing_comes_from_the_network(outcomes):
    for content in data_docs("abdomen", outcomes).values():
        assert not re.search(r"""(src|href)\s*=\s*["']?\s*(https?:)?//""", content)
        assert "@import" not in content
        assert "<script" not in content
        assert "<link" not in content


def test_the_same_outcome_gives_the_same_bytes(outcomes):
    assert data_docs("abdomen", outcomes) == data_docs("abdomen", outcomes)


def test_names_of_labels_are_text_whatever_they_hold():
    names = ["<svg onload=alert(1)>", "lesion & oedema", "p$q"]
    rows = pd.DataFrame({"case": ["a", "b"], "patient": ["a", "b"], "annotated": ""})
    rows = rows.assign(**{f"ml_{name}": [1500.0, 0] for name in names})
    drawn = data_docs("abdomen", judge_dataset(rows, 4, names, ValidateParams()).outcomes)["dataset.html"]
    assert "<svg" not in drawn
    for shown in ("&lt;svg onload=alert(1)&gt;", "lesion &amp; oedema", "p$q"):
        assert f"\n{shown} is labelled in some case\n" in drawn


def test_what_differs_from_run_to_run_is_numbered():
    first = "0d9b6d50-3c4e-4d7e-9a8a-1d5f0c4b2a11"
    second = "1d9b6d50-3c4e-4d7e-9a8a-1d5f0c4b2a11"
    drawn = (
        f'<html><body><div class="container-fluid"><a href="#{first}">x</a><b id={second}></b></body></html>'
    )
    made = offline(drawn, "<t>")
    assert 'href="#1"' in made
    assert "<b id=2>" in made
    assert "&lt;t&gt;" in made


def test_a_link_to_elsewhere_leaves_its_words():
    drawn = '<body><div class="container-fluid"><a href="https://x.org/a?b">there</a><img src="y"></body>'
    made = offline(drawn, "t")
    assert "there" in made
    assert "x.org" not in made
    assert "<img" not in made
