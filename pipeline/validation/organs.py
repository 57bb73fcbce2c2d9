"""What an organ is, by the words in the name of its label, and which labels are a left and a right."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from pipeline.errors import ParamsError

FILE = Path(__file__).parent / "suites" / "organs.yaml"
Range = tuple[float, float]
Side = Literal["left", "right"]
SIDES: tuple[Side, Side] = ("left", "right")


@dataclass(frozen=True)
class Kind:
    """What is plausible of one kind of organ; None where nothing is known."""

    kind: str
    words: tuple[str, ...]
    hu: Range | None = None
    """Median HU."""
    ml: Range | None = None
    """Millilitres."""
    pieces: Literal["one"] | None = None
    side: Side | None = None
    """The half of the body it lies in."""


def words(label: str) -> list[str]:
    """The words of a label's name, in small letters: ``LeftParotid`` and ``left_parotid`` are the same."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", label)
    return [word.lower() for word in re.split(r"[\W_]+", parted) if word]


def kind_of(label: str) -> Kind | None:
    """The first kind in organs.yaml that has a word of the label's name; None if none has."""
    name = " ".join(words(label))
    found = (kind for kind in kinds() if any(re.search(rf"\b{word}s?\b", name) for word in kind.words))
    return next(found, None)


def side_of(label: str) -> Side | None:
    """The side its name says, else the one where the organ lies in everybody."""
    named = [side for side in SIDES if side in words(label)]
    if named:
        return named[0] if len(named) == 1 else None
    kind = kind_of(label)
    return kind.side if kind else None


def pairs(labels: Iterable[str]) -> list[tuple[str, str]]:
    """The labels (left, right) whose names differ in the side alone."""
    bare: dict[Side, dict[tuple[str, ...], str]] = {side: {} for side in SIDES}
    for label in labels:
        for side in SIDES:
            if side in words(label):
                bare[side][tuple(word for word in words(label) if word != side)] = label
    return [(left, bare["right"][rest]) for rest, left in bare["left"].items() if rest in bare["right"]]


@cache
def kinds() -> tuple[Kind, ...]:
    """All kinds, as organs.yaml lists them.

    Raises:
        ParamsError: the file does not hold what it should.
    """
    try:
        entries = yaml.safe_load(FILE.read_text(encoding="utf-8"))
        return tuple(_kind(entry) for entry in entries)
    except (yaml.YAMLError, TypeError, AttributeError) as error:
        raise ParamsError(
            f"{FILE.name} cannot be read: {str(error).replace(chr(10), ' ')}",
            "README.md beside it says what an entry holds",
        ) from None


def _kind(entry: dict[str, Any]) -> Kind:
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()
    }
    return Kind(**values)
