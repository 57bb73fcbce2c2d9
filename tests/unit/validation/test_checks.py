import pandas as pd
import pytest

from pipeline.params import ValidateParams
from pipeline.validation.checks import case_checks

LABELS = ["liver", "spleen", "left_kidney", "aorta", "thing"]
PLAN = {"modality": "CT", "labels": dict.fromkeys(LABELS, 1), "spacing": [3.0, 1.0, 0.5]}


@pytest.fixture(scope="module")
def limits():
    """What each check expects, by its name: (least, most)."""
    cases = pd.DataFrame({f"present_ml_{name}": [100.0] for name in LABELS})
    checks = case_checks("abdomen", cases, PLAN, ValidateParams(spacing_range=(0.2, 8.0)))
    rules = {check.name: check.rule.configuration.kwargs for check in checks}
    return {name: (rule.get("min_value"), rule.get("max_value")) for name, rule in rules.items()}


def test_an_organ_of_one_side_may_lie_a_tenth_beyond_the_middle(limits):
    assert limits["side_liver"] == (0.4, 2.0)
    assert limits["side_spleen"] == limits["side_left_kidney"] == (-1.0, 0.6)
    assert "side_aorta" not in limits
    assert "side_thing" not in limits


def test_an_organ_that_hangs_together_has_nine_tenths_in_one_piece(limits):
    assert limits["pieces_left_kidney"] == (0.9, None)
    assert "pieces_thing" not in limits


def test_what_nothing_is_known_of_is_held_against_nothing(limits):
    for check in ("hu", "small", "large", "side", "pieces"):
        assert f"{check}_thing" not in limits
    assert "hu_liver" in limits


def test_spacing_is_held_against_the_parameters_on_every_axis(limits):
    assert {axis: limits[f"spacing_{axis}"] for axis in "zyx"} == dict.fromkeys("zyx", (0.2, 8.0))
