import pandas as pd

from pipeline.metrics.subgroups import subgroups

TEST = pd.DataFrame(
    {
        "case": list("abcd"),
        "scanner": ["One", "Other", "Other", ""],
        "spacing_z": [1.0, 1.0, 5.0, 5.0],
        "spacing_y": [0.5] * 4,
        "spacing_x": [0.5] * 4,
        "ml_liver": [10.0, 20.0, 30.0, 40.0],
        "ml_spleen": [1.0, 1.0, 1.0, 1.0],
    }
)


def test_cases_are_grouped_by_scanner_spacing_and_size():
    assert subgroups(TEST) == {
        "scanner One": ["a"],
        "scanner Other": ["b", "c"],
        "spacing up to 3 mm": ["a", "b"],
        "spacing above 3 mm": ["c", "d"],
        "size up to 26 ml": ["a", "b"],
        "size above 26 ml": ["c", "d"],
    }


def test_two_scanners_make_two_groups_and_many_come_in_the_order_of_their_names():
    assert list(subgroups(TEST[["case", "scanner"]].iloc[:3])) == ["scanner One", "scanner Other"]
    names = [f"model {letter}" for letter in "hgfedcba"]
    many = pd.DataFrame({"case": list("abcdefgh"), "scanner": names})
    assert list(subgroups(many)) == [f"scanner {name}" for name in sorted(names)]


def test_what_all_cases_have_alike_makes_no_group():
    alike = TEST.assign(scanner="One", spacing_z=1.0, ml_liver=7.0)
    assert subgroups(alike) == {}
    assert subgroups(TEST[["case"]]) == {}


def test_a_volume_nobody_measured_is_no_reason_to_fail():
    assert subgroups(TEST.assign(ml_spleen=float("nan")))["size up to 25 ml"] == ["a", "b"]


def test_the_median_is_not_rounded_before_cases_are_held_against_it():
    # Rounded it is below all of them.
    many = pd.DataFrame({"case": list("abcdefghi"), "spacing_z": [1.40625] * 6 + [5.0] * 3})
    assert subgroups(many) == {
        "spacing up to 1.406 mm": list("abcdef"),
        "spacing above 1.406 mm": list("ghi"),
    }
