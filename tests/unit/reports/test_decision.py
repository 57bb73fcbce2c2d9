import re

import numpy as np
import pandas as pd
import pytest

from pipeline.params import RegisterParams
from pipeline.registry.comparison import paired_dice
from pipeline.registry.gate import decide
from pipeline.reports.decision import decision_page

CASES = [f"case_{number}" for number in range(12)]
GROUPS = {"<thick>": CASES[:4], "a thin group": CASES[4:]}


def figures(gain=0.0, labels=("<left>", "right")):
    """Case, label and Dice; the label 'absent' is nowhere and is not found anywhere."""
    dice = np.repeat(np.linspace(0.6, 0.9, len(CASES)) + gain, len(labels))
    rows = [(case, label) for case in CASES for label in labels]
    found = pd.DataFrame(rows, columns=["case", "label"]).assign(dice=dice)
    return found.assign(dice=found["dice"].where(found["label"] != "absent"))


def outcome_of(challenger, champion, **more):
    made = decide(challenger, champion, RegisterParams(resamples=200), GROUPS)
    return {
        "organ": "liver",
        "decision": "promoted" if made.promoted else "kept",
        "challenger_version": 2,
        "champion_version": 2 if made.promoted else 1,
        "compared_with": None if champion is None else 1,
        "reasons": [*made.reasons, "Drift: none."],
        "met": [*made.met, None],
        "evidence": made.evidence,
    } | more


def page_of(challenger, champion, **more):
    pairs = None if champion is None else paired_dice(challenger, champion)
    return decision_page(outcome_of(challenger, champion, **more), pairs)


def row_of(page, name):
    """The cells of the first row that begins with `name`."""
    cells = re.search(rf"<tr><td[^>]*>{re.escape(name)}</td>(.*?)</tr>", page)[1]
    return re.findall(r"<td[^>]*>(.*?)</td>", cells)


def test_both_stand_side_by_side_by_label_by_group_and_by_case():
    page = page_of(figures(0.05), figures())
    assert "Promoted: version 2 is the champion." in page
    assert "Version 2, held against version 1, the champion, on the same test cases." in page
    assert row_of(page, "right")[:4] == ["0.8000", "0.7500", "+0.0500", "+0.0500"]
    assert row_of(page, "all labels")[-1] == "12"
    assert row_of(page, "a thin group") == ["0.8545", "0.8045", "+0.0500", "8"]
    assert "24 are, 0 are worse, 0 the same" in page
    assert "case_11, right: challenger 0.950, champion 0.900" in page
    assert "Lost most" not in page


def test_every_condition_stands_with_its_verdict():
    challenger = figures(0.05)
    challenger.loc[challenger["case"].isin(CASES[:4]), "dice"] -= 0.3
    page = page_of(challenger, figures())
    assert "Version 2 is not promoted. Version 1 remains the champion." in page
    (collapsed,) = re.findall(r"<td[^>]*>(&lt;thick&gt;: Dice[^<]*)</td><td[^>]*>(.*?)</td>", page)
    assert "collapsed" in collapsed[0]
    assert collapsed[1] == '<span class="bad">no</span>'
    assert re.search(r"at least the minimum of 0.5.</td><td[^>]*><span class=\"good\">yes</span>", page)
    assert re.search(r"Drift: none.</td><td[^>]*><span class=\"soft\">does not decide</span>", page)
    assert row_of(page, "&lt;thick&gt;")[2] == '<span class="bad">-0.2500</span>'
    first = page.split("Lost most")[1]
    assert re.search(r"case_\d", first)[0] in CASES[:4]


def test_what_cannot_be_compared_is_a_dash():
    labels = ("<left>", "absent")
    page = page_of(figures(0.05, labels), figures(0.0, labels))
    assert row_of(page, "absent") == ["–", "–", "–", "–", "–", "0"]
    assert "<left>" not in page


def test_without_a_champion_the_challenger_stands_alone():
    page = page_of(figures(), None)
    assert "Version 2, held against nobody, on the same test cases." in page
    assert row_of(page, "right") == ["0.7500"]
    assert "Case by case" not in page
    assert "<svg" not in page


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"decision": "awaiting_approval", "champion_version": 1}, "hounsfield approve liver 2 --by NAME"),
        ({"decision": "awaiting_approval", "champion_version": None}, "There is no champion."),
        (
            {"approval": {"by": "Dr. <Rö>", "reason": "looks right"}},
            "Approved by Dr. &lt;Rö&gt;: looks right",
        ),
        ({"decision": "unchanged", "compared_with": 2}, "Nothing has changed: version 2 is the champion."),
    ],
)
def test_the_verdict_is_said_in_words(more, said):
    assert said in page_of(figures(0.05), figures(), **more)


def test_the_page_is_offline_and_the_same_for_the_same_content():
    page = page_of(figures(0.05), figures())
    assert not re.search(r"https?:|<script|<link", page)
    assert 'href="report.html"' in page
    outcome = outcome_of(figures(0.05), figures())
    ordered = dict(reversed(outcome["evidence"].items())) | {
        key: dict(reversed(outcome["evidence"][key].items())) for key in ("classes", "subgroups")
    }
    assert decision_page(outcome | {"evidence": ordered}, paired_dice(figures(0.05), figures())) == page
