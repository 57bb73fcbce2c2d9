"""Checks run by Great Expectations, and the cases that fail them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import great_expectations as gx
import pandas as pd
from great_expectations.data_context.types.base import ProgressBarsConfig

from pipeline.errors import DataError
from pipeline.params import ValidateParams
from pipeline.validation.checks import Check, case_checks, measured_columns, table_checks
from pipeline.volumes.store import SUFFIX


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
        return {
            "name": self.check.name,
            "title": self.check.title,
            "severity": self.check.severity,
            "expectation": {"type": rule.type, **rule.kwargs},
            "rows": self.rows,
            "failed": [finding.case for finding in self.findings],
            "passed": not self.findings,
        }


def judge_table(table: pd.DataFrame, labels: Sequence[str]) -> list[Verdict]:
    """Judge the table of all cases found.

    Raises:
        DataError: a check could not be computed.
    """
    columns, *others = table_checks(labels)
    verdicts = _judge(table, [columns])
    return verdicts if verdicts[0].findings else verdicts + _judge(table, others)


def judge_cases(
    organ: str, cases: pd.DataFrame, plan: dict[str, Any], params: ValidateParams, volumes: Path
) -> list[Verdict]:
    """Judge each of `cases`, rows of the case table that the ingest accepted, at least one.

    Raises:
        DataError: a check could not be computed.
    """
    labels = list(plan["labels"])
    derived: dict[str, Any] = {
        "missing": cases[measured_columns(labels)].isna().sum(axis=1),
        "stored": [(volumes / f"{case}{SUFFIX}").is_file() for case in cases["case"]],
    }
    # An organ that is absent is no organ of an unusual volume.
    derived |= {f"present_ml_{name}": cases[f"ml_{name}"].where(cases[f"ml_{name}"] > 0) for name in labels}
    return _judge(cases.assign(**derived), case_checks(organ, cases, plan, params))


def _judge(rows: pd.DataFrame, checks: Sequence[Check]) -> list[Verdict]:
    """The verdicts in the order of the checks; Great Expectations returns them in its own."""
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    batch = context.data_sources.pandas_default.read_dataframe(rows)
    rules = [check.rule.copy(update={"meta": {"check": check.name}}) for check in checks]
    outcome = batch.validate(
        gx.ExpectationSuite(name="checks", expectations=rules),
        result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["case"]},
    )
    results = {result.expectation_config.meta["check"]: result for result in outcome.results}
    return [Verdict(check, len(rows), _findings(check, results[check.name])) for check in checks]


def _findings(check: Check, result: Any) -> list[Finding]:
    """The cases that fail `check`; of cases with one value that should be unique, all but the first."""
    if result.success:
        return []
    if "unexpected_index_list" not in result.result:
        return [_table_finding(check, result)]
    rule = check.rule.configuration
    column = rule.kwargs.get("column") or rule.kwargs["column_A"]
    findings = []
    firsts: dict[Any, str] = {}
    for row in result.result["unexpected_index_list"]:
        case, value = row["case"], row[column]
        if "unique" in rule.type and value not in firsts:
            firsts[value] = case
            continue
        reason = check.reason.format(value=value, first=firsts.get(value))
        findings.append(Finding(case, reason, check.remedy))
    return findings


def _table_finding(check: Check, result: Any) -> Finding:
    mismatched = result.result.get("details", {}).get("mismatched")
    if mismatched is None:
        raise DataError(
            f"the check '{check.name}' could not be computed: {_first_message(result.exception_info)}",
            "run the ingest stage again",
        )
    lacking = ", ".join(map(str, mismatched["missing"]))
    return Finding("", check.reason.format(value=lacking), check.remedy)


def _first_message(exceptions: dict[str, Any]) -> str:
    nested = [content for content in exceptions.values() if isinstance(content, dict)]
    return str((nested[0] if nested else exceptions).get("exception_message", "")).splitlines()[0]
