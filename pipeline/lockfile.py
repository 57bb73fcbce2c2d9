"""`dvc.lock` after a kill.

DVC writes its lock in place, over the one that was there: killed in that moment, it leaves the beginning
of the file, and refuses every command from then on. What the lost lines said is in DVC's run cache, which
it writes before; the next `dvc repro` takes the results from there. Only `register`, whose outputs no
cache holds, is run again, and repeats its decision.

A run repeats the killed stage alone, so that lines about other stages and organs would be lost for good, in
the project, too: it keeps a copy before each stage.
"""

import io
import re
from pathlib import Path
from typing import Any

import yaml

from pipeline.atomic import write_text

LOCK = "dvc.lock"
KEPT = Path(".dvc/tmp/kept.lock")
"""The copy."""
SECTION = re.compile(r"^  \S", re.MULTILINE)
"""Where the section of a stage begins."""


def cut_short(root: Path) -> bool:
    """Whether `dvc.lock` is only the beginning of one."""
    lock = root / LOCK
    return lock.is_file() and _whole_part(_text(lock)) is not None


def keep(root: Path) -> None:
    """Copy a whole `dvc.lock` to where `mend` finds it."""
    lock = root / LOCK
    if lock.is_file() and _is_lock(text := _text(lock)):
        write_text(root / KEPT, text)


def broken(root: Path) -> bool:
    """Whether `dvc.lock` is there and none, by whatever cause."""
    lock = root / LOCK
    return lock.is_file() and not _is_lock(_text(lock))


def mend(root: Path) -> bool:
    """Keep the whole sections of a `dvc.lock` that was cut short; the others are taken from its copy, if any.

    A lock that is broken in any other way (marks of a merge, say) is left to DVC's own words.

    Returns:
        True if it was cut short.
    """
    lock = root / LOCK
    whole = _whole_part(_text(lock)) if lock.is_file() else None
    if whole is None:
        return False
    if (root / KEPT).is_file():
        kept, left = (yaml.safe_load(text) or {} for text in (_text(root / KEPT), whole))
        write_text(lock, as_written(kept | {"stages": kept["stages"] | (left.get("stages") or {})}))
    elif SECTION.search(whole):
        write_text(lock, whole)
    else:
        lock.unlink()
    return True


def as_written(content: dict[str, Any]) -> str:
    """The text of a lock as DVC writes it."""
    from ruamel.yaml import YAML

    written = YAML()
    written.default_flow_style = False
    text = io.StringIO()
    written.dump(content, text)
    return text.getvalue()


def _text(lock: Path) -> str:
    # A kill may fall into a letter; YAML takes none of what stands for its first bytes then.
    return lock.read_text(encoding="utf-8", errors="surrogateescape")


def _whole_part(text: str) -> str | None:
    """The text without its broken last section; None if nothing, or something else, is broken."""
    if _is_lock(text):
        return None
    begins = [found.start() for found in SECTION.finditer(text)]
    rest = text[: begins[-1]] if begins else ""
    return rest if len(begins) < 2 or _is_lock(rest) else None


def _is_lock(text: str) -> bool:
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from voluptuous import Invalid

    try:
        COMPILED_LOCKFILE_SCHEMA(yaml.safe_load(text) or {})
    except (yaml.YAMLError, Invalid):
        return False
    return True
