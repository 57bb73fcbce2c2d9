"""Checks run by Great Expectations, and the cases that fail them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import great_expectations as gx
import pandas as pd
from great_expectations.core import ExpectationSuiteValidationResult
from great_expectations.data_context.types.base import ProgressBarsConfig

from pipeline.errors import DataError
from pipeline.params import ValidateParams
from pipeline.validation.checks import case_checks, dataset_checks, table_checks
from pipeline.validation.derived import case_columns, dataset_row
from pipeline.validation.suites import Check, fill

AT_ONCE = 30
"""Checks given to Great Expectations together: its time grows with the square of their number."""


@dataclass(frozen=True)
class Finding:
    """A case that fails a check, and what to do about it."""

    case: str
    """Empty where the whole table fails."""
    reason: str
    remedy: str


@dataclass(frozen=True)
class Verdict:
    """What came of one check."""

    check: Check
    rows: int
    """How many were judged."""
    findings: list[Finding]

    def record(self) -> dict[str, Any]:
        """The verdict as JSON-like content, with the expectation as Great Expectations names it."""
        rule = self.check.rule.configuration
        arguments = {key: value for key, value in rule.kwargs.items() if key not in ("severity",)}
        return {
            "suite": self.check.suite,
            "name": self.check.name,
            "title": self.check.title,
            "severity": self.check.severity,
            "expectation": {"type": rule.type, **arguments},
            "rows": self.rows,
            "failed": [finding.case for finding in self.findings],
            "passed": not self.findings,
        }


@dataclass(frozen=True)
class Judged:
    """What came of one or more suites."""

    verdicts: list[Verdict]
    outcomes: Mapping[str, Any]
    """What Great Expectations found, by suite; its Data Docs are made of it."""


def judge_table(table: pd.DataFrame, labels: Sequence[str]) -> Judged:
    """Judge the table of all cases found.

    Raises:
        DataError: a check could not be computed.
    """
    columns, *others = table_checks(labels)
    judged = judge(table, [columns])
    return judged if judged.verdicts[0].findings else judge(table, [columns, *others])


def judge_cases(
    organ: str, cases: pd.DataFrame, plan: dict[str, Any], params: ValidateParams, volumes: Path
) -> Judged:
    """Judge each of `cases`, rows of the case table that the ingest accepted, at least one.

    Raises:
        DataError: a check could not be computed.
    """
    table = case_columns(cases, plan, volumes)
    return judge(table, case_checks(organ, table, plan, params))


def judge_dataset(rows: pd.DataFrame, found: int, labels: Sequence[str], params: ValidateParams) -> Judged:
    """Judge the data set that `rows` are, the accepted cases of `found`, dealt out to folds or not.

    Raises:
        DataError: a check could not be computed.
    """
    table = dataset_row(rows, found, labels, params.folds)
    return judge(table, dataset_checks(found, len(rows), labels, params))


def judge(table: pd.DataFrame, checks: Sequence[Check]) -> Judged:
    """The verdicts in the order of the checks; a check that finds nothing to judge is left out.

    Raises:
        DataError: a check could not be computed.
    """
    verdicts: list[Verdict] = []
    outcomes: dict[str, Any] = {}
    for suite, group in groupby(
        (check for check in checks if _judges(check, table)), lambda check: check.suite
    ):
        results: list[Any] = []
        for some in _batches(list(group)):
            found = _results(table, some)
            verdicts += [_verdict(check, found[check.name], len(table)) for check in some]
            results += [found[check.name] for check in some]
        success = all(result.success for result in results)
        outcomes[suite] = ExpectationSuiteValidationResult(
            success, results, suite, statistics=statistics(results)
        )
    return Judged(verdicts, outcomes)


def statistics(results: Sequence[Any]) -> dict[str, Any]:
    """How many of the results are good, as Great Expectations counts them."""
    good = sum(bool(result.success) for result in results)
    share = 100 * good / len(results) if results else None
    return {
        "evaluated_expectations": len(results),
        "successful_expectations": good,
        "unsuccessful_expectations": len(results) - good,
        "success_percent": share,
    }


def _judges(check: Check, table: pd.DataFrame) -> bool:
    """Whether there is a value to judge; where none should be, an empty column is the good one."""
    if check.column is None or "null" in check.rule.configuration.type:
        return True
    return check.column in table and bool(table[check.column].notna().any())


def _batches(checks: list[Check]) -> Iterator[list[Check]]:
    for start in range(0, len(checks), AT_ONCE):
        yield checks[start : start + AT_ONCE]


def _results(table: pd.DataFrame, checks: Sequence[Check]) -> dict[str, Any]:
    """What Great Expectations finds, by the check's name; it has an order of its own."""
    columns = list(dict.fromkeys(["case", *(check.column for check in checks if check.column)]))
    # It copies the whole table for every check.
    rows = table if any(check.column is None for check in checks) else table[columns]
    batch = _context().data_sources.pandas_default.read_dataframe(rows)
    outcome = batch.validate(
        gx.ExpectationSuite(name=checks[0].suite, expectations=[check.rule for check in checks]),
        result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["case"]},
    )
    return {result.expectation_config.meta["check"]: result for result in outcome.results}


@cache
def _context() -> Any:
    """Nothing of it is kept on disk; one is enough, and each costs a folder of its own."""
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    return context


def _verdict(check: Check, result: Any, rows: int) -> Verdict:
    missing = result.result.get("missing_count") or 0
    return Verdict(check, rows - missing if check.column else rows, _findings(check, result))


def _findings(check: Check, result: Any) -> list[Finding]:
    """The cases that fail `check`; of cases with one value that should be unique, all but the first."""
    if result.success:
        return []
    if "unexpected_index_list" not in result.result:
        return [_table_finding(check, result)]
    findings = []
    firsts: set[Any] = set()
    for row in result.result["unexpected_index_list"]:
        value = row[check.column]
        if "unique" in check.rule.configuration.type and value not in firsts:
            firsts.add(value)
            continue
        findings.append(Finding(row["case"], fill(check.reason, {"value": value}), check.remedy))
    return findings


def _table_finding(check: Check, result: Any) -> Finding:
    mismatched = result.result.get("details", {}).get("mismatched")
    if mismatched is None:
        raise DataError(
            f"the check '{check.name}' could not be computed: {_first_message(result.exception_info)}",
            "run the ingest stage again",
        )
    lacking = ", ".join(map(str, mismatched["missing"]))
    return Finding("", fill(check.reason, {"value": lacking}), check.remedy)


def _first_message(exceptions: dict[str, Any]) -> str:
    nested = [content for content in exceptions.values() if isinstance(content, dict)]
    return str((nested[0] if nested else exceptions).get("exception_message", "")).splitlines()[0]
