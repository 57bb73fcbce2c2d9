"""A new organ in `params.yaml`, as text: every byte that was there stays as it was.

Reading and dumping the file would lose what a YAML library does not model (line ends, alignment,
unusual quoting). So the place is found with a parser, and lines are put in there.
"""

from collections.abc import Mapping
from typing import Any

import yaml

from pipeline.errors import ParamsError
from pipeline.workspace import STAGES

LINE_LENGTH = 100
STEP = 2
"""Columns a level of the new lines is indented by."""


def with_organ(text: str, organ: str, sections: Mapping[str, Mapping[str, Any]]) -> str:
    """The text of `params.yaml` with `organ` as the last entry of `organs`.

    Every stage gets a section, because DVC tracks the parameters of a stage by it.

    Args:
        text: of `params.yaml`.
        organ: its name.
        sections: what differs from the defaults, by stage; text in it is written in quotes where YAML would
            take it for something else.

    Raises:
        ParamsError: the file is written in a way that leaves no place for a line.
    """
    entry = {stage: dict(sections.get(stage, {})) for stage in STAGES}
    before = yaml.safe_load(text)
    before["organs"] = {**before["organs"], organ: entry}
    changed = _insert(text, organ, entry)
    if changed is None or _parsed(changed) != before:
        lines = "\n".join(_lines(organ, entry, STEP))
        raise ParamsError(
            "params.yaml: no line can be put at the end of 'organs' as it is written there",
            f"write the organs as a block, one key a line, and run again, or add by hand:\n{lines}",
        )
    return changed


def _parsed(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return None


def _insert(text: str, organ: str, entry: dict[str, Any]) -> str | None:
    document = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(document, yaml.MappingNode)
    key, organs = next((key, value) for key, value in document.value if key.value == "organs")
    line_end = "\r\n" if "\r\n" in text else "\n"
    if not organs.value:
        # `organs: {}`: the braces give way to a block.
        start, end = organs.start_mark.index, organs.end_mark.index
        text = text[:start].rstrip(" ") + text[end:]
        place, column = _end_of_line(text, key.end_mark.index), key.start_mark.column + STEP
    elif organs.flow_style:
        return None
    else:
        column = organs.value[0][0].start_mark.column
        place = _after_comments(text, _end_of_line(text, _end(organs)), column)
    added = line_end.join(_lines(organ, entry, column)) + line_end
    head = text[:place]
    return head + (line_end if not head.endswith("\n") else "") + added + text[place:]


def _lines(name: str, value: Any, column: int) -> list[str]:
    """A key with its value, indented by `column`: in one line, if no mapping is in it and it fits."""
    indent = " " * column
    in_one_line = f"{indent}{_flow({name: value})}"
    if not isinstance(value, Mapping) or not value:
        return [in_one_line]
    if len(in_one_line) <= LINE_LENGTH and not any(isinstance(inner, Mapping) for inner in value.values()):
        return [in_one_line]
    lines = [f"{indent}{_flow({name: 0}).removesuffix(' 0')}"]
    return lines + [line for key, inner in value.items() for line in _lines(key, inner, column + STEP)]


def _flow(mapping: Mapping[str, Any]) -> str:
    """A mapping of one key in one line, with quotes where YAML would read text as something else (`no`)."""
    dumped: str = yaml.dump(mapping, Dumper=_Dumper, default_flow_style=True, sort_keys=False, width=10**9)
    return dumped.strip()[1:-1]


class Quoted(str):
    """Text that is written in quotes: other parsers read `1234e567` as a number."""


class _Dumper(yaml.SafeDumper):
    pass


_Dumper.add_representer(
    Quoted, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style="'")
)


def _end(node: yaml.Node) -> int:
    """Where the last thing that is written in a block ends; the parser's own mark is past the comments."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style:
        last = node.value[-1]
        # The key counts, too: an alias has the marks of what it stands for.
        return max(_end(child) for child in (last if isinstance(last, tuple) else [last]))
    return int(node.end_mark.index)


def _end_of_line(text: str, place: int) -> int:
    """The start of the line after the one that holds the character before `place`."""
    newline = text.find("\n", max(place - 1, 0))
    return len(text) if newline < 0 else newline + 1


def _after_comments(text: str, place: int, column: int) -> int:
    """`place`, moved behind the comments below it that are indented deeper than `column`."""
    here = place
    for line in text[place:].splitlines(keepends=True):
        content = line.lstrip(" ")
        if content.strip() and not (content.startswith("#") and len(line) - len(content) > column):
            break
        here += len(line)
        if content.strip():
            place = here
    return place
