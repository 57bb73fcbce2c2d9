"""Stage `validate`: which cases are learnt from, which are kept back for the test, which are refused."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from pipeline.atomic import atomic_path, read_json
from pipeline.errors import DataError
from pipeline.params import ValidateParams
from pipeline.progress import console, track
from pipeline.reports.overlay import display_window, overlay_png
from pipeline.reports.validation import PAGE, write_validation
from pipeline.sampling.split import TEST, TRAIN, assign_splits
from pipeline.volumes.cases import class_indices
from pipeline.volumes.store import SUFFIX, read_case

if TYPE_CHECKING:
    from pipeline.validation.judge import Finding, Verdict

PICTURES = 24
"""Cases shown with an overlay, so that the page stays a page."""


def run(
    organ: str,
    params: ValidateParams,
    *,
    cases: Path,
    plans: Path,
    volumes: Path,
    accepted: Path,
    validation: Path,
) -> None:
    """Judge the cases, write the page about them, and let the good ones through.

    Raises:
        DataError: the data set as a whole cannot be learnt from; the page tells why.
    """
    # What was accepted before must not outlive a refusal now.
    accepted.unlink(missing_ok=True)
    plan = read_json(plans)
    table = pd.read_parquet(cases).sort_values("case", kind="stable", ignore_index=True)
    judgement = _judge(organ, table, plan, params, volumes)
    result = _result(organ, len(table), judgement)
    write_validation(validation, result, _pictures(judgement, plan, volumes))
    console.print(f"{organ}: {_sum(result['counts'])}")
    if judgement.problems:
        reasons = "; ".join(problem.reason for problem in judgement.problems)
        remedy = judgement.problems[0].remedy
        raise DataError(f"{organ}: {reasons}", f"{remedy} ({validation / PAGE} shows every case)")
    with atomic_path(accepted) as temporary:
        judgement.rows.to_parquet(temporary, index=False)


@dataclass(frozen=True)
class Judgement:
    """What became of every case, and of the data set."""

    verdicts: list["Verdict"]
    unread: pd.DataFrame
    """The cases the ingest quarantined: their rows of the case table."""
    refused: dict[str, "Finding"]
    """Case to the first error found in it."""
    warned: dict[str, list["Finding"]]
    """Case to its warnings; no refused case is here."""
    rows: pd.DataFrame
    """The other cases: rows of the case table with warnings and, if nothing is wrong, split and fold."""
    problems: list[DataError]
    """Why the data set as a whole cannot be learnt from."""


def _judge(
    organ: str, table: pd.DataFrame, plan: dict[str, Any], params: ValidateParams, volumes: Path
) -> Judgement:
    # Great Expectations takes seconds to load, and nothing but this function needs it.
    from pipeline.validation.judge import judge_cases, judge_table

    verdicts = judge_table(table, list(plan["labels"]))
    problems = [
        DataError(f"{finding.case} {finding.reason}".strip(), finding.remedy)
        for verdict in verdicts
        for finding in verdict.findings
    ]
    readable = table[:0] if problems else table
    fit = readable[readable["status"] == "accepted"]
    judged = judge_cases(organ, fit, plan, params, volumes) if len(fit) else []
    refused, warned = _by_case(judged)
    rows = _let_through(fit, refused, warned)
    problems = problems or _shortage(rows, len(table), params)
    if not problems:
        try:
            rows = _split(rows, params)
        except DataError as error:
            problems = [error]
    unread = readable[readable["status"] == "quarantined"]
    return Judgement([*verdicts, *judged], unread, refused, warned, rows, problems)


def _by_case(verdicts: Iterable["Verdict"]) -> tuple[dict[str, "Finding"], dict[str, list["Finding"]]]:
    """The first error of each case that has one, and all warnings of each other case."""
    refused: dict[str, Finding] = {}
    warned: dict[str, list[Finding]] = {}
    for verdict in verdicts:
        for finding in verdict.findings:
            if verdict.check.severity == "error":
                refused.setdefault(finding.case, finding)
            else:
                warned.setdefault(finding.case, []).append(finding)
    fine = {case: findings for case, findings in sorted(warned.items()) if case not in refused}
    return dict(sorted(refused.items())), fine


def _let_through(
    fit: pd.DataFrame, refused: Mapping[str, "Finding"], warned: Mapping[str, list["Finding"]]
) -> pd.DataFrame:
    """The rows that are not refused, with their warnings."""
    rows = fit[~fit["case"].isin(list(refused))].reset_index(drop=True)
    warnings = ["; ".join(finding.reason for finding in warned.get(case, [])) for case in rows["case"]]
    return rows.assign(warnings=pd.Series(warnings, dtype=str))


def _shortage(rows: pd.DataFrame, found: int, params: ValidateParams) -> list[DataError]:
    """Too many quarantined, too few accepted."""
    problems = []
    quarantined = found - len(rows)
    if quarantined > params.max_quarantined_share * found:
        share = f"more than the share of {params.max_quarantined_share:g} that is allowed"
        remedy = "mend them, or raise validate.max_quarantined_share in params.yaml"
        problems.append(DataError(f"{quarantined} of {found} cases are quarantined, {share}", remedy))
    if len(rows) < params.min_cases:
        few = f"{len(rows)} cases are accepted, fewer than the {params.min_cases} that are needed"
        problems.append(DataError(few, "add cases, or lower validate.min_cases in params.yaml"))
    return problems


def _split(rows: pd.DataFrame, params: ValidateParams) -> pd.DataFrame:
    splits = assign_splits(list(rows["patient"]), params.test_share, params.folds, params.split_seed)
    return rows.assign(split=[split for split, _ in splits], fold=[fold for _, fold in splits])


def _result(organ: str, found: int, judgement: Judgement) -> dict[str, Any]:
    """What was found, JSON-like, as result.json holds it and the page shows it."""
    quarantined = [
        {"case": row["case"], "by": "ingest", "reason": row["reason"], "remedy": row["remedy"]}
        for row in judgement.unread.to_dict("records")
    ]
    quarantined += [
        {"case": case, "by": "validation", "reason": finding.reason, "remedy": finding.remedy}
        for case, finding in judgement.refused.items()
    ]
    return {
        "organ": organ,
        "counts": _counts(found, judgement),
        "problems": [{"reason": one.reason, "remedy": one.remedy} for one in judgement.problems],
        "quarantined": quarantined,
        "warned": [
            {"case": case, "reason": finding.reason, "remedy": finding.remedy}
            for case, findings in judgement.warned.items()
            for finding in findings
        ],
        "checks": [verdict.record() for verdict in judgement.verdicts],
    }


def _counts(found: int, judgement: Judgement) -> dict[str, int]:
    """Where every case went; what is neither accepted nor quarantined is in a table that cannot be read."""
    accepted, unread, refused = len(judgement.rows), len(judgement.unread), len(judgement.refused)
    splits = list(judgement.rows.get("split", []))
    return {
        "found": found,
        "accepted": accepted,
        "train": splits.count(TRAIN),
        "test": splits.count(TEST),
        "warned": len(judgement.warned),
        "quarantined_by_ingest": unread,
        "quarantined_by_validation": refused,
        "not_judged": found - accepted - unread - refused,
    }


def _sum(counts: Mapping[str, int]) -> str:
    """The counts as a sum that a reader can check."""
    parts = [
        f"{counts['accepted']} accepted ({counts['train']} to train, {counts['test']} to test; "
        f"{counts['warned']} with a warning)",
        f"{counts['quarantined_by_ingest']} quarantined by ingest",
        f"{counts['quarantined_by_validation']} quarantined by validation",
    ]
    if counts["not_judged"]:
        parts.append(f"{counts['not_judged']} not judged")
    return f"{counts['found']} cases found = {' + '.join(parts)}"


def _pictures(judgement: Judgement, plan: Mapping[str, Any], volumes: Path) -> dict[str, bytes]:
    """An overlay of each case that was refused or warned of and has a volume, up to a number."""
    labels, spacing = class_indices(plan["labels"]), tuple(plan["spacing"])
    paths = {case: volumes / f"{case}{SUFFIX}" for case in [*judgement.refused, *judgement.warned]}
    shown = [(case, path) for case, path in paths.items() if path.is_file()][:PICTURES]
    pictures = {}
    for name, path in track(shown, "pictures", len(shown)):
        case = read_case(path)
        window = display_window(case.image, plan["modality"], plan["normalisation"]["clip"])
        pictures[name] = overlay_png(case.image, case.label, None, spacing, window, labels)
    return pictures
