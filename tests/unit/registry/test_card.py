import numpy as np
import pandas as pd
import pytest

from pipeline.registry.card import model_card

CONFIG = {
    "labels": {"left": 1, "right": 2},
    "modality": "CT",
    "spacing": [3.0, 1.0, 1.0],
    "recipe": {"channels": 1, "annotation": {"kind": "full"}},
    "network": {"name": "residual_unet"},
    "training": {"steps": 7},
    "fingerprint_data": {
        "cases": 12,
        "modality": "CT",
        "labelled": {"left": 12, "right": 9},
        "scanners": {"A": 7, "B": 5},
        "spacing": {"z": [1.5, 2.0, 5.0], "y": [0.7, 0.8], "x": [0.7, 0.8]},
        "volumes": {"left": [1.0, 2.5], "right": []},
    },
}
OUTCOME = {
    "organ": "kidney",
    "challenger_version": 4,
    "content": "abc",
    "decision": "promoted",
    "reasons": ["All classes: better.", "left: not worse."],
}
FIGURES = pd.DataFrame(
    {
        "case": ["a", "a", "b", "b", "c", "c"],
        "label": ["left", "right"] * 3,
        "dice": [0.9, 0.8, 0.7, np.nan, 0.8, 0.6],
    }
)
GROUPS = {"scanner A": ["a", "b"], "scanner B": ["c"]}


@pytest.fixture
def card():
    return model_card(CONFIG, OUTCOME, FIGURES, GROUPS, "f00")


def test_it_says_how_good_the_model_is_on_each_label_and_each_group(card):
    assert "| left | 3 | 0.800 |" in card
    assert "| right | 2 | 0.700 |" in card
    # Of each case the mean first: (0.85 + 0.7) / 2.
    assert "| scanner A | 2 | 0.775 |" in card
    assert "| scanner B | 1 | 0.700 |" in card


def test_it_says_what_its_data_are_the_test_cases_among_them_and_why_it_was_promoted(card):
    for said in (
        "12 cases, CT, of the training and of the test",
        "spacing z: 1.5 to 5 mm",
        "left: 1 to 2.5 ml",
        "A 7, B 5",
        "left: not worse.",
    ):
        assert said in card.replace("size of ", "")


def test_it_says_where_the_model_may_fail(card):
    assert "tested on 3 cases only" in card
    assert "every one of its cases: right." in card
    weak = CONFIG | {"recipe": {"annotation": {"kind": "points"}}}
    assert "no full outlines (points)" in model_card(weak, OUTCOME, FIGURES, {}, None)


def test_a_label_without_figures_and_a_model_without_a_fingerprint_are_told():
    old = {key: value for key, value in CONFIG.items() if key != "fingerprint_data"}
    card = model_card(old, OUTCOME, FIGURES.assign(dice=np.nan), {}, None)
    assert "| left | 0 | not known |" in card
    assert "Its data" not in card
    assert "commit: not known" in card
