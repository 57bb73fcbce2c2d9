"""Stage `validate`: which cases are learnt from, which are kept back for the test, which are refused."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from pipeline.atomic import atomic_path, read_json
from pipeline.errors import DataError
from pipeline.params import ValidateParams
from pipeline.progress import console, track
from pipeline.reports.data_docs import data_docs
from pipeline.reports.overlay import display_window, legend, thumbnail_png
from pipeline.reports.validation import PAGE, write_validation
from pipeline.sampling.split import RULE, TEST, TRAIN, assign_splits, split_rule
from pipeline.validation.preview import preview
from pipeline.volumes.case_files import CaseFiles
from pipeline.volumes.layouts import find_layout
from pipeline.volumes.recipe import class_indices
from pipeline.volumes.store import SUFFIX, read_case

if TYPE_CHECKING:
    from pipeline.validation.judge import Finding, Judged, Verdict


def run(
    organ: str,
    params: ValidateParams,
    *,
    raw: Path,
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
    pictures = _pictures(judgement, table, plan, volumes, raw)
    docs = data_docs(organ, judgement.outcomes)
    write_validation(validation, result, pictures, legend(class_indices(plan["labels"])), docs)
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
    notices: list["Finding"]
    """What a person should know of the data set as a whole."""
    outcomes: dict[str, Any]
    """What Great Expectations found, by suite."""


def _judge(
    organ: str, table: pd.DataFrame, plan: dict[str, Any], params: ValidateParams, volumes: Path
) -> Judgement:
    # Great Expectations takes seconds to load, and nothing but this function needs it.
    from pipeline.validation.judge import Judged, judge_cases, judge_dataset, judge_table

    labels = list(plan["labels"])
    of_table = judge_table(table, labels)
    problems = _problems(of_table)
    readable = table[:0] if problems else table
    fit = readable[readable["status"] == "accepted"]
    of_cases = judge_cases(organ, fit, plan, params, volumes) if len(fit) else Judged([], {})
    refused, warned = _by_case(of_cases.verdicts)
    rows, undivided = _split(_let_through(fit, refused, warned), params)
    of_all = Judged([], {}) if problems else judge_dataset(rows, len(table), labels, params)
    problems = problems or _problems(of_all) or undivided
    return Judgement(
        verdicts=[*of_table.verdicts, *of_cases.verdicts, *of_all.verdicts],
        unread=readable[readable["status"] == "quarantined"],
        refused=refused,
        warned=warned,
        rows=rows.drop(columns=["split", "fold", RULE], errors="ignore") if problems else rows,
        problems=problems,
        notices=_found(of_all, "warning"),
        outcomes={**of_table.outcomes, **of_cases.outcomes, **of_all.outcomes},
    )


def _problems(judged: "Judged") -> list[DataError]:
    """The errors in a table as a whole; in the table of cases, each names its case."""
    return [
        DataError(f"{finding.case} {finding.reason}".strip(), finding.remedy)
        for finding in _found(judged, "error")
    ]


def _found(judged: "Judged", severity: str) -> list["Finding"]:
    verdicts = [verdict for verdict in judged.verdicts if verdict.check.severity == severity]
    return [finding for verdict in verdicts for finding in verdict.findings]


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


def _split(rows: pd.DataFrame, params: ValidateParams) -> tuple[pd.DataFrame, list[DataError]]:
    """The rows with split and fold, or as they are with the reason why they cannot be dealt out."""
    try:
        splits = assign_splits(list(rows["patient"]), params.test_share, params.folds, params.split_seed)
    except DataError as error:
        return rows, [error]
    rows = rows.assign(split=[split for split, _ in splits], fold=[fold for _, fold in splits])
    return rows.assign(**{RULE: split_rule(params.folds, params.split_seed)}), []


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
        "notices": [{"reason": one.reason, "remedy": one.remedy} for one in judgement.notices],
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


def _pictures(
    judgement: Judgement, table: pd.DataFrame, plan: Mapping[str, Any], volumes: Path, raw: Path
) -> Iterator[tuple[str, bytes | None]]:
    """An overlay of each case that was quarantined or warned of, one at a time; None: nothing is readable."""
    names = list(dict.fromkeys([*judgement.unread["case"], *judgement.refused, *judgement.warned]))
    files = _files(raw, table) if names else {}
    unread = set(judgement.unread["case"])
    for name in track(names, "pictures", len(names)):
        # A volume of what ingest refused would be of other files than it refused.
        png = None if name in unread else _of_volume(volumes / f"{name}{SUFFIX}", plan)
        yield name, png or _of_raw(raw, files.get(name), plan)


def _files(raw: Path, table: pd.DataFrame) -> dict[str, CaseFiles]:
    """The files of every case; none where the layout is no longer what it was."""
    try:
        return {files.case: files for files in find_layout(raw, table["layout"].iloc[0]).cases}
    except (DataError, KeyError):
        return {}


def _of_volume(path: Path, plan: Mapping[str, Any]) -> bytes | None:
    try:
        case = read_case(path)
    except DataError:
        return None
    first = plan["normalisation"][0]
    image = case.image[first["image"]]
    window = display_window(image, plan["modality"], first["clip"])
    return thumbnail_png(image, case.label, tuple(plan["spacing"]), window, class_indices(plan["labels"]))


def _of_raw(raw: Path, files: CaseFiles | None, plan: Mapping[str, Any]) -> bytes | None:
    """Of what ingest refused, as far as it can be read."""
    if files is None:
        return None
    labels = plan["labels"]
    seen = preview(raw, files, labels, plan.get("recipe", {}).get("rois"))
    if seen is None:
        return None
    # Values that are not calibrated have no window of their own.
    window = display_window(seen.image, "MR", (0.0, 1.0))
    return thumbnail_png(seen.image, seen.label, seen.spacing, window, labels)
