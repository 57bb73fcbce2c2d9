"""A new organ from a form: every field checked, then a workspace with the organ in it, or nothing at all."""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.cron import is_cron
from pipeline.errors import DataError, HounsfieldError, ParamsError
from pipeline.onboarding import add_organ, add_organ_from_prefix, parse_labels
from pipeline.params import check_name, read_params
from pipeline.progress import console
from pipeline.runs.attempts import forget_killed
from pipeline.runs.commands import git
from pipeline.runs.editing import change_params, with_values
from pipeline.runs.errors import Busy
from pipeline.runs.opening import discard_run
from pipeline.runs.settings import Settings
from pipeline.runs.workspaces import Run, hold, locked_run, make_workspace, remove_others, run_name
from pipeline.sources.keys import parse_url

MODALITIES = ("CT", "MR")
MOST_STEPS = 10_000_000
FIELDS = ("organ", "source", "labels", "modality", "window", "budget", "schedule", "watch")


@dataclass(frozen=True)
class Form:
    """What a person filled in, checked as far as it can be without looking at data."""

    organ: str
    source: str
    labels: dict[str, int] | None
    modality: str | None
    values: dict[tuple[str, ...], Any]
    """What else goes into `params.yaml`, by its place below the organ."""


def onboard_organ(settings: Settings, run_id: str, filled_in: str) -> Run:
    """Make the workspace of a run in which the organ of a form is added; found again by the same run.

    Raises:
        HounsfieldError: a field cannot be meant, the source cannot be used, or the organ is being
            onboarded already. Nothing is left behind but what had arrived when a fetch broke off.
    """
    form, name = read_form(filled_in), run_name(run_id)
    with locked_run(settings.home, form.organ, name, "opening"):
        try:
            hold(settings, form.organ, name)
        except Busy as busy:
            # Nobody waits for it: who filled in the form is told at once.
            raise DataError(busy.reason, busy.remedy) from None
        try:
            run = make_workspace(settings, form.organ, name)
            _add(run, form)
            # Not before: a form that is refused takes the place of no run.
            remove_others(settings.home, form.organ, name)
        except HounsfieldError:
            discard_run(settings.home, form.organ, name)
            raise
    return run


def _add(run: Run, form: Form) -> None:
    if form.organ in yaml.safe_load(git(run.folder, "show", f"{run.base}:params.yaml"))["organs"]:
        raise ParamsError(
            f"params.yaml already has the organ '{form.organ}'",
            f"choose another name, or start retrain_{form.organ}",
        )
    # Unless an attempt that was killed came so far.
    if form.organ not in read_params(run.folder / "params.yaml")["organs"]:
        forget_killed(run.folder)
        _check_branch(run)
        _take_in(run, form)
    places = {("organs", form.organ, *place): value for place, value in form.values.items()}
    change_params(run.folder, form.organ, lambda text: with_values(text, places))


def _check_branch(run: Run) -> None:
    branch = f"onboard/{run.organ}"
    if git(run.folder, "ls-remote", "--heads", "origin", f"refs/heads/{branch}"):
        raise DataError(f"the branch {branch} is there from before", "merge or delete it, and try again")


def _take_in(run: Run, form: Form) -> None:
    """Scans under DVC, the organ in `params.yaml`, as `hounsfield add-organ` does it."""
    arguments: dict[str, Any] = {
        "modality": form.modality,
        "labels": form.labels,
        "present": True,
        "console": console,
    }
    if form.source.startswith("s3://"):
        add_organ_from_prefix(run.folder, form.organ, form.source, keep=False, **arguments)
    else:
        add_organ(run.folder, form.organ, Path(form.source), **arguments)


def read_form(filled_in: str) -> Form:
    """Check every field of a form, given as JSON.

    Raises:
        ParamsError: one cannot be meant; the sentence names it and says what to write.
    """
    try:
        fields = json.loads(filled_in)
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise ParamsError("the form is no JSON object", "give one with the fields " + ", ".join(FIELDS))
    for field in fields:
        if field not in FIELDS:
            raise ParamsError(f"the form has no field '{field}'", "it has " + ", ".join(FIELDS))
    organ = _text(fields, "organ")
    check_name(organ)
    modality = _modality(fields)
    values: dict[tuple[str, ...], Any] = {}
    if (window := _window(fields, modality)) is not None:
        values["ingest", "normalisation"] = {"windows": [window]}
    if (budget := _budget(fields)) is not None:
        values["train", "steps"] = budget
    if schedule := _text(fields, "schedule"):
        values["airflow", "schedule"] = _schedule(schedule)
    source = _source(fields)
    if _flag(fields, "watch"):
        values["airflow", "incoming"] = source
    return Form(organ, source, _labels(fields.get("labels")), modality, values)


def _text(fields: dict[str, Any], field: str) -> str:
    value = fields.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ParamsError(f"{field} is {value!r}", "write it as text")
    return value.strip()


def _flag(fields: dict[str, Any], field: str) -> bool:
    value = fields.get(field) or False
    if not isinstance(value, bool):
        raise ParamsError(f"{field} is {value!r}", "say true or false")
    return value


def _source(fields: dict[str, Any]) -> str:
    source = _text(fields, "source")
    if not source:
        raise ParamsError("the source is empty", "give s3://BUCKET/PREFIX, or the folder of the scans")
    if source.startswith("s3://"):
        return parse_url(source).url
    if "://" in source:
        raise ParamsError(f"the source '{source}' is no S3 prefix", "give s3://BUCKET/PREFIX or a path")
    if not Path(source).is_absolute():
        raise ParamsError(f"the source '{source}' is no whole path", "begin it with / or s3://")
    if not Path(source).is_dir():
        raise DataError(f"the source {source} is no folder that the worker can read", "see that it is right")
    return source


def _labels(given: Any) -> dict[str, int] | None:
    if given in (None, "", {}, []):
        return None
    if isinstance(given, dict):
        given = [f"{name}={value}" for name, value in given.items()]
    if isinstance(given, str):
        given = [entry for entry in re.split(r"[,;\n]", given) if entry.strip()]
    if not isinstance(given, list) or not all(isinstance(entry, str) for entry in given):
        raise ParamsError(f"labels is {given!r}", "write names and values, such as spleen=1, tumour=2")
    labels = parse_labels(given)
    seen: dict[int, str] = {}
    for name, value in labels.items():
        if not 1 <= value <= 255:
            raise ParamsError(f"the label '{name}' has the value {value}", "give one from 1 to 255")
        if value in seen:
            shared = f"the labels '{seen[value]}' and '{name}' share the value {value}"
            raise ParamsError(shared, "give each its own")
        seen[value] = name
    return labels


def _modality(fields: dict[str, Any]) -> str | None:
    modality = _text(fields, "modality")
    if modality.lower() in ("", "auto"):
        return None
    if modality.upper() not in MODALITIES:
        raise ParamsError(f"the modality '{modality}' is not known", "choose CT, MR or auto")
    return modality.upper()


def _window(fields: dict[str, Any], modality: str | None) -> list[float] | None:
    given = fields.get("window")
    if given in (None, "", "auto", []):
        return None
    parts = re.split(r"[,;\s]+", given.strip()) if isinstance(given, str) else given
    try:
        low, high = (float(part) for part in parts)
    except (TypeError, ValueError):
        raise ParamsError(f"the window is {given!r}", "write its two ends in HU, such as -160, 240") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ParamsError(f"the window {low:g} to {high:g} is none", "write the lower end first, in HU")
    if modality == "MR":
        raise ParamsError("a window in HU is for CT", "leave it empty for MR")
    return [low, high]


def _budget(fields: dict[str, Any]) -> int | None:
    given = fields.get("budget")
    if given in (None, "", "auto"):
        return None
    if isinstance(given, bool) or not str(given).strip().isdecimal() or not 1 <= int(given) <= MOST_STEPS:
        raise ParamsError(
            f"the budget is {given!r}", f"write a number of steps from 1 to {MOST_STEPS}, or leave it empty"
        )
    return int(given)


def _schedule(given: str) -> str:
    try:
        return is_cron(given)
    except ValueError as error:
        raise ParamsError(f"the schedule is '{given}'", str(error)) from None
