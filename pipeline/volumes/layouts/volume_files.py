"""Volumes among the files of a folder: their names, and the files that stand behind a header."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from pipeline.errors import DataError
from pipeline.volumes.case_files import Problem
from pipeline.volumes.readers import ITK, NIFTI, channels_in
from pipeline.volumes.readers.itk_header import read_header

SUFFIXES = tuple(sorted((*NIFTI, *ITK), key=len, reverse=True))
"""The longest first: '.nii.gz' is not '.gz'."""
PAIR = re.compile(r"\.(hdr|img)(\.gz)?$", re.IGNORECASE)
CHANNEL = re.compile(r"_(\d{4})$")

LONGEST = 150
"""Characters of a case's name; file systems take 255 for a whole file's."""


@dataclass(frozen=True)
class VolumeFile:
    """One volume on disk."""

    stem: str
    """Its name without folder and suffix."""
    paths: tuple[Path, ...]
    """Relative to the source, the header first."""
    problem: Problem | None = None
    """Why it cannot be read, as far as its name and its header tell."""


def scan_files(folder: Path) -> list[Path]:
    """The volumes in a folder, sorted, each by the file to open; hidden files are none.

    Of a pair of `.hdr` and `.img` that is the header; a lone `.img` counts, to be refused by name, and so
    does a link that leads nowhere, as where the data of git-annex were not fetched.
    """
    names = {path.name for path in folder.iterdir() if _is_file(path) and not path.name.startswith(".")}
    volumes = (name for name in names if name.lower().endswith(SUFFIXES))
    return sorted(folder / name for name in volumes if not (_is_image(name) and _partner(name) in names))


def _is_file(path: Path) -> bool:
    return path.is_file() or (path.is_symlink() and not path.exists())


def stem(path: Path) -> str:
    """The name without the suffix of its format."""
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.name


def case_name(path: Path) -> str:
    """The name of the case an image file of nnU-Net holds: without suffix and channel."""
    return CHANNEL.sub("", stem(path))


def by_channel(files: list[Path], channels: int) -> tuple[tuple[Path, ...], ...]:
    """The files of a case; where there are too few and their names say which channel, each in its place.

    A file that holds all channels needs no place, whichever channel the digits in its name look like.
    """
    if len(files) == 1 and holds_all(files[0], channels):
        return ((files[0],),)
    numbers = [int(found[0][1:]) for file in files if (found := CHANNEL.search(stem(file)))]
    if len(files) >= channels or len(set(numbers)) < len(files) or max(numbers) >= channels:
        return tuple((file,) for file in files)
    places = dict(zip(numbers, files, strict=True))
    return tuple((places[number],) if number in places else () for number in range(channels))


def holds_all(file: Path, channels: int) -> bool:
    """Whether one file holds all of several channels of a case, as its header says."""
    try:
        return channels > 1 and channels_in(file) == channels
    except DataError:
        return False


def one_twice(files: Sequence[Path]) -> Problem | None:
    """Why the files of a case are no channels: one of them is there in two formats."""
    first: dict[str, Path] = {}
    for file in files:
        other = first.setdefault(stem(file), file)
        if other != file:
            return Problem(f"{other.name} and {file.name} stand for the same channel", "keep one of them")
    return None


def volumes_in(source: Path, folder: Path) -> list[VolumeFile]:
    """The volumes in `source / folder`, sorted by name."""
    return [volume_file(source, path.relative_to(source)) for path in scan_files(source / folder)]


def volume_file(source: Path, path: Path) -> VolumeFile:
    """The volume that the file `source / path` belongs to, with the other files it needs."""
    if PAIR.search(path.name):
        return _pair(source, path)
    if not path.name.lower().endswith(ITK):
        return VolumeFile(stem(path), (path,))
    try:
        header = read_header(source / path)
    except DataError as error:
        return VolumeFile(stem(path), (path,), Problem(error.reason, error.remedy))
    paths = (path, header.data.relative_to(source)) if header.detached else (path,)
    return VolumeFile(stem(path), paths)


def _pair(source: Path, path: Path) -> VolumeFile:
    """A NIfTI volume in two files, whichever of them was named."""
    other = path.with_name(_partner(path.name))
    if not (source / other).is_file():
        return VolumeFile(
            stem(path), (path,), Problem(f"{path.name}: its other half {other.name} is not there", "add it")
        )
    return VolumeFile(stem(path), (other, path) if _is_image(path.name) else (path, other))


def _is_image(name: str) -> bool:
    half = PAIR.search(name)
    return half is not None and half[1].lower() == "img"


def _partner(name: str) -> str:
    """The other half's name, in the same case."""

    def swap(half: re.Match[str]) -> str:
        other = "hdr" if half[1].lower() == "img" else "img"
        return f".{other.upper() if half[1].isupper() else other}{half[2] or ''}"

    return PAIR.sub(swap, name)


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """For each name one of letters, digits, '_', '.' and '-' alone, that no other has.

    Such names become names of files. A plain one of a length that leaves room for more stays; where a
    changed one is taken, a part of a hash makes it another, so that it does not depend on how many others
    there are.
    """
    wanted = {name: short_name(re.sub(r"[^A-Za-z0-9_.-]|^[.-]", "_", name) or "_") for name in names}
    taken = {name for name, plain in wanted.items() if plain == name}
    result: dict[str, str] = {}
    for name, plain in sorted(wanted.items()):
        if name != plain and plain in taken:
            plain += f"-{sha256(name.encode(errors='surrogatepass')).hexdigest()[:8]}"
        taken.add(plain)
        result[name] = plain
    return result


def short_name(name: str) -> str:
    """A name that leaves room, in that of a file, for what is put before and behind it."""
    return name if len(name) <= LONGEST else f"{name[:LONGEST]}-{sha256(name.encode()).hexdigest()[:8]}"
