import json
from xml.etree import ElementTree

import pandas as pd
import pytest

from pipeline.leaderboard.board import chance
from pipeline.leaderboard.one import figures
from pipeline.leaderboard.page import dice_against_cost, write_page
from pipeline.leaderboard.systems import Budget


def row(name, dice, **more):
    return {
        "system": name,
        "dice": dice,
        "worst": dice / 2,
        "hd95": 1.5,
        "nsd": None,
        "parameters": 1234567,
        "gflops": 10 * dice,
        "seconds": 12.4,
        "resumed": False,
        "seconds_a_case": 0.1,
        "memory_mb": 700.0,
        "cases": 23,
        "folder": f"/nowhere/{name}-0123456789abcdef",
    } | more


def test_the_page_holds_every_system_and_how_it_came_about(tmp_path):
    rows = [
        row("unet", 0.8),
        row("vnet", 0.7, resumed=True),
        {"system": "fcn", "error": "no", "folder": "/x"},
    ]
    page = write_page(
        tmp_path,
        "liver",
        rows,
        Budget("steps", 200),
        "small",
        (8, 16, 24),
        0.05,
        "hounsfield leaderboard liver",
    )
    said = page.read_text()
    assert "| unet | 0.800 | 0.400 | 1.50 | - | 1,234,567 | 8.00 | 12 | 0.10 | 700 |" in said
    # Of a training that was interrupted only the last part was timed.
    assert "| 12+ |" in said
    assert "* `fcn`: no" in said
    assert "    hounsfield leaderboard liver" in said
    assert "0.050" in said
    assert "8 × 16 × 24 voxels" in said
    stored = json.loads((tmp_path / "liver" / "leaderboard.json").read_text())
    assert [system["system"] for system in stored["systems"]] == ["unet", "vnet", "fcn"]
    assert "/nowhere" not in json.dumps(stored)
    assert (tmp_path / "liver" / "dice.svg").is_file()


def test_the_picture_of_a_worst_case_is_beside_the_page(tmp_path):
    folder = tmp_path / "unet-0123456789abcdef"
    folder.mkdir()
    (folder / "worst.png").write_bytes(b"picture")
    rows = [row("unet", 0.8, folder=str(folder))]
    write_page(tmp_path / "pages", "liver", rows, Budget("steps", 2), "small", (8, 16, 24), 0.05, "")
    assert (tmp_path / "pages" / "liver" / "worst" / "unet.png").read_bytes() == b"picture"


def test_the_plot_names_every_system_and_is_the_same_for_the_same_rows():
    rows = [row("unet", 0.8), row("vnet", 0.7)]
    drawn = dice_against_cost(rows)
    assert drawn == dice_against_cost(rows)
    texts = [element.text for element in ElementTree.fromstring(drawn).iter() if element.text]
    assert {"unet", "vnet"} <= set(texts)


def test_chance_is_the_dice_of_calling_everything_one_label():
    cases = pd.DataFrame(
        {f"shape_{axis}": [10] for axis in "zyx"} | {f"spacing_{axis}": [1.0] for axis in "zyx"}
    ).assign(ml_a=0.5, ml_b=0.0)
    # Half of the voxels: precision one half, sensitivity one.
    assert chance(cases, ["a"]) == pytest.approx(2 / 3)
    assert chance(cases, ["a", "b"]) == pytest.approx(1 / 3)
    # Of the third nothing is known.
    assert chance(cases.assign(ml_c=float("nan")), ["a", "b", "c"]) == pytest.approx(1 / 3)


def test_means_are_over_cases_then_labels():
    per_case = pd.DataFrame(
        {
            "case": ["one", "two", "one", "two"],
            "label": ["a", "a", "b", "b"],
            "dice": [1.0, 0.5, 0.5, None],
            "hd95": [1.0, float("inf"), 3.0, 5.0],
        }
    )
    assert figures(per_case) == {"dice": 0.625, "hd95": 2.5, "worst": 0.5}
