"""The suites of expectations, read from `suites/*.yaml`, filled in and made rules of Great Expectations."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from great_expectations import expectations

from pipeline.errors import ParamsError

FOLDER = Path(__file__).parent / "suites"
KEYS = {"name", "each", "only", "title", "expect", "severity", "reason", "remedy"}
PLACEHOLDER = re.compile(r"\{(\w+)(?::([^}]*))?\}")

Context = Mapping[str, Any]
"""Words and numbers by the name of their placeholder; None: not known."""


@dataclass(frozen=True)
class Check:
    """One expectation, filled in."""

    suite: str
    name: str
    title: str
    """What should hold, in words."""
    rule: Any
    """The Great Expectations expectation; a case passes where its column is empty."""
    severity: Literal["error", "warning"]
    """error: the case is not learnt from; warning: it is, and marked."""
    reason: str
    """What is wrong; `{value}` stands for what was found."""
    remedy: str

    @property
    def column(self) -> str | None:
        """The column it judges; None where it judges the table."""
        found: str | None = self.rule.configuration.kwargs.get("column")
        return found


def suite(
    name: str,
    common: Context,
    each: Mapping[str, Sequence[Context]] | None = None,
    modality: str | None = None,
) -> list[Check]:
    """The checks of `suites/<name>.yaml`.

    Args:
        name: of the file.
        common: what is filled in everywhere.
        each: what is filled in besides, by what an expectation is repeated for.
        modality: expectations of another are left out.

    Raises:
        ParamsError: an entry of the file lacks something, or names what there is not.
    """
    checks = []
    for entry in entries(name):
        if entry.get("only", modality) != modality:
            continue
        repeated = (each or {}).get(entry["each"], []) if "each" in entry else [{}]
        for own in repeated:
            check = _check(name, entry, {**common, **own})
            if check is not None:
                checks.append(check)
    return checks


@cache
def entries(name: str) -> list[dict[str, Any]]:
    """The expectations of `suites/<name>.yaml` as they are written there, checked.

    Raises:
        ParamsError: one lacks a key, has one that is not known, or names no rule.
    """
    path = FOLDER / f"{name}.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ParamsError(f"{path.name} is not valid YAML: {str(error).replace(chr(10), ' ')}") from None
    for number, entry in enumerate(content, start=1):
        lacking = KEYS - {"each", "only"} - set(entry)
        if lacking or set(entry) - KEYS:
            odd = ", ".join(sorted(lacking | (set(entry) - KEYS)))
            raise ParamsError(
                f"{path.name}, expectation {number} ({entry.get('name', 'no name')}) lacks or should not "
                f"have: {odd}",
                "suites/README.md says what an expectation holds",
            )
        _rule_class(path.name, entry)
    return list(content)


def fill(text: str, context: Context) -> str:
    """`text` with each placeholder that `context` knows replaced; the others stay."""

    def word(match: re.Match[str]) -> str:
        known = context.get(match[1])
        return match[0] if known is None else format(known, match[2] or "")

    return PLACEHOLDER.sub(word, text)


def _check(suite_name: str, entry: dict[str, Any], context: Context) -> Check | None:
    """The check of an entry; None if a number that it needs is not known."""
    arguments = {key: _value(value, context) for key, value in entry["expect"].items() if key != "type"}
    if any(value is None for value in arguments.values()):
        return None
    title, reason, remedy = (fill(entry[key], context) for key in ("title", "reason", "remedy"))
    name = fill(entry["name"], context)
    rule = _rule_class(suite_name, entry)(
        **arguments, description=title, severity=_gx_severity(entry["severity"]), meta={"check": name}
    )
    return Check(suite_name, name, title, rule, entry["severity"], reason, remedy)


def _value(value: Any, context: Context) -> Any:
    """A number or list where the whole value is a placeholder, else the text filled in."""
    if not isinstance(value, str):
        return value
    whole = PLACEHOLDER.fullmatch(value)
    return context.get(whole[1]) if whole else fill(value, context)


def _gx_severity(severity: str) -> str:
    return {"error": "critical"}.get(severity, severity)


def _rule_class(file: str, entry: dict[str, Any]) -> Any:
    rule = str(entry["expect"].get("type"))
    found = getattr(expectations, "".join(word.title() for word in rule.split("_")), None)
    if found is None or entry["severity"] not in ("error", "warning"):
        raise ParamsError(
            f"{file}, {entry['name']}: the rule '{rule}' or the severity '{entry['severity']}' is not known",
            "the rules are those of Great Expectations, severities are error and warning",
        )
    return found
