"""A run's end: data to the DVC remote, and a tagged commit to the project's branch.

Given again after a kill, every step finds what was done and does the rest: pushed data are not pushed
again, a commit of the same content is the same commit, a tag that is there stays.
"""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.atomic import atomic_path, locked, read_json, write_json
from pipeline.errors import MissingError, Unfinished
from pipeline.graph import KEY, load_stages
from pipeline.progress import console
from pipeline.runs.changes import inputs, unfollowed
from pipeline.runs.commands import Refused, as_author, dvc, git, unlock_git
from pipeline.runs.merging import Conflict, follows, on_top
from pipeline.runs.opening import PUBLISHED
from pipeline.runs.settings import Settings
from pipeline.runs.workspaces import Run, locked_run, open_run_of, remotes, share_cache

PAGES = ("report", "decision")
"""Of `reports/<organ>`: what outlives a run."""
ROUNDS = 20
"""How often a push is tried while others push to the same branch."""
MOVED = ("non-fast-forward", "fetch first", "stale info", "cannot lock ref", "failed to update ref", "atomic")
"""How git says that the branch is no longer where it was."""
UPDATE = "git -c receive.denyCurrentBranch=updateInstead receive-pack"
"""A project on this machine whose branch is checked out follows, if nothing is changed there."""


@dataclass(frozen=True)
class Published:
    """What a run left in the project."""

    organ: str
    run: str
    branch: str
    """Where the commit was pushed to."""
    commit: str
    tag: str
    report: str
    """The report of the evaluation, as a link; '' if there is none."""
    decision: str
    """The page about the decision of the gate, likewise."""


def publish_run(settings: Settings, organ: str, run_id: str, branch: str = "") -> Published:
    """Push what a run made, and say where it is.

    Args:
        settings: of the deployment.
        organ: whose run it is.
        run_id: what identifies the run.
        branch: to push to; '': the one it started from. If that one cannot be pushed to, the run is
            left as the branch `run/<organ>/<run>`.

    Raises:
        MissingError: the run is not open, or a stage has not followed those before it.
        Unfinished: the project or the DVC remote cannot be reached now.
    """
    run = open_run_of(settings, organ, run_id)
    # One attempt at a time: what another one's git has locked would be taken for what a kill has left.
    with locked_run(settings.home, organ, run.name, "publishing"):
        return _published(settings, run, branch)


def _published(settings: Settings, run: Run, branch: str) -> Published:
    organ = run.organ
    _check_finished(run)
    unlock_git(run.folder)
    # A training takes days, and credentials expire in hours.
    share_cache(settings, run.folder)
    push_data(run.folder, organ)
    ours = commit_changes(run, outcome_of(run.folder, organ))
    target = branch or run.branch
    try:
        commit = push_commit(settings, run, ours, target)
    except (Conflict, Unpushable) as error:
        target = f"run/{run.tag}"
        console.print(f"{error}; the run is left as the branch {target}", markup=False)
        commit = _push(settings, run, ours, target, force=True)
    done = Published(organ, run.name, target, commit, run.tag, **keep_pages(settings, run))
    write_json(run.folder / PUBLISHED, asdict(done))
    return done


def _check_finished(run: Run) -> None:
    """Refuse what would tell of a new model the figures and the decision of the one before."""
    if left := unfollowed(run.folder, run.organ):
        raise MissingError(
            f"{run.tag}: these stages have not run on what was made before them: {', '.join(left)}",
            f"run hounsfield run stage {left[0]} {run.organ} in {run.folder}, then those after it",
        )


class Unpushable(Unfinished):
    """The branch cannot be pushed to, however often it is tried."""


def push_data(root: Path, organ: str) -> None:
    """Push scans and products to the default remote; without one, to the project's own cache."""
    scans = [f"{path}.dvc" for path in inputs(root, organ) if (root / f"{path}.dvc").is_file()]
    targets = [*scans, *(f"{stage}@{organ}" for stage in load_stages(root))]
    for remote in remotes(root)[:1]:
        dvc(root, "push", "--remote", remote, *targets)


def commit_changes(run: Run, subject: str) -> str:
    """Commit what a run changed of the files that git keeps; return the commit, the old one if nothing."""
    root = run.folder
    paths = [path for path in _kept_by_git(root, run.organ) if (root / path).exists()]
    git(root, "add", "--", *paths)
    if git(root, "diff", "--cached", "--name-only"):
        message = f"{subject}\n\nRun: {run.name}\nBase: {run.base}\n"
        git(root, "commit", "--quiet", "--no-verify", "-F", "-", env=as_author(root), text=message)
    return git(root, "rev-parse", "HEAD")


def _kept_by_git(root: Path, organ: str) -> list[str]:
    """The lock, the parameters, the pointers to scans, and the products that DVC leaves to git."""
    stages = load_stages(root).values()
    products = [path.replace(KEY, organ) for stage in stages for path in stage.products]
    kept = [path for path in products if not _ignored(root, path)]
    pointers = [f"{path}{suffix}" for path in inputs(root, organ) for suffix in (".dvc", ".s3.json")]
    # DVC notes beside its pointers what git is to ignore.
    ignored = {f"{Path(pointer).parent}/.gitignore" for pointer in pointers}
    return ["dvc.lock", "params.yaml", *kept, *pointers, *sorted(ignored)]


def _ignored(root: Path, path: str) -> bool:
    try:
        git(root, "check-ignore", "--quiet", "--", path)
    except Refused:
        return False
    return True


def outcome_of(root: Path, organ: str) -> str:
    """What came out, in a line: the decision of the gate, if there is one."""
    record = root / "registry" / f"{organ}.json"
    if not record.is_file():
        return f"run: {organ}"
    decision = read_json(record)
    mean = decision.get("evidence", {}).get("mean_dice")
    dice = "" if mean is None else f", mean Dice {mean:.4f}"
    return f"run: {organ} version {decision['challenger_version']} {decision['decision']}{dice}"


def push_commit(settings: Settings, run: Run, ours: str, branch: str, *, tag: bool = True) -> str:
    """Put `ours` on top of what the branch is by now, push it with the run's tag, and return it.

    Raises:
        Conflict: somebody changed the same lines.
        Unpushable: the branch cannot be pushed to.
        Unfinished: the project cannot be reached.
    """
    said = ""
    for _ in range(ROUNDS):
        theirs = _head(run.folder, branch) or run.base
        commit = on_top(run.folder, run.organ, run.base, ours, theirs)
        if tag and commit == theirs and (pushed := _pushed(run, theirs)):
            return pushed
        try:
            # One at a time of this machine: a checked-out branch takes a moment to follow.
            with locked(settings.home / "workspaces" / ".push.lock", "pushing to the project"):
                return _push(settings, run, commit, branch, tag=tag)
        except Refused as refused:
            if _head(run.folder, branch) in (None, theirs) and not _said(refused, MOVED):
                _check_unpushable(refused, branch)
                raise
            said = refused.remedy
    raise Unfinished(
        f"{run.organ}: {branch} could not be pushed to in {ROUNDS} attempts ({said})",
        "run again later; a lock that a git which was killed has left in the project has to be removed",
    )


def _pushed(run: Run, theirs: str) -> str:
    """The commit that the run was tagged by, if `theirs` is built on it; '': it was not pushed yet."""
    try:
        tagged = git(run.folder, "rev-parse", "--verify", f"refs/tags/{run.tag}^{{commit}}")
    except Refused:
        return ""
    # An attempt that was killed before its push has left the tag here alone.
    if not git(run.folder, "ls-remote", "--tags", "origin", f"refs/tags/{run.tag}"):
        return ""
    return tagged if follows(run.folder, theirs, tagged) else ""


def _check_unpushable(refused: Refused, branch: str) -> None:
    """Tell a branch that is closed to this run from a project that cannot be reached."""
    if _said(refused, ("rejected", "would be overwritten")):
        raise Unpushable(
            f"{branch} of the project cannot be pushed to ({refused.remedy})",
            "commit or stash what is changed there, or see to its protection",
        )


def _said(refused: Refused, words: tuple[str, ...]) -> bool:
    return any(word in refused.remedy for word in words)


def _head(root: Path, branch: str) -> str | None:
    """The commit of a branch of the project, fetched; None if there is none."""
    if not git(root, "ls-remote", "--heads", "origin", f"refs/heads/{branch}"):
        return None
    git(root, "fetch", "--no-tags", "origin", f"refs/heads/{branch}")
    return git(root, "rev-parse", "FETCH_HEAD")


def _push(
    settings: Settings, run: Run, commit: str, branch: str, *, tag: bool = True, force: bool = False
) -> str:
    wanted = [f"{'+' if force else ''}{commit}:refs/heads/{branch}"]
    if tag:
        git(run.folder, "tag", "--force", "--", run.tag, commit)
        # Forced: a killed attempt may have left it at a commit that the branch never had.
        wanted.append(f"+refs/tags/{run.tag}:refs/tags/{run.tag}")
    follow = ["--receive-pack", UPDATE] if settings.local is not None else []
    git(run.folder, "push", "--atomic", *follow, "origin", *wanted)
    return commit


def keep_pages(settings: Settings, run: Run) -> dict[str, str]:
    """Copy the pages of a run to where they outlive the workspace: the link of each, '' without one.

    They lie side by side, as in the project, because one leads to the other.
    """
    links = dict.fromkeys(PAGES, "")
    for page in PAGES:
        source = run.folder / "reports" / run.organ / f"{page}.html"
        if source.is_file():
            target = settings.home / "reports" / run.organ / run.name / source.name
            with atomic_path(target) as partial:
                shutil.copyfile(source, partial)
            links[page] = page_link(settings, run.organ, run.name, page)
    return links


def page_link(settings: Settings, organ: str, name: str, page: str) -> str:
    """Where one of `PAGES` of the run `name` is read: an address if there is one, else its path."""
    inside = f"{organ}/{name}/{page}.html"
    return f"{settings.reports}/{inside}" if settings.reports else str(settings.home / "reports" / inside)
