"""`hounsfield run`: the steps of a run in a workspace of its own, as Airflow gives them, or a person."""

import json
import os
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.runs.errors import NOTHING_CHANGED
from pipeline.workspace import project_root

if TYPE_CHECKING:
    from pipeline.runs.settings import Settings

app = typer.Typer(help="A run in a workspace of its own, step by step.", no_args_is_help=True)

Organ = Annotated[str, typer.Argument(help="An organ of params.yaml.")]
RunId = Annotated[str, typer.Option("--id", metavar="RUN", help="What identifies the run.")]
By = Annotated[str, typer.Option(help="Who opens it, one at a time: an open run of its own gives way.")]


class Start(StrEnum):
    """How `train` begins."""

    AS_IS = "as_is"
    WARM = "warm"
    SCRATCH = "scratch"


@app.command("open")
def open_(
    organ: Organ,
    run_id: RunId,
    start: Annotated[
        Start, typer.Option(help="How train begins: as params.yaml says, from the champion, or from scratch.")
    ] = Start.AS_IS,
    warm: Annotated[bool, typer.Option("--warm", help="The same as --start warm.")] = False,
    scratch: Annotated[bool, typer.Option("--scratch", help="The same as --start scratch.")] = False,
    by: By = "",
    force: Annotated[bool, typer.Option("--force", help="Even if every stage is up to date.")] = False,
) -> None:
    """Make the workspace, or find that of an earlier attempt; exit code 99: nothing changed."""
    from pipeline.runs.opening import open_run

    begin = Start.WARM if warm else Start.SCRATCH if scratch else start
    run = open_run(_settings(), organ, run_id, start=begin.value, by=by, force=force)
    if run is None:
        raise typer.Exit(NOTHING_CHANGED)
    _tell(path=str(run.folder), commit=run.base, organ=organ, run=run.name)


@app.command()
def onboard(
    run_id: RunId,
    form: Annotated[str, typer.Option(help="What was filled in, as JSON: organ, source, labels, …")],
) -> None:
    """Check a form, and make the workspace of a run with the new organ in it, or leave nothing."""
    from pipeline.runs.onboarding import onboard_organ

    run = onboard_organ(_settings(), run_id, form)
    _tell(path=str(run.folder), commit=run.base, organ=run.organ, run=run.name)


@app.command()
def stage(
    stage: Annotated[str, typer.Argument(help="A stage of dvc.yaml.")],
    organ: Organ,
    force: Annotated[bool, typer.Option("--force", help="Even if it is up to date.")] = False,
) -> None:
    """Run one stage in the workspace that this is; what an earlier attempt left running is ended."""
    from pipeline.runs.stage import run_stage

    raise typer.Exit(run_stage(project_root(), stage, organ, force=force))


@app.command()
def publish(
    organ: Organ,
    run_id: RunId,
    branch: Annotated[str, typer.Option(help="Push to this one, not to the branch it started from.")] = "",
) -> None:
    """Push what the run made: data to the DVC remote; dvc.lock, metrics and decision as a tagged commit."""
    from pipeline.runs.publishing import publish_run

    _tell(**asdict(publish_run(_settings(), organ, run_id, branch)))


@app.command()
def incoming() -> None:
    """Look where new scans arrive, and say of which organs some have come and settled."""
    from pipeline.params import load_organs
    from pipeline.progress import console
    from pipeline.runs.incoming import ready

    organs = load_organs(project_root() / "params.yaml")
    watched = {organ: params.airflow for organ, params in organs.items() if params.airflow.incoming}
    found, problems = ready(_settings().home, watched)
    for organ, problem in problems.items():
        console.print(f"{organ}: {problem}", markup=False)
    _tell(ready=found, problems=problems)


@app.command()
def receive(organ: Organ) -> None:
    """Take new scans into the versioned raw data; exit code 99: there are none."""
    from pipeline.params import load_organ
    from pipeline.progress import console
    from pipeline.runs.receiving import receive as take_in

    params = load_organ(project_root() / "params.yaml", organ).airflow
    received = take_in(_settings(), organ, params)
    if received is None:
        console.print(f"{organ}: nothing new has arrived", markup=False)
        raise typer.Exit(NOTHING_CHANGED)
    _tell(**asdict(received))


@app.command()
def awaited(organ: Organ) -> None:
    """Say which version waits for approval, in the workspace that this is; exit code 99: none."""
    from pipeline.runs.approving import awaited_version
    from pipeline.runs.publishing import keep_pages
    from pipeline.runs.workspaces import find_run

    root = project_root()
    version, run = awaited_version(root, organ), find_run(root)
    if version is None:
        raise typer.Exit(NOTHING_CHANGED)
    _tell(version=version, **(keep_pages(_settings(), run) if run else {}))


@app.command()
def promote(
    organ: Organ,
    version: Annotated[int, typer.Argument(help="The version that waits.")],
    by: Annotated[str, typer.Option(help="Who approves.")],
    reason: Annotated[str, typer.Option(help="Why; it is kept.")] = "",
) -> None:
    """Approve of a version and make it the champion, in the workspace that this is."""
    from pipeline.runs.approving import promote_version

    raise typer.Exit(promote_version(project_root(), organ, version, by, reason))


@app.command()
def close(
    organ: Organ,
    run_id: RunId,
    keep_unpublished: Annotated[
        bool, typer.Option("--keep-unpublished", help="Keep the workspace of a run that was not published.")
    ] = False,
) -> None:
    """Remove the workspace, and let the next run of the organ begin."""
    from pipeline.runs.opening import close_run

    _tell(removed=close_run(_settings(), organ, run_id, keep_unpublished=keep_unpublished))


def _settings() -> "Settings":
    """Of the deployment; in a workspace, of the one that its run belongs to."""
    from pipeline.runs.settings import read_settings
    from pipeline.runs.workspaces import find_run

    root = project_root()
    run = find_run(root)
    own = (
        {}
        if run is None
        else {"HOUNSFIELD_PROJECT": run.project, "HOUNSFIELD_HOME": run.home, "HOUNSFIELD_BRANCH": run.branch}
    )
    settings = read_settings(root, {**os.environ, **own})
    # Whatever is called from here on uses the home of the run.
    os.environ["HOUNSFIELD_HOME"] = str(settings.home)
    return settings


def _tell(**result: object) -> None:
    """Print the result as one line of JSON, the last of the output: paths and hashes."""
    print(json.dumps(result))
