"""What DVC still has of a project: objects of its cache, and the code of a commit against its lock.

Asked of DVC itself, offline: nothing is fetched, checked out or changed.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import MissingError


class Cache:
    """The objects of a project's cache, by their hash."""

    def __init__(self, repo: Any) -> None:
        self._objects = repo.cache.local
        self.remotes = sorted(repo.config["remote"])
        """Names of the remotes that are configured."""

    def path(self, md5: str) -> Path | None:
        """Where an object lies; None if it is not in the cache."""
        return Path(self._objects.oid_to_path(md5)) if self._objects.exists(md5) else None

    def files(self, md5: str) -> dict[str, str] | None:
        """Hash by name of the files of a folder, whose own hash ends with `.dir`; None if nothing lists them.

        Of a single file: its own hash, under the name ''.
        """
        if not md5.endswith(".dir"):
            return {"": md5}
        if self.path(md5) is None:
            return None
        from dvc_data.hashfile.hash_info import HashInfo
        from dvc_data.hashfile.tree import Tree

        tree = Tree.load(self._objects, HashInfo("md5", md5))
        entries: Any = tree.iteritems()  # type: ignore[no-untyped-call]
        return {"/".join(name): found.value for name, (_, found) in entries}

    def lacks(self, md5: str) -> int | None:
        """How many of the files of a product are not in the cache; None if it is not known which they are."""
        files = self.files(md5)
        return None if files is None else sum(self.path(one) is None for one in files.values())

    def hash_of(self, folder: Path) -> str:
        """What DVC would call the content of a folder."""
        from dvc.fs import localfs
        from dvc_data.hashfile.build import build

        _, _, content = build(self._objects, str(folder), localfs, "md5", dry_run=True)
        return str(content.hash_info.value)


@contextmanager
def opened(root: Path) -> Iterator[Cache]:
    """The cache of the project at `root`.

    Raises:
        MissingError: the project is not under DVC.
    """
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo

    try:
        repo = Repo(str(root))
    except NotDvcRepoError:
        raise MissingError("the project is not under DVC", "run dvc init in it") from None
    with repo:
        yield Cache(repo)


def changed_at(root: Path, commit: str, stages: Sequence[str], data: Sequence[str]) -> list[str]:
    """Code and parameters that are not in a commit as its own dvc.lock says they were.

    Args:
        root: of the project.
        commit: whose code it is.
        stages: to look at, such as `train@liver`.
        data: dependencies that git does not keep.
    """
    from dvc.repo import Repo

    changed: set[str] = set()
    with Repo(str(root), rev=commit) as repo:
        for stage in repo.index.stages:
            if getattr(stage, "name", None) in stages:
                changed |= {
                    dep.def_path for dep in stage.deps if dep.def_path not in data and dep.workspace_status()
                }
    return sorted(changed)
