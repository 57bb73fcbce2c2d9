"""The page about validation: how many cases came through, which did not, and what to do about each."""

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.atomic import write_json, write_text
from pipeline.reports.page import (
    Html,
    case_card,
    emphasis,
    facts,
    folded,
    legend,
    link,
    page,
    paragraph,
    picture_file,
    section,
    table,
    tile,
)

PAGE, RESULT, PICTURES, DOCS = "index.html", "result.json", "pictures", "data_docs"
AT_ONCE = 300
"""Cases shown at once; the others are folded away, so that a page of thousands opens."""

Colours = Sequence[tuple[str, tuple[int, int, int]]]


def write_validation(
    folder: Path,
    result: Mapping[str, Any],
    pictures: Iterable[tuple[str, bytes | None]],
    colours: Colours = (),
    docs: Mapping[str, str] | None = None,
) -> None:
    """Write the page, its pictures, the Data Docs and result.json into `folder`, replaced as a whole.

    Args:
        folder: the old one stays until the new one is complete.
        result: what was found: `organ`, `counts`, `problems`, `notices`, `quarantined`, `warned` and
            `checks`.
        pictures: case and PNG, taken and written one after the other; None where nothing can be shown.
        colours: what the colours in the pictures stand for.
        docs: pages of Great Expectations, by file name.
    """
    # One fixed name: what a killed run left is overwritten, not kept beside.
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / PICTURES).mkdir(parents=True)
    shown: dict[str, str] = {}
    for number, (case, png) in enumerate(pictures, start=1):
        if png is not None:
            # A case's name may be no name that every browser asks for.
            shown[case] = f"{PICTURES}/{number:05}.png"
            (partial / shown[case]).write_bytes(png)
    for name, content in (docs or {}).items():
        write_text(partial / DOCS / name, content)
    write_json(partial / RESULT, result)
    write_text(partial / PAGE, validation_page(result, shown, colours, bool(docs)))
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(partial, folder)


def validation_page(
    result: Mapping[str, Any], pictures: Mapping[str, str], colours: Colours = (), docs: bool = False
) -> str:
    """The page as HTML; `pictures` are files beside it, by case."""
    counts = result["counts"]
    blocks = [_facts(counts)]
    if result["problems"]:
        blocks.append(_problems(result["problems"]))
    if result["notices"]:
        blocks.append(_notices(result["notices"]))
    if result["quarantined"]:
        blocks.append(_quarantined(result["quarantined"], pictures, colours))
    if result["warned"]:
        blocks.append(_warned(result["warned"], pictures, colours))
    blocks.append(_checks(result["checks"]))
    if docs:
        blocks.append(link(f"{DOCS}/index.html", "Data Docs of Great Expectations"))
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


def _notices(notices: list[dict[str, str]]) -> Html:
    return section(
        "About the data as a whole",
        paragraph("Nothing of this stops the run, but the model will be poorer for it.", "soft"),
        table(["warning", "what to do"], [[notice["reason"], notice["remedy"]] for notice in notices]),
    )


def _quarantined(cases: list[dict[str, str]], pictures: Mapping[str, str], colours: Colours) -> Html:
    told = "These cases are not learnt from. Mend one and run again; only it is ingested again."
    return _cases("Quarantined", told, cases, pictures, colours)


def _warned(cases: list[dict[str, str]], pictures: Mapping[str, str], colours: Colours) -> Html:
    told = "These cases are learnt from, but a person should look at them once."
    return _cases("Accepted with a warning", told, cases, pictures, colours)


def _cases(
    heading: str,
    told: str,
    findings: list[dict[str, str]],
    pictures: Mapping[str, str],
    colours: Colours,
) -> Html:
    """A card a case, with its picture, all that was found and what to do about it."""
    by_case: dict[str, list[dict[str, str]]] = {}
    for finding in findings:
        by_case.setdefault(finding["case"], []).append(finding)
    cards = [_card(case, found, pictures.get(case)) for case, found in by_case.items()]
    blocks = [paragraph(told, "soft"), legend(colours), *cards[:AT_ONCE]]
    if len(cards) > AT_ONCE:
        blocks.append(folded(f"Show the other {len(cards) - AT_ONCE} cases", *cards[AT_ONCE:]))
    return section(heading, *blocks)


def _card(case: str, findings: list[dict[str, str]], source: str | None) -> Html:
    reasons = [_without_name(one) for one in findings]
    shown = (
        picture_file(source, f"{case}: {'; '.join(reasons)}")
        if source
        else tile("no picture: the file cannot be read")
    )
    lines = []
    for reason, one in zip(reasons, findings, strict=True):
        tone = "bad" if "by" in one else "warn"
        by = f" (found by {one['by']})" if "by" in one else ""
        lines += [paragraph(emphasis(f"{reason}{by}", tone)), paragraph(f"What to do: {one['remedy']}.")]
    return case_card(case, shown, *lines)


def _without_name(one: Mapping[str, str]) -> str:
    """The reason without the case's name in front: it stands above."""
    return one["reason"].removeprefix(f"{one['case']}: ")


def _checks(checks: list[dict[str, Any]]) -> Html:
    blocks = []
    outcomes = {"error": "quarantined, a table that fails one stops the run", "warning": "marked"}
    for severity, outcome in outcomes.items():
        these = [check for check in checks if check["severity"] == severity]
        failed = [check for check in these if check["failed"]]
        met = [check for check in these if not check["failed"]]
        if these:
            blocks.append(paragraph(f"A case that fails one of these is {outcome}:", "soft"))
        if failed:
            blocks.append(_check_table(failed))
        if met:
            blocks.append(folded(f"{len(met)} that all cases meet", _check_table(met)))
    return section("What was expected", *blocks)


def _check_table(checks: list[dict[str, Any]]) -> Html:
    return table(
        ["expectation", "pass", "fail"], [_check_row(check) for check in checks], numbers=("pass", "fail")
    )


def _check_row(check: Mapping[str, Any]) -> list[str]:
    failed = len(check["failed"])
    tone = "bad" if check["severity"] == "error" else "warn"
    return [check["title"], str(check["rows"] - failed), emphasis(str(failed), tone if failed else "soft")]
