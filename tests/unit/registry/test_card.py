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


def section(card, name):
    return card.partition(f"## {name}\n\n")[2].partition("\n\n## ")[0].strip().splitlines()


def test_it_says_what_is_outlined_and_in_what(card):
    told = "Outlines left, right in CT volumes, looked at with 3 × 1 × 1 mm (z, y, x) between voxels."
    assert section(card, "Intended use")[0] == told
    several = model_card(CONFIG | {"recipe": {"channels": 4}}, OUTCOME, FIGURES, {}, None)
    assert section(several, "Intended use")[0] == told.replace("volumes", "volumes of 4 channels")
    assert section(model_card(CONFIG | {"recipe": {}}, OUTCOME, FIGURES, {}, None), "Intended use")[0] == told


def test_its_data_are_told_with_axes_from_the_slices_on_and_without_what_was_not_measured(card):
    assert section(card, "Its data") == [
        "* 12 cases, CT, of the training and of the test",
        "* outlined in: left 12, right 9",
        "* spacing z: 1.5 to 5 mm",
        "* spacing y: 0.7 to 0.8 mm",
        "* spacing x: 0.7 to 0.8 mm",
        "* size of left: 1 to 2.5 ml",
        "* scanners: A 7, B 5",
    ]
    bare = {"cases": 12, "modality": "CT", "spacing": {"z": []}}
    card = model_card(CONFIG | {"fingerprint_data": bare}, OUTCOME, FIGURES, {}, None)
    assert section(card, "Its data") == ["* 12 cases, CT, of the training and of the test"]


def test_a_model_of_many_full_cases_has_no_limits_but_its_data():
    everywhere = {"fingerprint_data": {"cases": 12, "modality": "CT", "labelled": {"left": 12, "right": 12}}}
    for count, limits in ((9, 2), (10, 1)):
        cases = pd.DataFrame({"case": [str(one) for one in range(count)], "label": "left", "dice": 0.8})
        card = model_card(CONFIG | everywhere, OUTCOME, cases, {}, None)
        assert len(section(card, "Limits")) == limits


def test_the_interval_is_of_patients_not_of_cases():
    cases = [f"{number}" for number in range(8)]
    figures = pd.DataFrame({"case": cases, "label": "left", "dice": [0.5, 0.5, 0.6, 0.6, 0.7, 0.7, 0.9, 0.9]})
    apart, twice = (
        section(model_card(CONFIG, OUTCOME, figures, {}, None, patients), "How good it is")[4]
        for patients in ({}, {case: str(int(case) // 2) for case in cases})
    )
    assert apart == "| left | 8 | 0.675 | 0.575 to 0.775 | 0.500 |"
    assert twice.startswith("| left | 8 | 0.675 | ")
    assert twice != apart


def test_labels_judged_as_one_have_a_table_of_their_own_and_a_model_without_has_none(card):
    regions = pd.DataFrame({"case": ["a", "b"], "label": "both", "dice": [0.9, 0.7]})
    united = {"both": ["left", "right"]}
    told = section(model_card(CONFIG, OUTCOME, FIGURES, {}, None, {}, regions, united), "How good it is")
    assert "Labels judged as one: both is left with right." in told
    assert any(row.startswith("| region | cases |") for row in told)
    assert any(row.startswith("| both | 2 | 0.800 |") for row in told)
    assert "judged as one" not in card


def test_it_says_where_it_comes_from_the_same_whatever_order_its_options_are_in():
    config = CONFIG | {"network": {"name": "unet", "levels": 4}, "training": {"steps": 7, "profile": "small"}}
    assert section(model_card(config, OUTCOME, FIGURES, {}, "f00"), "Where it comes from") == [
        "* files: SHA-256 abc",
        "* commit: f00",
        '* network: `{"levels": 4, "name": "unet"}`',
        '* training: `{"profile": "small", "steps": 7}`',
    ]


def test_a_group_of_which_nothing_is_known_says_so():
    assert "| none | 0 | not known |" in model_card(CONFIG, OUTCOME, FIGURES, {"none": ["z"]}, None)
