"""The pages for people as a browser shows them, on a phone and on a desktop."""

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.params import RegisterParams
from pipeline.registry.comparison import paired_dice
from pipeline.registry.gate import decide
from pipeline.reports.decision import decision_page
from pipeline.reports.evaluation import report_page
from pipeline.reports.overlay import overlay_png

pytestmark = pytest.mark.skipif(
    shutil.which("chromium") is None, reason="needs chromium (apt-get install chromium)"
)
SCREENSHOTS = Path(__file__).parents[2] / "docs" / "make_screenshots.py"
LABELS = {"liver": 1, "a_label_whose_name_is_so_long_that_it_has_to_be_broken_somewhere": 2}
LOADED = (
    "performance.getEntriesByType('resource').map(entry => entry.name).filter(name => !/^data:/.test(name))"
)
MISSING = "[...document.images].filter(image => !image.naturalWidth).length"


@pytest.fixture
def page(tmp_path):
    spec = importlib.util.spec_from_file_location("make_screenshots", SCREENSHOTS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with module.browser(tmp_path / "chromium") as opened:
        yield opened


@pytest.fixture
def report(tmp_path):
    rng = np.random.default_rng(0)
    image, label = rng.normal(0, 100, (20, 40, 40)).astype(np.float32), np.zeros((20, 40, 40), np.uint8)
    label[5:12, 8:30, 8:30] = 1
    png = overlay_png(image, label, np.roll(label, 2, 1), (3.0, 1.0, 1.0), (-160.0, 240.0), LABELS)
    rows = [
        {"case": f"a_case_of_a_long_name_{case}", "label": name, **dict.fromkeys(("dice", "iou", "nsd"), 0.7)}
        | {"hd95": 3.0, "assd": 1.0, "truth_ml": 1200.0, "predicted_ml": 1300.0}
        for case in range(4)
        for name in LABELS
    ]
    bins = pd.DataFrame(
        [(name, 9, 1000, 0.95, 0.9, 5) for name in LABELS],
        columns=["label", "bin", "voxels", "confidence", "observed", "missed"],
    )
    config = {"modality": "CT", "labels": LABELS, "training": {"steps": 3}}
    config["clean"] = {"liver": {"largest": True, "gain": 0.01}}
    curves = pd.DataFrame({"step": [1, 2], "loss": [2.0, 1.0], "dice": [0.1, 0.7]})
    path = tmp_path / "report.html"
    per_case = pd.DataFrame(rows)
    groups = {"scanner of a manufacturer with a long name": [rows[0]["case"]]}
    page = report_page("abdomen", config, per_case, curves, [(rows[0]["case"], png)], 1.0, groups, bins)
    path.write_text(page)
    return path


@pytest.fixture
def decision(tmp_path):
    rng = np.random.default_rng(0)
    rows = [(f"a_case_of_a_long_name_{case}", name) for case in range(12) for name in LABELS]
    champion = pd.DataFrame(rows, columns=["case", "label"]).assign(dice=rng.uniform(0.4, 0.9, len(rows)))
    challenger = champion.assign(dice=champion["dice"] + rng.normal(0.01, 0.05, len(rows)))
    groups = {"scanner of a manufacturer with a long name": [case for case, _ in rows[:8]]}
    made = decide(challenger, champion, RegisterParams(resamples=200), groups)
    outcome = {
        "organ": "abdomen",
        "decision": "kept",
        "challenger_version": 12,
        "champion_version": 11,
        "compared_with": 11,
        "evidence": made.evidence,
        "reasons": made.reasons,
        "met": made.met,
    }
    path = tmp_path / "decision.html"
    path.write_text(decision_page(outcome, paired_dice(challenger, champion)), encoding="utf-8")
    return path


def test_nothing_of_a_decision_is_missing_cut_off_or_fetched(page, decision):
    for width in (390, 1280):
        page.size(width, 900)
        page.open(decision.as_uri())
        page.wait_for("document.readyState === 'complete' && document.querySelector('h1')")
        assert page.evaluate(LOADED) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("document.querySelectorAll('svg').length") == 2
        assert page.evaluate("document.querySelectorAll('svg circle').length") == 3 + 12 * len(LABELS)


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_missing_cut_off_or_fetched(page, report, width):
    page.size(width, 900)
    page.open(report.as_uri())
    page.wait_for("document.readyState === 'complete' && document.querySelector('h1')")
    assert page.evaluate("document.images.length") == 1
    assert page.evaluate(MISSING) == 0
    assert page.evaluate(LOADED) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.querySelectorAll('svg').length") == 1 + len(LABELS) + 2
