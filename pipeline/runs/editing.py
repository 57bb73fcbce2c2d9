"""Values of `params.yaml` set as text: comments, alignment and every other byte stay as they are."""

import json
from typing import Any

import yaml

from pipeline.errors import ParamsError


def with_values(text: str, values: dict[tuple[str, ...], Any]) -> str:
    """`text` with each value at its place, which is given as the keys that lead there.

    Raises:
        ParamsError: the file is written in a way that leaves no place for one.
    """
    for place, value in values.items():
        wanted = _read(text)
        _set(wanted, place, value)
        text = _changed(text, place, value)
        if _read(text) != wanted:
            raise ParamsError(
                f"params.yaml: {'.'.join(place)} cannot be set as the file is written",
                f"set it by hand to {json.dumps(value)}",
            )
    return text


def _read(text: str) -> Any:
    """What YAML says, by way of JSON: an alias becomes a copy, so that setting one sets no other."""
    return json.loads(json.dumps(yaml.safe_load(text), default=str))


def _set(content: Any, place: tuple[str, ...], value: Any) -> None:
    for key in place[:-1]:
        content[key] = content.get(key) or {}
        content = content[key]
    content[place[-1]] = value


def _changed(text: str, place: tuple[str, ...], value: Any) -> str:
    node: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    for depth, key in enumerate(place):
        found = _value(node, key)
        if found is None:
            # What is missing from here on is one value, a mapping in braces.
            for missing in reversed(place[depth + 1 :]):
                value = {missing: value}
            return _added(text, node, key, value)
        node = found
    return text[: node.start_mark.index] + _written(value) + text[node.end_mark.index :]


def _value(node: Any, key: str) -> Any:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for name, value in node.value if name.value == key), None)


def _added(text: str, node: Any, key: str, value: Any) -> str:
    entry = f"{key}: {_written(value)}"
    if not isinstance(node, yaml.MappingNode):
        # A key without a value.
        place = node.start_mark.index
        return f"{text[:place]} {{{entry}}}{text[place:]}"
    if node.flow_style:
        place = text.rindex("}", 0, node.end_mark.index)
        return f"{text[:place].rstrip()}{', ' if node.value else ''}{entry}{text[place:]}"
    start = node.start_mark
    return f"{text[: start.index]}{entry}\n{' ' * start.column}{text[start.index :]}"


def _written(value: Any) -> str:
    """A value in one line; JSON's strings and lists are YAML's."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_written(one)}" for key, one in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)
