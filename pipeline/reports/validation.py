"""The page about validation: how many cases came through, which did not, and what to do about each."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.atomic import write_json, write_text
from pipeline.reports.page import Html, emphasis, facts, page, paragraph, picture, section, table

PAGE, RESULT = "index.html", "result.json"


def write_validation(folder: Path, result: Mapping[str, Any], pictures: Mapping[str, bytes]) -> None:
    """Write the page and result.json into `folder`, which is replaced as a whole.

    Args:
        folder: the old one stays until the new one is complete.
        result: what was found: `organ`, `counts`, `problems`, `quarantined`, `warned` and `checks`.
        pictures: case to PNG.
    """
    # One fixed name: what a killed run left is overwritten, not kept beside.
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    write_json(partial / RESULT, result)
    write_text(partial / PAGE, validation_page(result, pictures))
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(partial, folder)


def validation_page(result: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """The page as HTML."""
    counts = result["counts"]
    blocks = [_facts(counts)]
    if result["problems"]:
        blocks.append(_problems(result["problems"]))
    if result["quarantined"]:
        blocks.append(_quarantined(result["quarantined"]))
    if result["warned"]:
        blocks.append(_warned(result["warned"]))
    if pictures:
        blocks.append(_pictures(result, pictures))
    blocks.append(_checks(result["checks"]))
    verdict = (
        "stopped here" if result["problems"] else f"{counts['accepted']} of {counts['found']} cases accepted"
    )
    return page(f"{result['organ']}: validation", f"Great Expectations on the case table: {verdict}.", blocks)


def _facts(counts: Mapping[str, int]) -> Html:
    pairs = [
        (str(counts["found"]), "cases found"),
        (str(counts["accepted"]), "accepted"),
        (f"{counts['train']} + {counts['test']}", "of them to train on and for the test"),
        (str(counts["warned"]), "of them with a warning"),
        (str(counts["quarantined_by_ingest"]), "quarantined by ingest"),
        (str(counts["quarantined_by_validation"]), "quarantined by validation"),
    ]
    if counts["not_judged"]:
        pairs.append((str(counts["not_judged"]), "not judged"))
    return facts(pairs)


def _problems(problems: list[dict[str, str]]) -> Html:
    return section(
        "Why nothing is trained",
        *(paragraph(f"{problem['reason']}: {problem['remedy']}.", "notice") for problem in problems),
    )


def _quarantined(cases: list[dict[str, str]]) -> Html:
    rows = [[one["case"], one["by"], _without_name(one), one["remedy"]] for one in cases]
    return section(
        "Quarantined",
        paragraph(
            "These cases are not learnt from. Mend one and run again; only it is ingested again.", "soft"
        ),
        table(["case", "by", "reason", "what to do"], rows),
    )


def _without_name(one: dict[str, str]) -> str:
    """The reason without the case's name in front: the table has it in a column of its own."""
    return one["reason"].removeprefix(f"{one['case']}: ")


def _warned(warnings: list[dict[str, str]]) -> Html:
    rows = [[one["case"], one["reason"], one["remedy"]] for one in warnings]
    return section(
        "Accepted with a warning",
        paragraph("These cases are learnt from, but a person should look at them once.", "soft"),
        table(["case", "warning", "what to do"], rows),
    )


def _pictures(result: Mapping[str, Any], pictures: Mapping[str, bytes]) -> Html:
    reasons: dict[str, list[str]] = {}
    for one in [*result["quarantined"], *result["warned"]]:
        reasons.setdefault(one["case"], []).append(_without_name(one))
    figures = [picture(png, f"{case}: {'; '.join(reasons[case])}") for case, png in pictures.items()]
    others = len(reasons) - len(pictures)
    if others:
        figures.append(paragraph(f"Cases named above without a picture here: {others}.", "soft"))
    return section("What they look like", *figures)


def _checks(checks: list[dict[str, Any]]) -> Html:
    blocks = []
    outcomes = {"error": "quarantined, a table that fails one stops the run", "warning": "marked"}
    for severity, outcome in outcomes.items():
        rows = [_check_row(check) for check in checks if check["severity"] == severity]
        if rows:
            blocks.append(paragraph(f"A case that fails one of these is {outcome}:", "soft"))
            blocks.append(table(["expectation", "pass", "fail"], rows, numbers=("pass", "fail")))
    return section("What was expected", *blocks)


def _check_row(check: Mapping[str, Any]) -> list[str]:
    failed = len(check["failed"])
    tone = "bad" if check["severity"] == "error" else "warn"
    return [check["title"], str(check["rows"] - failed), emphasis(str(failed), tone if failed else "soft")]
