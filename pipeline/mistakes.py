"""What is wrong with parameters, told with what to write instead."""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

KINDS = {
    "dict_type": "write names with values, as {NAME: VALUE}",
    "tuple_type": "write a list, as [A, B]",
    "list_type": "write a list, as [A, B]",
    "extra_forbidden": "not a parameter there",
}
"""What pydantic calls by the words of Python."""
Model = type[BaseModel]


def first_problem(error: ValidationError, model: Model) -> str:
    """Where the first of what is wrong with a section lies, and what it is.

    Args:
        error: of the section.
        model: of it.
    """
    first = error.errors()[0]
    location = _location(first)
    if first["type"] == "extra_forbidden":
        return _is_no_parameter(location, model)
    place = ".".join(location)
    said = _expected(first, len(location), model)
    return f"{place}: {said}" if place else said


def explained(error: ValidationError, organ: str, model: Model) -> str:
    """The first of what is wrong with the parameters of an organ, as a sentence.

    Args:
        error: of them.
        organ: whose they are.
        model: of all its sections.
    """
    first = error.errors()[0]
    location = _location(first)
    place = ".".join(location)
    if first["type"] == "extra_forbidden":
        return f"params.yaml, organ '{organ}': {_is_no_parameter(location, model)}"
    if first["type"] == "missing":
        return f"params.yaml: organs.{organ}.{place} is needed and not there."
    # A value that fits no branch of a union fails each in its own way.
    failures = [failure for failure in error.errors() if _location(failure)[: len(location)] == location]
    expected = "; or ".join(dict.fromkeys(_expected(failure, len(location), model) for failure in failures))
    if not place:
        return f"params.yaml: organs.{organ}: {expected}."
    value = first["input"]
    # What is wrong with several keys together names them; the whole of them would hide it.
    found = "" if isinstance(value, Mapping) else " is empty" if value is None else f" is {value!r}"
    return f"params.yaml: organs.{organ}.{place} (or defaults.{place}){found}: {expected}."


def nearest(word: str, known: Iterable[Any]) -> str:
    """How a sentence ends about a word that is not known."""
    found = difflib.get_close_matches(word, [str(name) for name in known], n=1, cutoff=0.5)
    return f": did you mean '{found[0]}'?" if found else "."


def _is_no_parameter(location: list[str], model: Model) -> str:
    """What is said of a key that is not known: the nearest of its section, and all of them."""
    known = _keys_at(model, location[:-1])
    there = f" Known there: {', '.join(known)}." if known else ""
    return f"'{'.'.join(location)}' is not a parameter{nearest(location[-1], known)}{there}"


def _expected(failure: ErrorDetails, depth: int, model: Model) -> str:
    """What should stand there, or at which of its elements."""
    location = _location(failure)
    below = "".join(f"element {part}: " if part.isdigit() else f"{part}: " for part in location[depth:])
    if failure["type"] == "model_type" and failure["input"] is None:
        return f"{below}write keys with values, or {{}} for none"
    if failure["type"] == "model_type":
        return f"{below}write keys with values; known there: {', '.join(_keys_at(model, location))}"
    return below + KINDS.get(failure["type"], failure["msg"].removeprefix("Value error, "))


def _location(failure: ErrorDetails) -> list[str]:
    """The keys that lead to a failure; the branch of a union is part of pydantic's location only."""
    branch = re.compile(r"[\[(]|^literal|^tuple|^constrained")
    return [str(part) for part in failure["loc"] if not branch.search(str(part))]


def _keys_at(model: Model, location: list[str]) -> list[str]:
    """The parameter names of the section at `location`."""
    for part in location:
        if part.isdigit():
            continue
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        found = _model_of(fields[part].annotation) if part in fields else None
        if found is None:
            return []
        model = found
    return sorted(field.alias or name for name, field in model.model_fields.items())


def _model_of(annotation: Any) -> Model | None:
    """The section that a parameter is, or may be beside `auto` or nothing."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_of, get_args(annotation))), None)
