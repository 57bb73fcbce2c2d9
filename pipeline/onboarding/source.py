"""What a folder of scans holds, as far as it can be told by looking: layout, modality, labels."""

import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track

from pipeline.errors import DataError, ParamsError
from pipeline.volumes.layouts import CaseFiles, Layout, find_layout

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
    files: list[Path]
    """Relative to the source: what is copied."""
    left_out: list[str]
    """What is not copied, counted, a phrase a kind."""

    @property
    def unpaired(self) -> list[str]:
        """Cases that lack their image or their label map; ingest quarantines them."""
        return [case.case for case in self.cases if case.image is None or case.label is None]

    @property
    def next_command(self) -> str:
        """What to run next."""
        return f"dvc repro register@{self.name}"

    def lines(self) -> list[str]:
        """The summary, for a person."""
        labels = ", ".join(f"{label} {value}" for label, value in self.labels.items())
        lines = [
            f"{self.name}: {len(self.cases)} cases ({self.layout} layout), {self.modality}, labels: {labels}"
        ]
        if self.unpaired:
            lines.append(
                f"{len(self.unpaired)} without image or label, which ingest will quarantine: "
                f"{_some(self.unpaired)}"
            )
        lines += [f"not copied: {phrase}" for phrase in self.left_out]
        raw = f"data/raw/{self.name}"
        return [
            *lines,
            f"written: {raw}, {raw}.dvc, params.yaml (git add {raw}.dvc params.yaml && git commit)",
            f"next: {self.next_command}",
        ]


def _some(names: list[str]) -> str:
    """The first few names, and how many there are besides."""
    rest = len(names) - 4
    return ", ".join(names[:4]) + (f" and {rest} more" if rest > 0 else "")


def parse_labels(entries: list[str]) -> dict[str, int]:
    """Labels as the command line gives them, `liver=1`, by name.

    Raises:
        ParamsError: an entry is not of that form, or a name is given twice.
    """
    labels: dict[str, int] = {}
    for entry in entries:
        name, _, value = entry.rpartition("=")
        if not name or not value.strip().isdecimal():
            raise ParamsError(f"'{entry}' is not a label", "write a name and a value, for example liver=1")
        if name.strip() in labels:
            raise ParamsError(f"the label '{name.strip()}' is given twice", "give each label once")
        labels[name.strip()] = int(value)
    return labels


def look(
    name: str, source: Path, modality: str | None, labels: dict[str, int] | None, console: Console
) -> NewOrgan:
    """Find layout, modality and labels; what is given outweighs dataset.json, that outweighs a guess."""
    layout = find_layout(source)
    if not any(case.image and case.label for case in layout.cases):
        raise DataError(
            f"{source}: none of its {len(layout.cases)} cases has an image and a label map of one name",
            "name them alike",
        )
    names = labels or layout.labels or _scan_labels(source, layout.cases, console)
    files = [path for case in layout.cases for path in (case.image, case.label) if path]
    if (source / "dataset.json").is_file():
        files.append(Path("dataset.json"))
    return NewOrgan(
        name=name,
        layout=layout.name,
        cases=layout.cases,
        modality=_modality(source, layout, modality),
        labels=_normalise(names),
        files=files,
        left_out=_left_out(source, set(files)),
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
    from pipeline.volumes.readers import read_scan

    images = [case.image for case in cases if case.image]
    lowest: list[float] = []
    for image in images[:: -(-len(images) // IMAGES_LOOKED_AT)]:
        try:
            lowest.append(float(read_scan(source / image).array.min()))
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


def _scan_labels(source: Path, cases: list[CaseFiles], console: Console) -> dict[str, int]:
    """A label for every value in the label maps, named by it."""
    values: set[int] = set()
    maps = [case.label for case in cases if case.label]
    for path in track(
        maps, "Looking for labels", console=console, transient=True, disable=not console.is_terminal
    ):
        values |= _label_values(source / path)
    if not values:
        raise DataError(
            f"{source}: no label map holds whole numbers from 0 to 255 alone, with one above 0",
            "look at one of them, or give names and values with --label NAME=VALUE",
        )
    return {f"label_{value}": value for value in values}


def _label_values(path: Path) -> set[int]:
    """The labels of a map; none, if it is not one: that is for ingest to say."""
    import numpy as np

    from pipeline.volumes.readers import read_scan

    try:
        array = read_scan(path).array
    except DataError:
        return set()
    if array.min() < 0 or array.max() > 255:
        return set()
    stored = array.astype(np.uint8)
    if not np.array_equal(stored, array):
        return set()
    present = np.zeros(256, dtype=bool)
    for plane in np.moveaxis(stored, -1, 0):
        present[plane] = True
    return {int(value) for value in np.flatnonzero(present) if value > 0}


def _normalise(labels: dict[str, int]) -> dict[str, int]:
    """Lower-case names of letters, digits and '_', ordered by value: 'Left Kidney' is left_kidney.

    A name begins with a letter, so that nothing that reads it takes it for a number: '3' is label_3.
    """
    origin: dict[str, str] = {}
    for label in sorted(labels, key=lambda label: labels[label]):
        plain = unicodedata.normalize("NFKD", label).encode("ascii", "ignore").decode().lower()
        name = re.sub(r"[^a-z0-9]+", "_", plain).strip("_")
        if not name:
            raise ParamsError(
                f"the label '{label}' has no letter of a to z", "name it with --label NAME=VALUE"
            )
        name = f"label_{name}" if name[0].isdigit() else name
        if name in origin:
            raise ParamsError(
                f"the labels '{origin[name]}' and '{label}' would both be '{name}'",
                "name them with --label NAME=VALUE",
            )
        origin[name] = label
    return {name: labels[label] for name, label in origin.items()}


def _left_out(source: Path, files: set[Path]) -> list[str]:
    """What the source holds and no case needs, a phrase a kind."""
    kinds: dict[str, list[str]] = {"hidden": [], "of no case": []}
    for folder, folders, names in os.walk(source):
        inside = Path(folder).relative_to(source)
        for name in (*names, *(name for name in folders if name.startswith("."))):
            if inside / name not in files:
                kinds["hidden" if name.startswith(".") else "of no case"].append(str(inside / name))
        folders[:] = [name for name in folders if not name.startswith(".")]
    return [f"{len(paths)} {kind}: {_some(sorted(paths))}" for kind, paths in kinds.items() if paths]
