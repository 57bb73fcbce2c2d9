"""What a folder of scans holds, as far as it can be told by looking: layout, modality, labels."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline.errors import DataError, ParamsError, refuse_to_pass_over
from pipeline.gpus import memory_to_plan_for
from pipeline.onboarding.entry import Quoted
from pipeline.onboarding.labels import check_present, labels_in, normalised_names, normalised_regions
from pipeline.volumes.case_files import CaseFiles
from pipeline.volumes.identity import fingerprint, is_pseudonym
from pipeline.volumes.layouts import Layout, find_layout, kinds_of
from pipeline.volumes.names import printable

MODALITIES = {"CT": "CT", "MR": "MR", "MRI": "MR"}
AIR_AT_MOST = -500.0
"""HU; a CT of a body holds air, an MR image holds nothing this low."""
IMAGES_LOOKED_AT = 5


@dataclass(frozen=True)
class NewOrgan:
    """What a source was found to hold."""

    name: str
    layout: str
    cases: list[CaseFiles]
    modality: str
    labels: dict[str, int]
    """Name and value, ordered by value."""
    regions: dict[str, list[str]]
    """By name, labels that are judged as one besides."""
    regions_left_out: list[str]
    """Names of those that cannot be taken over."""
    unlabelled: int | None
    """Value in the label maps of voxels that nobody looked at; None: there are none."""
    files: list[Path]
    """Relative to the source: what is copied."""
    left_out: list[str]
    """What is not copied, counted, a phrase a kind."""
    train_memory_gb: int | None
    """Of the GPU that is here, for the plan; None: there is none."""

    @property
    def unpaired(self) -> list[str]:
        """Cases that lack something or have a problem; ingest quarantines them."""
        return [case.case for case in self.cases if not case.complete]

    @property
    def salt(self) -> str | None:
        """Fingerprint of the secret, where patients are called by a keyed hash."""
        return fingerprint() if any(is_pseudonym(case.patient) for case in self.cases) else None

    @property
    def sections(self) -> dict[str, dict[str, Any]]:
        """What `params.yaml` says of it, by stage."""
        ingest: dict[str, Any] = {"modality": self.modality, "labels": self.labels}
        if self.unlabelled is not None:
            ingest["annotation"] = {"kind": "sparse", "unlabelled": self.unlabelled}
        if self.salt:
            ingest["salt"] = Quoted(self.salt)
        if self.train_memory_gb:
            ingest["train_memory_gb"] = self.train_memory_gb
        evaluate = {"regions": self.regions} if self.regions else {}
        return {"ingest": ingest, "train": {"steps": "auto"}, "evaluate": evaluate}

    def lines(self) -> list[str]:
        """The summary, for a person."""
        labels = ", ".join(f"{label} {value}" for label, value in self.labels.items())
        lines = [
            f"{self.name}: {len(self.cases)} cases ({self.layout} layout), {self.modality}, labels: {labels}"
        ]
        if self.regions:
            told = (f"{region} ({', '.join(labels)})" for region, labels in self.regions.items())
            lines.append(f"judged as one besides (evaluate.regions): {', '.join(told)}")
        if self.regions_left_out:
            lines.append(
                f"not judged as one: {_some(self.regions_left_out)} (the name is taken or cannot be "
                "one, or a value has no label)"
            )
        if self.unlabelled is not None:
            lines.append(f"voxels of the value {self.unlabelled} were not looked at (ingest.annotation)")
        if self.unpaired:
            lines.append(
                f"{len(self.unpaired)} that lack something, which ingest will quarantine: "
                f"{_some(self.unpaired)}"
            )
        lines += [f"not copied: {phrase}" for phrase in self.left_out]
        if self.train_memory_gb:
            lines.append(
                f"patches are planned for {self.train_memory_gb} GB of a GPU (ingest.train_memory_gb)"
            )
        raw = f"data/raw/{self.name}"
        return [
            *lines,
            f"written: {raw}, {raw}.dvc, params.yaml (git add {raw}.dvc params.yaml && git commit)",
            f"next: dvc repro register@{self.name}",
        ]


def _some(names: list[str]) -> str:
    """The first few names, and how many there are besides."""
    rest = len(names) - 4
    return ", ".join(names[:4]) + (f" and {rest} more" if rest > 0 else "")


def look(
    name: str,
    source: Path,
    modality: str | None,
    labels: dict[str, int] | None,
    console: Console,
    present: bool = False,
) -> NewOrgan:
    """Find layout, modality and labels; what is given outweighs dataset.json, that outweighs a guess.

    With `present`, labels are refused that no case has.
    """
    layout = find_layout(source)
    if not any(case.complete for case in layout.cases):
        problems = [case.problem for case in layout.cases if case.problem]
        raise DataError(
            f"{source}: none of its {len(layout.cases)} cases has an image and a label"
            + (f"; the first: {problems[0].reason}" if problems else " of one name"),
            problems[0].remedy if problems else "name them alike",
        )
    known = layout.declared
    unlabelled = None if known.unlabelled in (labels or {}).values() else known.unlabelled
    if labels and present:
        check_present(source, layout.cases, labels, unlabelled)
    found = labels or known.labels or labels_in(source, layout.cases, console, unlabelled)
    names = normalised_names(found)
    regions, regions_left_out = normalised_regions(known.regions, names)
    files = [path for case in layout.cases for path in case.paths]
    files += [path for path in layout.documents if path not in files]
    _check_files(source, files)
    return NewOrgan(
        name=name,
        layout=layout.name,
        cases=layout.cases,
        modality=_modality(source, layout, modality),
        labels=names,
        regions=regions,
        regions_left_out=regions_left_out,
        unlabelled=unlabelled,
        files=files,
        left_out=_left_out(source, set(files)),
        train_memory_gb=memory_to_plan_for(),
    )


def _check_files(source: Path, files: list[Path]) -> None:
    """Refuse files that cannot be copied, or that DVC cannot write down.

    Raises:
        DataError: a link leads nowhere, or a name is not UTF-8, as umlauts are not that an archive of Windows
            holds.
    """
    lost = [printable(str(path)) for path in files if not (source / path).exists()]
    if lost:
        raise DataError(
            f"{source}: {_some(lost)} {'leads' if len(lost) == 1 else 'lead'} nowhere",
            "fetch what the link stands for (git annex get, dvc pull) or remove it; nothing was added",
        )
    wrong = [printable(str(path)) for path in files if printable(str(path)) != str(path)]
    if wrong:
        raise DataError(
            f"{source}: {_some(wrong)} {'is' if len(wrong) == 1 else 'are'} not named in UTF-8",
            "rename or remove it; nothing was added",
        )


def _modality(source: Path, layout: Layout, given: str | None) -> str:
    if given is not None:
        if given.upper() not in MODALITIES:
            raise ParamsError(f"the modality '{given}' is not known", "give --modality CT or --modality MR")
        return MODALITIES[given.upper()]
    return layout.modality or _guess_modality(source, layout.cases)


def _guess_modality(source: Path, cases: list[CaseFiles]) -> str:
    """CT, where all of some images hold air in HU.

    Raises:
        DataError: they do not, and nothing else tells CT without HU from MR.
    """
    from pipeline.volumes.readers import read_channels

    images = [case.images[0] for case in cases if case.images]
    lowest: list[float] = []
    for image in images[:: -(-len(images) // IMAGES_LOOKED_AT)]:
        try:
            lowest.append(float(read_channels(*(source / path for path in image))[0].array.min()))
        except DataError:
            # One bad file is for ingest to quarantine.
            continue
    if lowest and max(lowest) <= AIR_AT_MOST:
        return "CT"
    values = ", ".join(f"{value:g}" for value in lowest) or "none could be read"
    raise DataError(
        f"{source} does not say whether it is CT or MR, and the lowest values of its images ({values}) "
        "do not either",
        "give --modality CT or --modality MR",
    )


def _left_out(source: Path, files: set[Path]) -> list[str]:
    """What the source holds and no case needs, a phrase a kind."""
    kinds: dict[str, list[Path]] = {"hidden": [], "of no case": []}
    for folder, folders, names in os.walk(source, onerror=refuse_to_pass_over):
        inside = Path(folder).relative_to(source)
        for name in (*names, *(name for name in folders if name.startswith("."))):
            if inside / name not in files:
                kinds["hidden" if name.startswith(".") else "of no case"].append(Path(folder, name))
        folders[:] = [name for name in folders if not name.startswith(".")]
    return [f"{len(paths)} {kind}: {kinds_of(sorted(paths))}" for kind, paths in kinds.items() if paths]
