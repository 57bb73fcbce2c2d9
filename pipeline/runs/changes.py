"""Which stages of an organ are not up to date, by hashes alone: a clone has no scans and no products."""

import json
from pathlib import Path
from typing import Any

import yaml

from pipeline.graph import KEY, load_stages
from pipeline.lockfile import LOCK, cut_short
from pipeline.runs.commands import dvc

ABSENT = {"deleted", "not in cache"}
"""How DVC calls a file that is not in a clone; its hash is compared instead."""


def pending(root: Path, organ: str) -> list[str]:
    """The stages of an organ that a run would run, not counting those that only follow one."""
    names = [f"{stage}@{organ}" for stage in load_stages(root)]
    status = json.loads(dvc(root, "status", "--json", *names))
    locked, made = locked_stages(root), _hashes(root, organ)
    return [name for name in names if _changed(status.get(name, []), locked.get(name), made)]


def unfollowed(root: Path, organ: str) -> list[str]:
    """The stages that have not run since what they read was made, by what `dvc.lock` says of it."""
    stages = list(load_stages(root))
    if cut_short(root):
        return stages
    locked, made = locked_stages(root), _hashes(root, organ)
    return [stage for stage in stages if _is_behind(locked.get(f"{stage}@{organ}"), made)]


def _is_behind(locked: dict[str, Any] | None, made: dict[str, str]) -> bool:
    read = (locked or {}).get("deps", [])
    return locked is None or any(made.get(dep["path"], dep.get("md5")) != dep.get("md5") for dep in read)


def _changed(status: list[Any], locked: dict[str, Any] | None, made: dict[str, str]) -> bool:
    for entry in status:
        # A sentence, such as 'changed command', or by path what happened to a file.
        if isinstance(entry, str):
            return True
        happened = [how for files in entry.values() for how in files.values()]
        if any(not isinstance(how, str) or how not in ABSENT for how in happened):
            return True
    return _is_behind(locked, made)


def _hashes(root: Path, organ: str) -> dict[str, str]:
    """MD5 by path of what the stages made last, and of the scans as they now are."""
    entries = [out for stage in locked_stages(root).values() for out in stage.get("outs", [])]
    found = {entry["path"]: entry["md5"] for entry in entries if "md5" in entry}
    for path in inputs(root, organ):
        pointer = root / f"{path}.dvc"
        if pointer.is_file():
            found[path] = yaml.safe_load(pointer.read_text(encoding="utf-8"))["outs"][0]["md5"]
    return found


def locked_stages(root: Path) -> dict[str, Any]:
    """What `dvc.lock` says of each stage that has run, by `<stage>@<organ>`."""
    lock = root / LOCK
    if not lock.is_file():
        return {}
    content = yaml.safe_load(lock.read_text(encoding="utf-8")) or {}
    return dict(content.get("stages", {}))


def inputs(root: Path, organ: str) -> list[str]:
    """Files that the stages read and none makes, and that are not code."""
    stages = load_stages(root).values()
    made = {product for stage in stages for product in stage.products}
    read = dict.fromkeys(dep for stage in stages for dep in stage.deps if KEY in dep and dep not in made)
    return [path.replace(KEY, organ) for path in read]
