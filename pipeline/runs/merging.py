"""What a run changed, as a commit on top of what others pushed meanwhile.

Runs of several organs end at the same time, and all of them change `dvc.lock`. Its sections
`<stage>@<organ>` belong to the organ's run; everything else is merged as git merges a file. The working
tree is not touched: nothing of it has to be made again for a merge.
"""

import tempfile
from pathlib import Path

import yaml

from pipeline.errors import Unfinished
from pipeline.lockfile import LOCK, as_written
from pipeline.runs.commands import Refused, as_author, git


class Conflict(Unfinished):
    """Somebody changed the same lines of a file as the run."""


def on_top(root: Path, organ: str, base: str, ours: str, theirs: str) -> str:
    """The commit of what `ours` changed since `base`, with `theirs` as its parent; `theirs`, if that has all.

    Raises:
        Conflict: a file cannot be merged.
    """
    if theirs == base or follows(root, ours, theirs):
        return ours
    # Of a file that was moved, git would name where it is now alone.
    said = git(root, "diff", "--name-only", "--no-renames", "-z", base, ours)
    changed = [path for path in said.split("\0") if path]
    with tempfile.TemporaryDirectory() as scratch:
        index = {"GIT_INDEX_FILE": str(Path(scratch) / "index")}
        git(root, "read-tree", theirs, env=index)
        for path in changed:
            entry = _merged(root, organ, path, *(_entry(root, at, path) for at in (base, ours, theirs)))
            if entry is None:
                git(root, "update-index", "--force-remove", "--", path, env=index)
            else:
                git(root, "update-index", "--add", "--cacheinfo", f"{entry[0]},{entry[1]},{path}", env=index)
        tree = git(root, "write-tree", env=index)
    if tree == git(root, "rev-parse", f"{theirs}^{{tree}}"):
        # It was pushed by an attempt that was killed before it could say so.
        return theirs
    message = git(root, "log", "-1", "--format=%B", ours)
    return git(root, "commit-tree", tree, "-p", theirs, "-F", "-", env=as_author(root), text=message)


def follows(root: Path, ours: str, theirs: str) -> bool:
    """Whether `theirs` is among what `ours` is built on; not so, where somebody has rewritten the history."""
    try:
        git(root, "merge-base", "--is-ancestor", theirs, ours)
    except Refused:
        return False
    return True


Entry = tuple[str, str] | None
"""Mode and blob of a file at a commit; None if it is not there."""


def _entry(root: Path, commit: str, path: str) -> Entry:
    listed = git(root, "ls-tree", commit, "--", path).split()
    return (listed[0], listed[2]) if listed else None


def _merged(root: Path, organ: str, path: str, base: Entry, ours: Entry, theirs: Entry) -> Entry:
    if theirs in (base, ours):
        return ours
    if ours is None or theirs is None:
        raise Conflict(f"{organ}: {path} was changed on one side and removed on the other", _remedy(path))
    if path == LOCK:
        text = merged_lock(organ, _text(root, ours), _text(root, theirs))
        return ours[0], git(root, "hash-object", "-w", "--stdin", text=text)
    if path.endswith(".json"):
        # Of lines of both it would be a record of what nobody has made.
        raise Conflict(f"{organ}: {path} was changed by somebody else as well", _remedy(path))
    return ours[0], _merged_lines(root, organ, path, [ours, base, theirs])


def _text(root: Path, entry: tuple[str, str]) -> str:
    # `git` cuts the last line end off.
    return git(root, "cat-file", "blob", entry[1]) + "\n"


def _merged_lines(root: Path, organ: str, path: str, entries: list[Entry]) -> str:
    """The blob of the three-way merge of ours, base and theirs; of what DVC ignores, both sides' lines.

    By git alone: read as text here, a file written on Windows would lose its line ends.
    """
    union = ["--union"] if path.endswith(".gitignore") else []
    with tempfile.TemporaryDirectory() as scratch:
        names = [_unpacked(root, entry, Path(scratch)) for entry in entries]
        try:
            git(root, "merge-file", *union, *names)
        except Refused:
            raise Conflict(f"{organ}: {path} was changed by somebody else as well", _remedy(path)) from None
        return git(root, "hash-object", "-w", "--no-filters", names[0])


def _unpacked(root: Path, entry: Entry, scratch: Path) -> str:
    """A file in `scratch` with the content of an entry, empty for none."""
    if entry is None:
        (scratch / "none").touch()
        return str(scratch / "none")
    return str(scratch / git(scratch, "unpack-file", entry[1], env={"GIT_DIR": str(root / ".git")}))


def _remedy(path: str) -> str:
    return f"merge the run's branch by hand, minding {path}"


def merged_lock(organ: str, ours: str, theirs: str) -> str:
    """`dvc.lock` with the organ's sections of `ours` and all others of `theirs`, as DVC writes it."""
    own, others = (yaml.safe_load(text) or {} for text in (ours, theirs))
    belongs = f"@{organ}"
    stages = {name: body for name, body in others.get("stages", {}).items() if not name.endswith(belongs)}
    stages |= {name: body for name, body in own.get("stages", {}).items() if name.endswith(belongs)}
    return as_written({"schema": own.get("schema", others.get("schema", "2.0")), "stages": stages})
