"""What people are told when a task has failed for good: the one sentence that matters, and where to look."""

import json
import logging
import os
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any

WEBHOOK = "HOUNSFIELD_WEBHOOK"
"""An address that takes `{"text": …}`: Slack's, Mattermost's, Teams' by way of a workflow."""
TIMEOUT = 10.0
"""Seconds."""

log = logging.getLogger(__name__)


def report_failure(context: Mapping[str, Any]) -> None:
    """Tell that a task has failed: in its log, and to the webhook, if there is one."""
    text = message(context)
    log.error("%s", text)
    address = os.environ.get(WEBHOOK)
    if address:
        _post(address, text)


def message(context: Mapping[str, Any]) -> str:
    """What failed, why, and where the report and the log are."""
    task = context["task_instance"]
    lines = [f"{task.dag_id}: {task.task_id} failed: {_reason(context.get('exception'))}"]
    report = _report(task)
    if report:
        lines.append(f"report: {report}")
    lines.append(f"log: {task.log_url}")
    return "\n".join(lines)


def _reason(error: Any) -> str:
    """The last line of what an exception says; the name of one that says nothing."""
    if error is None:
        return "it was ended from outside"
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def _report(task: Any) -> str:
    """The report of the evaluation, if the run came that far: a link, or the file in its workspace."""
    from hounsfield_airflow.deployment import settings
    from pipeline.runs.publishing import page_link
    from pipeline.runs.workspaces import run_name, workspace_folder

    organ = task.dag_id.partition("_")[2]
    deployment, name = settings(), run_name(task.run_id)
    if (deployment.home / "reports" / organ / name / "report.html").is_file():
        return page_link(deployment, organ, name, "report")
    own = workspace_folder(deployment.home, organ, name) / Path("reports") / organ / "report.html"
    return str(own) if own.is_file() else ""


def _post(address: str, text: str) -> None:
    body = json.dumps({"text": text}).encode()
    try:
        request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=TIMEOUT).close()
    except (OSError, ValueError, HTTPException) as error:
        # The address may hold a token, so it is not logged.
        log.warning("nobody was told, because %s does not answer: %s", WEBHOOK, type(error).__name__)
