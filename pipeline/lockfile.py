"""`dvc.lock` after a kill.

DVC writes its lock in place, over the one that was there: killed in that moment, it leaves the beginning
of the file, and refuses every command from then on. What the lost lines said is in DVC's run cache, which
it writes before; the next `dvc repro` takes the results from there. Only `register`, whose outputs no
cache holds, is run again, and repeats its decision.
"""

import re
from pathlib import Path

import yaml

from pipeline.atomic import write_text

LOCK = "dvc.lock"
SECTION = re.compile(r"^  \S", re.MULTILINE)
"""Where the section of a stage begins."""


def cut_short(root: Path) -> bool:
    """Whether `dvc.lock` is only the beginning of one."""
    lock = root / LOCK
    return lock.is_file() and _whole_part(_text(lock)) is not None


def mend(root: Path) -> bool:
    """Keep the whole sections of a `dvc.lock` that was cut short.

    A lock that is broken in any other way (marks of a merge, say) is left to DVC's own words.

    Returns:
        True if it was cut short.
    """
    lock = root / LOCK
    whole = _whole_part(_text(lock)) if lock.is_file() else None
    if whole is None:
        return False
    if SECTION.search(whole):
        write_text(lock, whole)
    else:
        lock.unlink()
    return True


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
