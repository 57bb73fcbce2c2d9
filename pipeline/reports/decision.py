"""The page about a decision of the gate: the challenger beside the champion, and why it came as it did."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from pipeline.registry.version import AWAITING, KEPT, PROMOTED
from pipeline.reports.charts import difference_chart, paired_chart
from pipeline.reports.page import Html, chart, emphasis, facts, link, page, paragraph, section, table

NAME = "decision.html"
REPORT = "report.html"
"""Of the challenger; it lies beside this page, in the project and among the evidence in MLflow."""
SHOWN = 5
"""Cases that gained most, and that lost most."""
MET = {
    True: emphasis("yes", "good"),
    False: emphasis("no", "bad"),
    None: emphasis("does not decide", "soft"),
}


def decision_page(outcome: Mapping[str, Any], pairs: pd.DataFrame | None) -> str:
    """The page as HTML, offline, the same for the same content.

    Args:
        outcome: of the gate, as in `registry/<organ>.json`.
        pairs: Dice that were compared, a row a (case, label), with `challenger` and `champion`, as of
            `pipeline.registry.comparison.paired_dice`; None where there was nothing to compare with.
    """
    challenger, champion = outcome["challenger_version"], outcome["compared_with"]
    blocks = [_headline(outcome), *_verdict(outcome), _conditions(outcome)]
    evidence = outcome["evidence"]
    if "overall" in evidence:
        blocks.append(_by_label(evidence))
    if evidence.get("subgroups"):
        blocks.append(_by_group(evidence))
    if pairs is not None and len(pairs):
        blocks.append(_by_case(pairs))
    elif pairs is None and "overall" in evidence:
        blocks.append(paragraph("Single cases cannot be shown: the champion's figures are gone.", "soft"))
    if "overall" not in evidence:
        blocks.append(_challenger_alone(evidence))
    blocks.append(section("More", link(REPORT, f"The report on version {challenger}")))
    against = f"version {champion}, the champion" if champion not in (None, challenger) else "nobody"
    subtitle = f"Version {challenger}, held against {against}, on the same test cases."
    return page(f"{outcome['organ']}: decision about version {challenger}", subtitle, blocks)


def _headline(outcome: Mapping[str, Any]) -> Html:
    evidence = outcome["evidence"]
    overall = evidence.get("overall")
    if overall is None:
        return facts(
            [(_dice(evidence["mean_dice"]), f"mean Dice of version {outcome['challenger_version']}")]
        )
    return facts(
        [
            (_dice(overall["challenger"]), f"mean Dice of version {outcome['challenger_version']}"),
            (_dice(overall["champion"]), f"mean Dice of version {outcome['compared_with']}, the champion"),
            (_signed(overall["difference"]), "difference"),
            (str(overall["cases"]), "test cases compared"),
        ]
    )


def _verdict(outcome: Mapping[str, Any]) -> list[Html]:
    organ, number, champion = (outcome[key] for key in ("organ", "challenger_version", "champion_version"))
    decision = outcome["decision"]
    if decision == PROMOTED:
        blocks = [paragraph(f"Promoted: version {number} is the champion.", "good")]
        if "approval" in outcome:
            by, why = outcome["approval"]["by"], outcome["approval"]["reason"]
            blocks.append(paragraph(f"Approved by {by}{f': {why}' if why else '.'}"))
        return blocks
    if decision == AWAITING:
        how = f"hounsfield approve {organ} {number} --by NAME"
        return [
            paragraph(f"Version {number} won, and waits for a person to approve of it: {how}", "warn"),
            paragraph(_remains(champion)),
        ]
    if decision == KEPT:
        return [paragraph(f"Version {number} is not promoted. {_remains(champion)}", "bad")]
    return [paragraph(f"Nothing has changed: version {number} is the champion.", "good")]


def _remains(champion: int | None) -> str:
    return f"Version {champion} remains the champion." if champion else "There is no champion."


def _conditions(outcome: Mapping[str, Any]) -> Html:
    rows = [[reason, MET[met]] for reason, met in zip(outcome["reasons"], outcome["met"], strict=True)]
    return section("Why", table(["condition", "met"], rows))


def _by_label(evidence: Mapping[str, Any]) -> Html:
    compared = [*sorted(evidence["classes"].items()), ("all labels", evidence["overall"])]
    columns = ["label", "challenger", "champion", "difference", "above", "rank test", "cases"]
    rows = [
        [
            label,
            *(_dice(found[whose]) for whose in ("challenger", "champion")),
            *(_signed(found[figure]) for figure in ("difference", "lower_bound")),
            "–" if found["rank_p"] is None else f"{found['rank_p']:.2g}",
            str(found["cases"]),
        ]
        for label, found in compared
    ]
    drawn = [
        (label, found["difference"], found["lower_bound"])
        for label, found in compared
        if found["lower_bound"] is not None
    ]
    sure = f"{100 * evidence['confidence']:g} %"
    blocks = [
        table(columns, rows, numbers=columns[1:]),
        paragraph(
            f"Above: with a confidence of {sure}, what the mean difference of other such patients is above, "
            "by resampling the patients. For a label that has to be at least "
            f"−{evidence['margin']:g}, for all labels 0. Rank test: the chance that a challenger that is no "
            "better would look this good "
            "(Wilcoxon); it does not decide.",
            "soft",
        ),
    ]
    if drawn:
        name = "Difference of Dice, and what it is above"
        caption = f"{name}, with a confidence of {sure}. Right of 0 the challenger is better."
        blocks.append(chart(difference_chart(drawn, evidence["margin"], name), caption))
    return section("Label by label", *blocks)


def _by_group(evidence: Mapping[str, Any]) -> Html:
    columns = ["group of cases", "challenger", "champion", "difference", "cases"]
    rows = []
    # MLflow gives a decision back with its keys sorted; the page is the same before and after.
    for name, found in sorted(evidence["subgroups"].items()):
        collapsed = found["difference"] < -evidence["collapse"]
        difference = _signed(found["difference"])
        rows.append(
            [
                name,
                *(_dice(found[whose]) for whose in ("challenger", "champion")),
                emphasis(difference, "bad") if collapsed else difference,
                str(found["cases"]),
            ]
        )
    told = f"Mean over the cases of each case's mean. No group may lose more than {evidence['collapse']:g}."
    return section("By group of cases", table(columns, rows, numbers=columns[1:]), paragraph(told, "soft"))


def _by_case(pairs: pd.DataFrame) -> Html:
    ordered = pairs.assign(difference=pairs["challenger"] - pairs["champion"])
    ordered = ordered.sort_values(["difference", "case", "label"])
    gained = ordered[ordered["difference"] > 0].iloc[::-1].head(SHOWN)
    lost = ordered[ordered["difference"] < 0].head(SHOWN)
    points = [
        (f"{one.case}, {one.label}", float(one.champion), float(one.challenger))  # type: ignore[arg-type]
        for one in pairs.itertuples()
    ]
    better, worse = (int((side * ordered["difference"] > 0).sum()) for side in (1, -1))
    same = len(ordered) - better - worse
    caption = (
        f"Dice of each label in each case. Above the line the challenger is better: {better} are, {worse} "
        f"are worse, {same} the same. Point at a dot for its case."
    )
    blocks = [chart(paired_chart(points, "champion", "challenger"), caption)]
    for words, rows in (("Lost most", lost), ("Gained most", gained)):
        if len(rows):
            blocks += [paragraph(words), _cases(rows)]
    return section("Case by case", *blocks)


def _cases(rows: pd.DataFrame) -> Html:
    columns = ["case", "label", "challenger", "champion", "difference"]
    cells = [
        [case, label, _dice(challenger), _dice(champion), _signed(difference)]
        for case, label, challenger, champion, difference in rows[columns].itertuples(index=False)
    ]
    return table(columns, cells, numbers=columns[2:])


def _challenger_alone(evidence: Mapping[str, Any]) -> Html:
    columns = ["label", "mean Dice"]
    rows = [[label, _dice(value)] for label, value in sorted(evidence["dice"].items())]
    return section("Label by label", table(columns, rows, numbers=columns[1:]))


def _dice(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.4f}"
