import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from pipeline.reports.evaluation import report_page

CONFIG = {
    "organ": "abdomen",
    "labels": {"liver": 1, "spleen": 2},
    "modality": "CT",
    "spacing": [3.0, 1.5, 1.5],
    "patch_size": [32, 48, 48],
    "normalisation": [{"image": 0, "clip": [-20.0, 180.0], "mean": 100.0, "std": 30.0}],
    "network": {"name": "residual_unet", "channels": [12, 24, 48]},
    "training": {"steps": 400, "loss": {"dice_weight": 1.0}},
}


@pytest.fixture
def per_case():
    """Spleen: outlined, missed, invented, and absent from both."""
    rows = [
        ("case_a", "liver", 0.9, 1000.0, 1010.0),
        ("case_b", "liver", 0.8, 1200.0, 1170.0),
        ("case_c", "liver", 0.7, 1100.0, 1120.0),
        ("case_d", "liver", 0.6, 900.0, 900.0),
        ("case_a", "spleen", 0.6, 200.0, 210.0),
        ("case_b", "spleen", 0.0, 200.0, 0.0),
        ("case_c", "spleen", 0.0, 0.0, 12.0),
        ("case_d", "spleen", np.nan, 0.0, 0.0),
    ]
    table = pd.DataFrame(rows, columns=["case", "label", "dice", "truth_ml", "predicted_ml"])
    surfaces = {
        "hd95": [2.0, 3.0, 4.0, 9.0, 1.0, np.inf, np.inf, np.nan],
        "assd": [1.0, 1.0, 2.0, 2.0, 0.5, np.inf, np.inf, np.nan],
        "nsd": [0.9, 0.8, 0.7, 0.6, 0.9, 0.0, 0.0, np.nan],
    }
    return table.assign(iou=table["dice"] / (2 - table["dice"]), **surfaces)


@pytest.fixture
def curves():
    steps = np.arange(1, 1001)
    dice = np.where(steps % 100 == 0, steps / 1200, np.nan)
    return pd.DataFrame({"step": steps, "loss": 2 / steps, "dice": dice})


def cells(html):
    """Rows of all tables, as text."""
    rows = re.findall(r"<tr>(.*?)</tr>", html)
    return [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows]


def test_figures_are_of_the_defined_cases(per_case):
    html = report_page("abdomen", CONFIG, per_case, None, [], 1.5)
    rows = cells(html)
    assert ["liver", "4", "0.750", "0.650 to 0.850", "0.750", "0.600", "+5.0", "case_d"] in rows
    assert ["spleen", "3", "0.200", "0.000 to 0.600", "0.000", "0.000", "+10.0", "case_b"] in rows
    assert "<b>0.475</b>" in html  # the mean over labels of 0.75 and 0.2


def test_surfaces_are_told_with_the_tolerance_and_how_often_they_are_infinitely_far(per_case):
    html = report_page("abdomen", CONFIG, per_case, None, [], 1.5)
    assert ["liver", "4", "3.50", "1.50", "9.00", "0.750", "0"] in cells(html)
    assert ["spleen", "3", "∞", "∞", "1.00", "0.300", "2"] in cells(html)
    assert "within 1.5 mm" in html


def test_groups_of_cases_are_held_against_the_others(per_case):
    groups = {"scanner A": ["case_a", "case_d"], "scanner B": ["case_b"]}
    rows = cells(report_page("abdomen", CONFIG, per_case, None, [], 1.5, groups))
    # Means of the cases: 0.75, 0.4, 0.35, 0.6.
    assert ["scanner A", "2", "0.675", "0.600 to 0.750", "0.600", "+0.300"] in rows
    assert ["scanner B", "1", "0.400", "–", "0.400", "-0.167"] in rows


def test_empty_masks_are_counted_by_kind(per_case):
    html = report_page("abdomen", CONFIG, per_case, None, [], 1.5)
    assert ["spleen", "1", "1", "1", "1"] in cells(html)
    assert "What empty masks mean" in html


def test_a_label_that_nobody_looked_for_in_a_case_is_neither_invented_nor_empty(per_case):
    unknown = (
        per_case[per_case["label"] == "spleen"]
        .iloc[:2]
        .assign(case=["case_e", "case_f"], dice=np.nan, truth_ml=np.nan, predicted_ml=[90.0, 0.0])
    )
    html = report_page("abdomen", CONFIG, pd.concat([per_case, unknown]), None, [], 1.5)
    assert ["spleen", "1", "1", "1", "1"] in cells(html)


def test_every_defined_case_is_a_dot(per_case):
    html = report_page("abdomen", CONFIG, per_case, None, [], 1.5)
    assert html.count("<circle") == 7
    assert "<title>case_c: 0.700</title>" in html


def test_training_is_told_setting_by_setting(per_case):
    rows = cells(report_page("abdomen", CONFIG, per_case, None, [], 1.5))
    assert ["spacing (z, y, x), mm", "3, 1.5, 1.5"] in rows
    assert ["training, loss, dice weight", "1"] in rows
    assert ["network, channels", "12, 24, 48"] in rows
    assert ["normalisation, clip", "-20, 180"] in rows


def test_curves_are_thinned_and_left_out_where_there_are_none(per_case, curves):
    html = report_page("abdomen", CONFIG, per_case, curves, [], 1.5)
    loss, dice = re.findall(r'<polyline class="curve" points="([^"]*)"', html)
    assert 100 <= len(loss.split()) <= 200
    assert len(dice.split()) == 10
    assert "How it learnt" not in report_page("abdomen", CONFIG, per_case, None, [], 1.5)
    unwatched = report_page("abdomen", CONFIG, per_case, curves.assign(dice=np.nan), [], 1.5)
    assert unwatched.count("<polyline") == 1


def test_worst_cases_are_shown_with_their_dice(per_case):
    html = report_page("abdomen", CONFIG, per_case, None, [("case_b", b"png"), ("case_d", b"png")], 1.5)
    assert html.count("data:image/png;base64,") == 2
    assert "case_b: Dice of liver 0.800, spleen 0.000" in html
    assert "case_d: Dice of liver 0.600, spleen –" in html


def test_a_label_that_no_test_case_has_is_said_not_computed(per_case):
    per_case.loc[per_case["label"] == "spleen", ["dice", "iou"]] = np.nan
    html = report_page("abdomen", CONFIG, per_case, None, [], 1.5)
    assert ["spleen", "0", "–", "–", "–", "–", "–", "–"] in cells(html)
    assert "<b>0.750</b>" in html


def test_the_page_needs_no_network_and_is_the_same_again(per_case, curves):
    html, again = (
        report_page("abdomen", CONFIG, per_case, curves, [("case_b", b"png")], 1.5) for _ in range(2)
    )
    assert html == again
    assert "http://" not in html
    assert "https://" not in html
    tags = []
    reader = HTMLParser()
    reader.handle_starttag = lambda tag, attrs: tags.append((tag, dict(attrs)))
    reader.feed(html)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in tags}
    assert all(attrs["src"].startswith("data:") for _, attrs in tags if "src" in attrs)


def test_what_probabilities_are_worth_is_told_by_label(per_case):
    """Of `liver` 80 % are said and 60 % are so; `spleen` says what is so."""
    bins = pd.DataFrame(
        [
            ("liver", 9, 100, 0.95, 0.7, 12),
            ("liver", 5, 100, 0.65, 0.5, 12),
            ("spleen", 3, 50, 0.35, 0.352, 0),
        ],
        columns=["label", "bin", "voxels", "confidence", "observed", "missed"],
    )
    page = report_page("abdomen", CONFIG, per_case, None, [], 1.5, calibration=bins)
    cells = [
        cell
        for row in bins["label"].unique()
        for cell in re.findall(rf"<tr><td[^>]*>{row}</td>.*?</tr>", page)
    ]
    told = [re.sub(r"<[^>]+>", " ", cell).split() for cell in cells if "%" in cell]
    assert ["liver", "80.0%", "60.0%", "0.200", "12", "over-confident"] in told
    assert ["spleen", "35.0%", "35.2%", "0.002", "0", "true"] in told
    assert page.count("predicted 95%, observed 70% of 100 voxels") == 1
    assert "worth" not in report_page("abdomen", CONFIG, per_case, None, [], 1.5)
