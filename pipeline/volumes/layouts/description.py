"""`dataset.json`: what a source says of its labels, its modality and its cases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from pipeline.atomic import read_json
from pipeline.errors import DataError
from pipeline.volumes.case_files import CaseFiles, Mask, Problem
from pipeline.volumes.layouts.layout import Declared
from pipeline.volumes.layouts.volume_files import stem
from pipeline.volumes.names import normalised

NAME = "dataset.json"
IGNORE = "ignore"
"""What nnU-Net calls the label of voxels that nobody looked at."""
MOST = 255
"""The largest value of a label map."""
PATIENT = ("patient", "patient_id", "subject")
"""What the key may be called; the first that is there counts."""
Json = dict[str, Any]


@dataclass(frozen=True)
class CaseFacts:
    """What is known of a case apart from its files."""

    patient: str | None = None
    annotated: tuple[str, ...] | None = None
    problem: str | None = None
    person: str = field(default="", repr=False)
    """What the source calls the patient: compared with names, never kept."""


def describe(path: Path) -> Json:
    """A JSON object, or an empty one where there is no file.

    Raises:
        DataError: it is not a JSON object.
    """
    if not path.is_file():
        return {}
    try:
        description = read_json(path)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON ({error})", "mend or remove it") from None
    if not isinstance(description, dict):
        raise DataError(f"{path} holds no JSON object", "mend or remove it")
    return description


def document(source: Path, name: str) -> tuple[Path, ...]:
    """The file of that name, if there is one."""
    return (Path(name),) if (source / name).is_file() else ()


def declared(description: Json, cases: Sequence[CaseFiles] = ()) -> Declared:
    """Labels by name; MSD writes ``{"1": "liver"}``, nnU-Net ``{"liver": 1}``.

    nnU-Net has regions, lists of several values (``{"tumour": [1, 2], "core": 2}``): a value that no name
    stands for alone is called by its number, `label_1`. What it calls `ignore` is no label.

    Args:
        description: as `describe` gives it.
        cases: organs that have masks of their own are numbered where no labels are declared.

    Raises:
        DataError: a label has no whole number, or two of them.
    """
    entries = description.get("labels")
    numbered = Declared(numbered_organs(cases))
    if not isinstance(entries, dict):
        return numbered
    if any(isinstance(value, list) for value in entries.values()):
        # Its values are those of label maps.
        return numbered if numbered.labels else _with_regions(entries)
    labels = _single(entries)
    ignored = [name for name in labels if name.strip().casefold() == IGNORE and labels[name] > 0]
    unlabelled = labels.pop(ignored[0]) if len(ignored) == 1 and not numbered.labels else None
    known = {name: value for name, value in labels.items() if value > 0}
    return Declared(known or numbered.labels, unlabelled=unlabelled)


def _single(entries: Mapping[str, Any]) -> dict[str, int]:
    pairs = [(value, key) if str(key).isdecimal() else (key, value) for key, value in entries.items()]
    labels: dict[str, int] = {}
    for name, value in pairs:
        number = int(value) if isinstance(value, float) and value.is_integer() else value
        if not str(number).isdecimal():
            raise DataError(
                f"'labels' of the JSON file gives '{name}' the value {value!r}",
                "write a whole number from 0 on",
            )
        if labels.setdefault(str(name), int(number)) != int(number):
            raise DataError(
                f"'labels' of the JSON file gives '{name}' the values {labels[str(name)]} and {number}",
                "give each value a name of its own",
            )
    return labels


def _with_regions(entries: Mapping[str, Any]) -> Declared:
    """Nothing where they are no names of values, or do not name each value once: then the label maps tell."""
    values = {name: given if isinstance(given, list) else [given] for name, given in entries.items()}
    if any(type(one) is not int or not 0 <= one <= MOST for given in values.values() for one in given):
        return Declared()
    above = {name: tuple(sorted({*given} - {0})) for name, given in values.items()}
    ignored = [name for name, given in above.items() if name.casefold() == IGNORE and len(given) == 1]
    (unlabelled,) = above.pop(ignored[0]) if len(ignored) == 1 else (None,)
    pairs = [(name, given[0]) for name, given in above.items() if len(given) == 1]
    named = {value for _, value in pairs}
    pairs += [(f"label_{value}", value) for value in sorted({*chain(*above.values())} - named)]
    names = {normalised(name) for name, _ in pairs}
    if "" in names or len(names) < len(pairs) or len({value for _, value in pairs}) < len(pairs):
        return Declared(unlabelled=unlabelled)
    regions = {name: given for name, given in above.items() if len(given) > 1}
    return Declared(dict(pairs), regions, unlabelled)


def declared_modality(description: Json) -> Literal["CT", "MR"] | None:
    """As the first channel's name tells."""
    channels = description.get("modality") or description.get("channel_names") or {}
    names = channels.values() if isinstance(channels, dict) else [channels]
    first = str(next(iter(names), "")).upper()
    if first.startswith("CT"):
        return "CT"
    return "MR" if first.startswith(("MR", "T1", "T2", "FLAIR")) else None


def declared_cases(description: Json) -> dict[str, CaseFacts]:
    """What the lists `cases` and `training` say, by the case's `id` or the name of its image."""
    facts: dict[str, CaseFacts] = {}
    for entries in (description.get(key) for key in ("training", "cases")):
        for entry in entries if isinstance(entries, list) else []:
            if isinstance(entry, dict):
                name = entry.get("id") or stem(Path(str(entry.get("image", ""))))
                facts[str(name)] = case_facts(entry)
    return facts


def case_facts(entry: Mapping[str, Any]) -> CaseFacts:
    """Patient and annotated labels, as an entry for one case has them."""
    patient = next((entry[key] for key in PATIENT if entry.get(key) not in (None, "")), None)
    annotated = entry.get("annotated")
    if annotated is not None and not (
        isinstance(annotated, list) and all(isinstance(label, str) for label in annotated)
    ):
        return CaseFacts(problem="its 'annotated' is no list of label names")
    return CaseFacts(
        None if patient is None else patient_key(str(patient)),
        None if annotated is None else tuple(annotated),
        person="" if patient is None else str(patient),
    )


def patient_key(identifier: str) -> str:
    """What a patient is called from here on: an identifier from a list may name a person."""
    from pipeline.volumes.identity import pseudonym

    patient: str = pseudonym(identifier)
    return patient


def with_facts(case: CaseFiles, facts: CaseFacts) -> CaseFiles:
    """The case with what is known besides; a problem of its files is told first."""
    problem = case.problem
    if problem is None and facts.problem is not None:
        problem = Problem(f"{case.case}: {facts.problem}", "mend it in the list of cases")
    return replace(
        case,
        patient=facts.patient or case.patient,
        annotated=case.annotated if facts.annotated is None else facts.annotated,
        problem=problem,
    )


def organs_of(masks: Sequence[Mask]) -> tuple[str, ...] | None:
    """What somebody looked for, where each organ has a mask of its own; None: a label map does not say.

    An organ whose file is missing was not outlined. That is no statement that it is not there.
    """
    organs = [mask.label for mask in masks if mask.label is not None]
    return tuple(organs) if organs and len(organs) == len(masks) else None


def numbered_organs(cases: Sequence[CaseFiles]) -> dict[str, int] | None:
    """Values for organs in masks of their own, by name; None where a label map has its own values."""
    masks = [mask for case in cases for mask in case.masks]
    if not masks or any(mask.label is None for mask in masks):
        return None
    organs = sorted({mask.label for mask in masks if mask.label is not None})
    return {organ: value for value, organ in enumerate(organs, start=1)}
