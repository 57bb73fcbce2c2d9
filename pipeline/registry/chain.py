"""The stages that lead to a model, as `dvc.lock` had them, and what each read and made."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from graphlib import TopologicalSorter
from typing import Any

from pipeline.registry.origin import RAW


@dataclass(frozen=True)
class Chain:
    """The stages that lead to a model, as `dvc.lock` had them."""

    organ: str
    sections: Mapping[str, Any]

    @cached_property
    def makers(self) -> dict[str, str]:
        """Stage by the path of its product."""
        return {out["path"]: stage for stage, body in self.sections.items() for out in body.get("outs", [])}

    @cached_property
    def stages(self) -> list[str]:
        """From the one that made the model to the one that read the raw scans; empty if none made it."""
        wanted, needs = [self.makers.get(self.model)], {}
        while wanted:
            stage = wanted.pop()
            if stage is not None and stage not in needs:
                read = {dep["path"] for dep in self._deps(stage)}
                needs[stage] = {self.makers[path] for path in read & self.makers.keys()}
                wanted += needs[stage]
        return list(TopologicalSorter(needs).static_order())[::-1]

    @property
    def model(self) -> str:
        """The path of the model."""
        return f"models/{self.organ}"

    @property
    def raw(self) -> str:
        """The path of the raw scans."""
        return f"{RAW}/{self.organ}"

    def made(self, path: str) -> str | None:
        """DVC's hash of a product, as its stage made it."""
        found = {name: md5 for stage in self.stages for name, md5 in self.products(stage).items()}
        return found.get(path)

    def read(self, path: str) -> set[str]:
        """DVC's hashes of a path, as the stages read it; more than one if they read different things."""
        deps = [dep for stage in self.stages for dep in self._deps(stage)]
        return {dep.get("md5", "") for dep in deps if dep["path"] == path}

    def products(self, stage: str) -> dict[str, str]:
        """Hash by path of what a stage made."""
        return {out["path"]: out.get("md5", "") for out in self._outs(stage)}

    def torn(self, stage: str) -> list[str]:
        """What a stage read that is not what the stage before it made."""
        read = {dep["path"]: dep.get("md5") for dep in self._deps(stage) if dep["path"] in self.makers}
        return [path for path, md5 in read.items() if md5 != self.made(path)]

    def parameter(self, stage: str, name: str, default: str) -> str:
        """A parameter of a stage as it was: of the organ, else of the defaults, else `default`."""
        found = default
        for sections in (self.sections.get(stage, {}).get("params") or {}).values():
            for section in (f"defaults.{stage}", f"organs.{self.organ}.{stage}"):
                found = str((sections.get(section) or {}).get(name, found))
        return found

    def same_as(self, other: Mapping[str, Any] | None) -> bool:
        """Whether other sections of a lock tell the same of these stages."""
        return other is not None and all(other.get(stage) == self.sections[stage] for stage in self.stages)

    def _deps(self, stage: str) -> list[dict[str, Any]]:
        return list(self.sections[stage].get("deps", []))

    def _outs(self, stage: str) -> list[dict[str, Any]]:
        return list(self.sections[stage].get("outs", []))
