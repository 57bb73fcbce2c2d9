"""The objects of an S3 prefix as files: what is one, and what could never be one safely."""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.errors import DataError

BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
LONGEST_PART = 230
"""Bytes; file systems allow 255, and a file being written has a longer name."""
NAMED = 3
"""How many names an error shows."""


@dataclass(frozen=True)
class Prefix:
    """A bucket, and the part of it that is read: '' for all, else a folder that ends with '/'."""

    bucket: str
    folder: str

    @property
    def url(self) -> str:
        """The one way this prefix is written."""
        return f"s3://{self.bucket}/{self.folder}".rstrip("/")


@dataclass(frozen=True)
class S3Object:
    """One version of an object; `name` is its key below the prefix, which is its path as a file."""

    name: str
    etag: str
    """Without its quotes."""
    size: int
    """Bytes."""
    version_id: str | None
    """None where the bucket keeps no versions, or does not tell."""


def parse_url(url: str) -> Prefix:
    """Read `s3://bucket/prefix`; the prefix is a folder, so that `liver` is never `liver_old` as well.

    Raises:
        DataError: it is not of that form.
    """
    bucket, _, folder = url.removeprefix("s3://").partition("/")
    if not url.startswith("s3://") or not BUCKET.fullmatch(bucket):
        raise DataError(f"'{url}' is no S3 prefix", "write s3://BUCKET/PREFIX")
    return Prefix(bucket, folder.rstrip("/") + "/" if folder.strip("/") else "")


def as_files(prefix: Prefix, objects: Iterable[S3Object]) -> tuple[dict[str, S3Object], int]:
    """The objects that are files, by name, and how many others were skipped.

    Skipped are markers of folders (empty, named `FOLDER/` or `FOLDER_$folder$`, or as a folder of
    the prefix is) and hidden objects (a part of the name begins with a dot), as `add-organ` leaves
    hidden files out.

    Raises:
        DataError: a name leads outside a folder, or two would be one file. Nothing is left out for
            it: who writes such names has to know.
    """
    every = list(objects)
    folders = {folder for entry in every for folder in _folders(entry.name)}
    files = {entry.name: entry for entry in every if not _is_skipped(entry, folders)}
    wrong = [f"{name!a} {fault}" for name in sorted(files) if (fault := why_no_file(name))]
    wrong = wrong or _collisions(files)
    if wrong:
        rest = f" (and {len(wrong) - NAMED} more)" if len(wrong) > NAMED else ""
        raise DataError(
            f"{prefix.url} cannot become a folder: {'; '.join(wrong[:NAMED])}{rest}",
            "rename or remove these objects in the bucket; nothing was fetched",
        )
    return files, len(every) - len(files)


def why_no_file(name: str) -> str:
    """Why `name` cannot be the path of a file below a folder, on any file system; '' if it can."""
    parts = name.split("/")
    if any(unicodedata.category(letter) == "Cs" for letter in name):
        return "is not written in UTF-8"
    if any(unicodedata.category(letter) == "Cc" for letter in name):
        return "has a control character"
    if "\\" in name:
        return "has a backslash"
    if "" in parts:
        return "begins or ends with '/', or has an empty part"
    if {".", ".."} & set(parts):
        return "has a part '.' or '..'"
    if max(len(part.encode()) for part in parts) > LONGEST_PART:
        return f"has a part of more than {LONGEST_PART} bytes"
    return ""


def _is_skipped(entry: S3Object, folders: set[str]) -> bool:
    name = entry.name
    is_marker = name.endswith(("/", "_$folder$")) or name == "" or name in folders
    is_hidden = any(part.startswith(".") and part not in (".", "..") for part in name.split("/"))
    return (is_marker and entry.size == 0) or (is_hidden and not why_no_file(name))


def _folders(name: str) -> list[str]:
    """`a/b/c` lies in `a` and `a/b`."""
    return [name[:place] for place, letter in enumerate(name) if letter == "/"]


def _collisions(names: Iterable[str]) -> list[str]:
    """Names that some file system takes for one: it may ignore case, or the form of an accent."""
    taken: dict[str, str] = {}
    wrong = []
    for name in sorted(names):
        first = taken.setdefault(_folded(name), name)
        if first != name:
            wrong.append(f"{first!a} and {name!a} differ in case or accents alone")
    folders = {_folded(folder) for name in taken.values() for folder in _folders(name)}
    return wrong + [f"{name!a} is a file and a folder" for key, name in taken.items() if key in folders]


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
