"""What people call an organ, and which label they mean by it."""

import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase

from pipeline.errors import DataError

LONGEST, MOST = 40, 10
"""Letters of a name, and names, that a message shows."""


def normalised(name: str) -> str:
    """Lower-case letters, digits and '_': 'Left Kidney' is left_kidney.

    It begins with a letter, so that nothing that reads it takes it for a number: '3' is label_3.
    Empty, if the name has no letter of a to z and no digit.
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    plain = re.sub(r"[^a-z0-9]+", "_", plain).strip("_")
    return f"label_{plain}" if plain[:1].isdigit() else plain


def printable(text: str) -> str:
    """A text that can be written, whatever name of a file it tells: what is not UTF-8 by its number."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def quoted(names: Collection[str]) -> str:
    """Names for a message: the first few, each cut short, and how many there are besides."""
    shown = [f"'{name if len(name) <= LONGEST else name[: LONGEST - 1] + '…'}'" for name in names]
    rest = len(shown) - MOST
    return ", ".join(shown[:MOST]) + (f" and {rest} more" if rest > 0 else "")


def label_of(
    case: str, name: str, labels: Collection[str], patterns: Mapping[str, Sequence[str]]
) -> str | None:
    """The label that a name means: the one it is called like, else the one whose pattern it fits.

    Args:
        case: for the message.
        name: of a region of interest, a segment or a file.
        labels: what may be meant.
        patterns: of names, with `*`, `?` and `[...]`, by label; case does not count.

    Raises:
        DataError: it fits patterns of several labels.
    """
    plain = normalised(name)
    alike = [label for label in labels if plain and plain == normalised(label)]
    fitting = alike or [
        label
        for label in labels
        if any(fnmatchcase(name.lower(), pattern.lower()) for pattern in patterns.get(label, ()))
    ]
    if len(fitting) > 1:
        raise DataError(
            f"{case}: {quoted([name])} may be any of {', '.join(fitting)}",
            "write patterns into ingest.rois that leave one of them",
        )
    return fitting[0] if fitting else None
