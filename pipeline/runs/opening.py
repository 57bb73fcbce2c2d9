"""A run's beginning and end: a workspace with everything its stages read, or none, where nothing changed."""

from pathlib import Path

from pipeline.errors import DataError, HounsfieldError, MissingError
from pipeline.params import check_name, load_organ
from pipeline.progress import console
from pipeline.runs.attempts import forget_killed
from pipeline.runs.changes import inputs, locked_stages, pending
from pipeline.runs.commands import Refused, dvc
from pipeline.runs.settings import Settings
from pipeline.runs.workspaces import (
    Run,
    find_run,
    hold,
    locked_run,
    make_workspace,
    release,
    remotes,
    remove_others,
    remove_workspace,
    run_name,
    workspace_folder,
)

LACKS = ("No such file", "Errno 2]", "NoSuchKey", "404", "Not Found", "do not exist", "missing")
"""How DVC says that a remote can be reached and does not have a file."""
BROUGHT = Path(".dvc/tmp/brought")
"""Exists once a workspace was given what the last run made."""
PUBLISHED = Path(".dvc/tmp/published.json")
"""Written when a run has been published: what a run did is safe then."""


def open_run(
    settings: Settings, organ: str, run_id: str, *, start: str = "as_is", by: str = "", force: bool = False
) -> Run | None:
    """Make the workspace of a run, or find the one of an earlier attempt.

    Args:
        settings: of the deployment.
        organ: of `params.yaml`.
        run_id: what identifies the run.
        start: how `train` begins; see `AirflowParams.start`.
        by: who opens it; see `hold`.
        force: open it even if every stage is up to date.

    Returns:
        The run; None if nothing changed since the last one, so that there is nothing to do.

    Raises:
        Busy: another run of the organ is open.
        HounsfieldError: the project, its parameters or the organ's scans cannot be used; what this
            call has made is removed.
    """
    check_name(organ)
    name = run_name(run_id)
    with locked_run(settings.home, organ, name, "opening"):
        hold(settings, organ, name, by)
        was_there = find_run(workspace_folder(settings.home, organ, name)) is not None
        try:
            return _opened(settings, organ, name, start, force)
        except HounsfieldError:
            # What an earlier attempt has done is not lost for a remote that is out of reach now.
            if not was_there:
                discard_run(settings.home, organ, name)
            raise


def _opened(settings: Settings, organ: str, name: str, start: str, force: bool) -> Run | None:
    run = make_workspace(settings, organ, name)
    params = load_organ(run.folder / "params.yaml", organ)
    # Not before: a run that cannot be opened takes the place of none.
    remove_others(settings.home, organ, name)
    # Also of a clone that is there: the attempt that made it may have been killed before.
    if not (run.folder / BROUGHT).is_file():
        forget_killed(run.folder)
        _begin(run, params.airflow.start if start == "as_is" else start)
        if not force and not pending(run.folder, organ):
            console.print(f"{organ}: nothing changed since the last run", markup=False)
            discard_run(settings.home, organ, name)
            return None
        bring_files(run.folder, organ)
        # Once only: later, what lies there may be half of what a stage makes.
        (run.folder / BROUGHT).touch()
    return run


def _begin(run: Run, start: str) -> None:
    """Write into `params.yaml` what `train` shall start from, as a training depends on files alone."""
    if start == "as_is":
        return
    from pipeline.runs.beginning import begin_with

    begin_with(run, start)


def bring_files(root: Path, organ: str) -> None:
    """Put the scans and what the stages made last time into a workspace, from cache or remote.

    What a stage keeps between runs must be there before it runs, or it starts from nothing. What lies there
    is half of what a killed attempt has brought, which DVC would not replace by itself.

    Raises:
        DataError: the scans are nowhere.
        MissingError: neither DVC nor git knows of any.
        Refused: a remote cannot be reached.
    """
    for path in inputs(root, organ):
        # Without a name to ask for, DVC would fetch what all organs have.
        if not (root / f"{path}.dvc").is_file() and not (root / path).exists():
            raise MissingError(
                f"{organ}: the project has no scans in {path} yet",
                f"run dvc add {path} in it, and commit {path}.dvc",
            )
    made = [name for name in locked_stages(root) if name.endswith(f"@{organ}")]
    scans = _pointers(root, organ)
    if _checked_out(root, "--force", *scans, *made):
        return
    for remote in remotes(root):
        _fetch(root, remote, *scans, *made)
    _check_out_scans(root, organ, "--force")
    if made:
        # Products that are nowhere are made again.
        dvc(root, "checkout", "--force", "--allow-missing", *made)


def bring_scans(root: Path, organ: str, *, force: bool = False) -> None:
    """Put the scans into a clone; with `force`, in place of others that lie there.

    Raises:
        DataError: they are nowhere.
        Refused: a remote cannot be reached.
    """
    scans, how = _pointers(root, organ), ["--force"] * force
    if _checked_out(root, *how, *scans):
        return
    for remote in remotes(root):
        _fetch(root, remote, *scans)
    _check_out_scans(root, organ, *how)


def _pointers(root: Path, organ: str) -> list[str]:
    return [f"{path}.dvc" for path in inputs(root, organ) if (root / f"{path}.dvc").is_file()]


def _check_out_scans(root: Path, organ: str, *how: str) -> None:
    scans = _pointers(root, organ)
    if not _checked_out(root, *how, *scans):
        raise DataError(
            f"{organ}: the scans of {', '.join(scans)} are neither in the cache nor in a DVC remote",
            "run dvc push where they were added",
        )


def _fetch(root: Path, remote: str, *targets: str) -> None:
    """Fetch what a remote has; what it lacks is no error here."""
    try:
        dvc(root, "fetch", "--remote", remote, *targets)
    except Refused as refused:
        if not _lacks(refused.remedy):
            raise


def _lacks(said: str) -> bool:
    """Whether DVC says of a remote that it has no such file, and not that something else went wrong."""
    return any(word in said for word in LACKS)


def _checked_out(root: Path, *targets: str) -> bool:
    try:
        dvc(root, "checkout", *targets)
    except Refused:
        return False
    return True


def close_run(settings: Settings, organ: str, run_id: str, *, keep_unpublished: bool = False) -> bool:
    """Let the next run of the organ begin, and remove the workspace; says whether it is gone.

    Args:
        settings: of the deployment.
        organ: whose run it is.
        run_id: what identifies the run.
        keep_unpublished: keep the workspace of a run that was not published, for another attempt; the
            next run of the organ removes it.
    """
    check_name(organ)
    name = run_name(run_id)
    folder = workspace_folder(settings.home, organ, name)
    if keep_unpublished and folder.is_dir() and not (folder / PUBLISHED).is_file():
        release(settings.home, organ, name)
        return False
    discard_run(settings.home, organ, name)
    return True


def discard_run(home: Path, organ: str, name: str) -> None:
    """Remove the workspace of a run, and let the next run begin."""
    remove_workspace(home, organ, name)
    release(home, organ, name)
