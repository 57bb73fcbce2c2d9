"""A new organ in `params.yaml`, as text: every byte that was there stays as it was.

Reading and dumping the file would lose what a YAML library does not model (line ends, alignment,
unusual quoting). So the place is found with a parser, and lines are put in there.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import yaml

from pipeline.errors import ParamsError
from pipeline.workspace import STAGES

LINE_LENGTH = 100
STEP = 2
"""Columns a level of the new lines is indented by."""


def with_organ(
    text: str,
    organ: str,
    modality: str,
    labels: dict[str, int],
    salt: str | None = None,
    train_memory_gb: float | None = None,
    regions: Mapping[str, list[str]] = MappingProxyType({}),
) -> str:
    """The text of `params.yaml` with `organ` as the last entry of `organs`.

    Every stage gets a section, because DVC tracks the parameters of a stage by it.

    Args:
        text: of `params.yaml`.
        organ: its name.
        modality: CT or MR.
        labels: name and value.
        salt: fingerprint of the secret patients' names are hashed with, if they are.
        train_memory_gb: of a GPU, that a training step is planned for; None: as the defaults say.
        regions: by name, labels that are judged as one besides.

    Raises:
        ParamsError: the file is written in a way that leaves no place for a line.
    """
    entry: dict[str, Any] = {stage: {} for stage in STAGES}
    told = {"salt": salt, "train_memory_gb": train_memory_gb}
    entry["ingest"] = {"modality": modality, "labels": labels} | {k: v for k, v in told.items() if v}
    entry["train"] = {"steps": "auto"}
    entry["evaluate"] = {"regions": dict(regions)} if regions else {}
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


def _lines(organ: str, entry: dict[str, Any], column: int) -> list[str]:
    """The entry, its first line indented by `column`."""
    outer, inner, deepest = (" " * (column + level * STEP) for level in range(3))
    labels = entry["ingest"]["labels"]
    in_one_line = f"{deepest}labels: {_flow(labels)}"
    in_many = [
        f"{deepest}labels:",
        *(f"{deepest}{' ' * STEP}{_flow({k: v})[1:-1]}" for k, v in labels.items()),
    ]
    lines = [f"{outer}{_flow({organ: 0})[1:-1].removesuffix(' 0')}"]
    for stage in STAGES:
        if stage == "ingest":
            lines += [f"{inner}ingest:", f"{deepest}modality: {entry['ingest']['modality']}"]
            lines += [in_one_line] if len(in_one_line) <= LINE_LENGTH else in_many
            # Quoted: eight digits would be read as a number.
            lines += [f"{deepest}salt: '{entry['ingest']['salt']}'"] if "salt" in entry["ingest"] else []
            if "train_memory_gb" in entry["ingest"]:
                lines.append(f"{deepest}train_memory_gb: {entry['ingest']['train_memory_gb']:g}")
        elif stage == "evaluate" and entry[stage]:
            united = entry[stage]["regions"].items()
            lines += [f"{inner}evaluate:", f"{deepest}regions:"]
            lines += [f"{deepest}{' ' * STEP}{_flow({region: labels})[1:-1]}" for region, labels in united]
        else:
            lines.append(f"{inner}{stage}: {_flow(entry[stage])}")
    return lines


def _flow(mapping: dict[str, Any]) -> str:
    """A mapping in one line, with quotes where YAML would read a name as something else (`no`, `on`)."""
    dumped: str = yaml.safe_dump(mapping, default_flow_style=True, sort_keys=False, width=10**9)
    return dumped.strip()


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
