"""The labels of a folder of scans: as they are given, or as its label maps and masks hold them."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import track

from pipeline.errors import DataError, ParamsError
from pipeline.labels import LONGEST_REGION, RESERVED
from pipeline.volumes.case_files import CaseFiles, Mask
from pipeline.volumes.names import normalised, printable
from pipeline.volumes.readers.region import annotation_in


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


def labels_in(
    source: Path, cases: list[CaseFiles], console: Console, unlabelled: int | None = None
) -> dict[str, int]:
    """A label for every value in the label maps, named by it, or for every name that masks give.

    The value `unlabelled` is no label. A name that is in fewer than half of the cases with names is left to
    `--label`: contours come with names somebody used once.
    """
    values: set[int] = set()
    names: Counter[str] = Counter()
    masked = [case for case in cases if case.masks]
    for case in track(
        masked, "Looking for labels", console=console, transient=True, disable=not console.is_terminal
    ):
        found = [_found_in(source, mask) for mask in case.masks]
        values |= {value for one in found for value in one if isinstance(value, int)} - {unlabelled}
        names.update({value for one in found for value in one if isinstance(value, str)})
    if values:
        return {f"label_{value}": value for value in values}
    usual = sorted(name for name, count in names.items() if 2 * count >= names.most_common(1)[0][1])
    if not usual:
        raise DataError(
            f"{source}: no label map holds whole numbers from 0 to 255 alone, with one above 0, and no "
            "mask has a name",
            "look at one of them, or give names and values with --label NAME=VALUE",
        )
    return {name: value for value, name in enumerate(usual, start=1)}


def check_present(
    source: Path, cases: list[CaseFiles], labels: dict[str, int], unlabelled: int | None = None
) -> None:
    """Look into label maps until every label was seen; a mask with names is asked for the name.

    Raises:
        DataError: there are some that no case has.
    """
    missing, found, undeclared = dict(labels), set[str](), list[set[int]]()
    for mask in (mask for case in cases for mask in case.masks):
        values = _found_in(source, mask)
        found |= {str(value) for value in values}
        undeclared.append({one for one in values if isinstance(one, int)} - {*labels.values(), unlabelled})
        missing = {
            name: value
            for name, value in missing.items()
            if value not in values and normalised(name) not in values
        }
        if not missing:
            break
    there = ", ".join(sorted(found, key=lambda value: (len(value), value))) or "none"
    if missing:
        absent = ", ".join(f"{name}={value}" for name, value in missing.items())
        raise DataError(f"no case of {source} has the labels {absent}", f"there are: {there}")
    if all(undeclared):
        # Ingest would quarantine them all: a voxel of a value without a name is no background.
        more = ", ".join(map(str, sorted(set.union(*undeclared))))
        raise DataError(
            f"the label maps of {source} hold {more} as well", f"name all that there are: {there}"
        )


def _found_in(source: Path, mask: Mask) -> set[int] | set[str]:
    """The values of a label map, or the names of what a mask holds; none, if it is neither."""
    if mask.label is not None:
        return {mask.label}
    paths = [source / path for path in mask.paths]
    try:
        if annotation_in(paths[0]) is None:
            return _label_values(paths)
        annotations = [found for path in paths if (found := annotation_in(path)) is not None]
        return {normalised(name) for one in annotations for name in one.names if name not in one.empty}
    except DataError:
        # One bad file is for ingest to quarantine.
        return set()


def _label_values(paths: list[Path]) -> set[int]:
    """The labels of a map; none, if it is not one."""
    import numpy as np

    from pipeline.volumes.readers import read_scan

    array = read_scan(*paths).array
    if array.min() < 0 or array.max() > 255:
        return set()
    stored = array.astype(np.uint8)
    if not np.array_equal(stored, array):
        return set()
    present = np.zeros(256, dtype=bool)
    for plane in np.moveaxis(stored, -1, 0):
        present[plane] = True
    return {int(value) for value in np.flatnonzero(present) if value > 0}


def normalised_names(labels: dict[str, int]) -> dict[str, int]:
    """Lower-case names of letters, digits and '_', ordered by value: 'Left Kidney' is left_kidney.

    Raises:
        ParamsError: a name is empty then, or two are one.
    """
    origin: dict[str, str] = {}
    for label in sorted(labels, key=lambda label: labels[label]):
        name = normalised(label)
        if not name:
            raise ParamsError(
                f"the label '{label}' has no letter of a to z", "name it with --label NAME=VALUE"
            )
        if name in origin:
            raise ParamsError(
                f"the labels '{origin[name]}' and '{label}' would both be '{name}'",
                "name them with --label NAME=VALUE",
            )
        origin[name] = label
    return {name: labels[label] for name, label in origin.items()}


def normalised_regions(
    regions: Mapping[str, Iterable[int]], labels: Mapping[str, int]
) -> tuple[dict[str, list[str]], list[str]]:
    """The labels that a region unites, by its name as of `normalised_names`; the names of those left out.

    Left out is one whose name is taken, has no letter or too many, or one of whose values is no label.

    Args:
        regions: values by name, as the source declares them.
        labels: name and value.
    """
    names = {value: name for name, value in labels.items()}
    united: dict[str, list[str]] = {}
    left_out = []
    for region, values in regions.items():
        name = normalised(region)
        taken = {"", *RESERVED, *labels, *united}
        if name in taken or len(name) > LONGEST_REGION or not names.keys() >= set(values):
            left_out.append(printable(region))
        else:
            united[name] = [names[value] for value in values]
    return united, left_out
