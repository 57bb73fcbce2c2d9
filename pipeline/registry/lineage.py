"""From a version back to its raw cases, with a check of each link on the way.

    model files -> dvc.lock -> commit -> train <- patches, augment <- validate <- ingest <- raw scans -> cases

What was recorded when the version was registered (`lineage.json`) is compared with what is there now: the
files in the registry, the history of git, the cache of DVC.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.errors import DataError, HounsfieldError
from pipeline.lockfile import LOCK
from pipeline.registry.artifacts import files_of
from pipeline.registry.asked import asked_version
from pipeline.registry.chain import Chain
from pipeline.registry.dvc_cache import Cache, changed_at, opened
from pipeline.registry.links import Lineage, Link, State
from pipeline.registry.models import ModelRegistry
from pipeline.registry.origin import NAME, ask_git, case_records, locked_stages, raw_version
from pipeline.registry.raw_cases import RawFiles, raw_files
from pipeline.registry.version import Version

FETCH = "git fetch --all --tags, or ask in the clone it was registered in"


def walk(root: Path, organ: str, number: int | None = None, *, cases: bool = False) -> Lineage:
    """Walk from a version back to the raw cases.

    Args:
        root: of the project.
        organ: whose model it is.
        number: of the version; None: the champion's.
        cases: look for the raw files of every case as well.

    Raises:
        MissingError: there is no such version, nothing was recorded about it, or the project is not
            under DVC. A link that does not hold is told, not raised.
    """
    registry = ModelRegistry(root)
    version = asked_version(registry, root, organ, number)
    known = json.loads(registry.evidence(version, NAME))
    with opened(root) as cache:
        is_champion = version.number == registry.champion_version(organ)
        return Walk(root, registry, version, known, cache).lineage(is_champion, cases)


@dataclass(frozen=True)
class Walk:
    """One walk; every method looks at one link."""

    root: Path
    registry: ModelRegistry
    version: Version
    known: dict[str, Any]
    cache: Cache

    @cached_property
    def chain(self) -> Chain:
        """The stages that were recorded."""
        return Chain(self.organ, self.known["stages"] or {})

    @property
    def organ(self) -> str:
        """Whose model it is."""
        return self.version.organ

    def lineage(self, champion: bool, cases: bool) -> Lineage:
        """All links, from the model's files to the cases."""
        links = [self.model()]
        found: dict[str, RawFiles] = {}
        if self.chain.stages:
            links += [self.commit_link(), *([self.code()] if self.commit else [])]
            links += [self.stage(stage) for stage in self.chain.stages]
            links += [self.raw(), self.cases()]
            if cases and self.raw_list is not None:
                link, found = self.files_of_cases(self.raw_list)
                links.append(link)
        else:
            links.append(self.no_lock())
        number, commands = self.version.number, self.commands()
        return Lineage(self.organ, number, champion, self.commit, links, self.known, commands, found)

    def model(self) -> Link:
        """The files in the registry: those that were registered, and those that the lock names."""
        try:
            folder = self.registry.verify(self.version)
        except HounsfieldError as error:
            state: State = "differs" if isinstance(error, DataError) else "missing"
            return Link("model", state, error.reason, error.remedy)
        said = f"{len(files_of(folder))} files, SHA-256 {self.version.content[:12]}, as registered"
        made, here = self.chain.made(self.chain.model), self.cache.hash_of(folder)
        if made is None:
            return Link("model", "whole", said)
        if made != here:
            told = f"the files are {here}, but {self.chain.model} was {made} by its dvc.lock"
            return Link("model", "differs", told, f"register what DVC made: {self._repro('register')}")
        return Link("model", "whole", f"{said} and as {self.chain.stages[0]} made them ({made})")

    def no_lock(self) -> Link:
        """Where nothing says what the model was made from."""
        told = "no dvc.lock said what it was made from when it was registered"
        return Link(LOCK, "missing", told, f"run the stages by DVC: {self._repro('register')}")

    @cached_property
    def commit(self) -> str | None:
        """The first commit whose dvc.lock is that of the version; None if there is none here."""
        made = self.chain.made(self.chain.model)
        if made is None:
            return None
        # A change of the number of lines that have the hash: it came, or it went.
        search = ("log", "--all", "--reverse", "--format=%H", f"-S{made}", "--", LOCK)
        candidates = [*(self._git(*search) or "").split(), self.known["commit"]]
        return next((each for each in candidates if each and self.chain.same_as(self._lock_at(each))), None)

    def commit_link(self) -> Link:
        """The commit that names all of this."""
        if self.commit is not None:
            names = ", ".join([self.commit, *(self._git("tag", "--points-at", self.commit) or "").split()])
            return Link("commit", "whole", f"{names}: its dvc.lock is that of the version")
        lock = self.root / LOCK
        text = lock.read_text(encoding="utf-8") if lock.is_file() else None
        if self.chain.same_as(locked_stages(text, self.organ)):
            told = "its dvc.lock is not committed yet"
            return Link("commit", "missing", told, "git add dvc.lock, and commit")
        told, base = "no commit here has its dvc.lock", self.known["commit"]
        if base is not None:
            there = self._git("cat-file", "-e", f"{base}^{{commit}}") is not None
            told += f"; it was registered on top of {base[:12]}{'' if there else ', which is gone as well'}"
        return Link("commit", "missing", told, FETCH)

    def code(self) -> Link:
        """Code and parameters of the commit, against the hashes and values in its lock."""
        assert self.commit is not None, "the caller looked"
        stages = [f"{stage}@{self.organ}" for stage in self.chain.stages]
        changed = changed_at(self.root, self.commit, stages, [*self.chain.makers, self.chain.raw])
        if changed:
            told = f"at {self.commit[:12]} these are not as they were when it was made: {', '.join(changed)}"
            return Link("code", "differs", told, "what made it was never committed")
        return Link("code", "whole", "code and parameters of the commit are those that made it")

    def stage(self, stage: str) -> Link:
        """What a stage read is what the one before it made; whether its products are still there."""
        torn = self.chain.torn(stage)
        if torn:
            told = f"it read another {', '.join(torn)} than the stage before it made"
            return Link(stage, "differs", told, f"run them by DVC: {self._repro(stage)}")
        lacking = [path for path, md5 in self.chain.products(stage).items() if not self._is_kept(path, md5)]
        if lacking:
            return Link(stage, "whole", f"not in DVC's cache, dvc repro makes it again: {', '.join(lacking)}")
        return Link(stage, "whole", f"made {', '.join(self.chain.products(stage))}, which DVC has")

    @cached_property
    def raw_hash(self) -> str | None:
        """DVC's hash of the raw scans that were ingested; None if the stages did not read the same."""
        read = self.chain.read(self.chain.raw)
        return read.pop() if len(read) == 1 else None

    @cached_property
    def raw_list(self) -> dict[str, str] | None:
        """Hash by name of the raw files; None if nothing lists them."""
        return self.cache.files(self.raw_hash) if self.raw_hash else None

    def raw(self) -> Link:
        """The version of the raw scans: told once and the same by all, and all of its files in the cache."""
        path, told = self.chain.raw, self.known["raw"] or {}
        if self.raw_hash is None or told.get("md5", self.raw_hash) != self.raw_hash:
            versions = sorted({*self.chain.read(path), *filter(None, [told.get("md5")])})
            what = f"not one version of {path} was read, but {' and '.join(versions) or 'none that is known'}"
            return Link("raw scans", "differs", what, self._repro("register"))
        remotes = ", ".join(self.cache.remotes)
        bring = f"pull them from {remotes}" if remotes else "no DVC remote is configured to pull from"
        if self.raw_list is None:
            what = f"the list of their files, {self.raw_hash}, is not in DVC's cache"
            return Link("raw scans", "missing", what, bring)
        lacks = sum(self.cache.path(md5) is None for md5 in self.raw_list.values())
        if lacks:
            what = f"{lacks} of {len(self.raw_list)} files of {self.raw_hash} are not in DVC's cache"
            return Link("raw scans", "missing", what, bring)
        now = (raw_version(self.root, self.organ) or {}).get("md5")
        later = "" if now == self.raw_hash else f"; {path} is at another version now"
        what = f"{self.raw_hash}, {len(self.raw_list)} files, all in DVC's cache{later}"
        return Link("raw scans", "whole", what)

    def cases(self) -> Link:
        """The recorded cases, against the table of accepted cases that the training read."""
        recorded = self.known["cases"]
        test = sum(case["split"] == "test" for case in recorded)
        said = f"{len(recorded)}: {len(recorded) - test} to learn from, {test} of the test"
        table = f"data/accepted/{self.organ}.parquet"
        md5 = self.chain.made(table)
        kept = self.cache.path(md5) if md5 else None
        if kept is None:
            return Link("cases", "whole", f"{said}; not compared, {table} is not in DVC's cache")
        import pandas as pd

        now = case_records(pd.read_parquet(kept))
        # An old lineage names no patients.
        alike = [{key: one[key] for key in then} == then for then, one in zip(recorded, now, strict=False)]
        if len(now) != len(recorded) or not all(alike):
            told = f"the cases recorded are not those of {table} ({md5}), from which it was trained"
            return Link("cases", "differs", told, self._repro("register"))
        return Link("cases", "whole", f"{said}, as in {table}")

    def files_of_cases(self, files: dict[str, str]) -> tuple[Link, dict[str, RawFiles]]:
        """The raw files of each case, counted."""
        layout = self.chain.parameter("ingest", "layout", "auto")
        try:
            found = raw_files(self.cache, files, layout)
        except HounsfieldError as error:
            return Link("files", "missing", f"whose files are whose cannot be told: {error.reason}"), {}
        wanted = {case["case"] for case in self.known["cases"]}
        lost = sorted(wanted - found.keys())
        ours = {case: raw for case, raw in found.items() if case in wanted}
        if lost:
            told = f"{len(lost)} cases have no files in that version of the raw scans: {', '.join(lost[:5])}"
            return Link("files", "missing", told), ours
        missing = sum(raw.missing > 0 for raw in ours.values())
        if missing:
            return Link("files", "missing", f"{missing} of {len(ours)} cases lack files in DVC's cache"), ours
        count = sum(raw.files for raw in ours.values())
        return Link("files", "whole", f"{count} raw files of {len(ours)} cases, all in DVC's cache"), ours

    def commands(self) -> list[str]:
        """What brings the state back; nothing where no commit is known."""
        if self.commit is None:
            return []
        raw = f"{self.chain.raw}.dvc"
        lacks = self.cache.lacks(self.raw_hash) if self.raw_hash else None
        products = [
            f"{stage}@{self.organ}"
            for stage in self.chain.stages
            if all(self.cache.lacks(md5) == 0 for md5 in self.chain.products(stage).values())
        ]
        return [
            f"git checkout {self.commit}",
            f"dvc pull {raw}" if lacks != 0 and self.cache.remotes else f"dvc checkout {raw}",
            *([f"dvc checkout {' '.join(products)}"] if products else []),
            self._repro(self.chain.stages[0]),
        ]

    def _is_kept(self, path: str, md5: str) -> bool:
        """Whether DVC has a product, or the commit, of those that git keeps."""
        if self.cache.lacks(md5) == 0:
            return True
        return bool(self.commit) and self._git("cat-file", "-e", f"{self.commit}:{path}") is not None

    def _repro(self, stage: str) -> str:
        return f"dvc repro {stage}@{self.organ}"

    def _lock_at(self, commit: str) -> dict[str, Any] | None:
        return locked_stages(self._git("show", f"{commit}:{LOCK}"), self.organ)

    def _git(self, *arguments: str) -> str | None:
        return ask_git(self.root, *arguments)
