"""Values of `params.yaml` set as text: comments, alignment and every other byte stay as they are."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from pipeline.atomic import locked, remove_partial_of, write_text
from pipeline.errors import ParamsError
from pipeline.params import load_organ

LOCK = Path(".dvc/tmp/params.lock")


def change_params(root: Path, organ: str, change: Callable[[str], str]) -> None:
    """Change `params.yaml` as text; nobody else changes it between its reading and its writing.

    Args:
        root: of the project, or of a run's workspace.
        organ: that is changed or added; loaded once before the file is written, to see that it holds.
        change: from the text as it is to the text as it shall be.

    Raises:
        ParamsError: as `change`, or the organ cannot be loaded from what it made; the file is as before.
    """
    path = root / "params.yaml"
    with locked(root / LOCK, "changing params.yaml"):
        # Bytes, because reading as text would change the line ends of a file written on Windows.
        changed = change(path.read_bytes().decode("utf-8"))
        check_params(changed, organ)
        remove_partial_of(path)
        write_text(path, changed)


def check_params(text: str, organ: str) -> None:
    """Load an organ once from what `params.yaml` would be.

    Raises:
        ParamsError: as `load_organ`.
    """
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / "params.yaml"
        trial.write_bytes(text.encode("utf-8"))
        load_organ(trial, organ)


def with_values(text: str, values: dict[tuple[str, ...], Any]) -> str:
    """`text` with each value at its place, which is given as the keys that lead there.

    Raises:
        ParamsError: the file is written in a way that leaves no place for one.
    """
    for place, value in values.items():
        wanted = _read(text)
        _set(wanted, place, value)
        text = _changed(text, place, value)
        if not _says(text, wanted):
            raise ParamsError(
                f"params.yaml: {'.'.join(place)} cannot be set as the file is written",
                f"set it by hand to {json.dumps(value)}",
            )
    return text


def _read(text: str) -> Any:
    """What YAML says, by way of JSON: an alias becomes a copy, so that setting one sets no other."""
    return json.loads(json.dumps(yaml.safe_load(text), default=str))


def _says(text: str, wanted: Any) -> bool:
    try:
        return bool(_read(text) == wanted)
    except yaml.YAMLError:
        return False


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
