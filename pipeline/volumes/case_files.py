"""What a case consists of on disk, as a layout found it: a file or more a channel, and its masks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Mask:
    """Where labels are read from: a label map, the mask of one organ, contours, a DICOM segmentation."""

    paths: tuple[Path, ...]
    """Relative to the source; the files a header points to stand behind it."""
    label: str | None = None
    """The one organ it is a binary mask of; None: the file says itself what is what."""


@dataclass(frozen=True)
class Problem:
    """Why a layout cannot say what belongs to a case, and what to do about it."""

    reason: str
    remedy: str


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case, relative to the source."""

    case: str
    """Its name: that of a file and of a row, unique in the source, nothing that identifies a person."""
    patient: str
    """Cases of one patient stay on one side of every split."""
    images: tuple[tuple[Path, ...], ...] = ()
    """A channel each: a file with its companions, which may hold several, or the slices of a DICOM series."""
    masks: tuple[Mask, ...] = ()
    annotated: tuple[str, ...] | None = None
    """The labels that somebody looked for, as the source names them; None: all of them."""
    problem: Problem | None = None
    """What already the layout found wrong; such a case is quarantined with it."""

    @property
    def paths(self) -> list[Path]:
        """Every file of the case."""
        return [path for paths in (*self.images, *(mask.paths for mask in self.masks)) for path in paths]

    @property
    def complete(self) -> bool:
        """Whether it has an image and something to learn from."""
        return bool(self.images and self.masks) and self.problem is None


def one_file_each(case: str, image: Path | None, label: Path | None) -> CaseFiles:
    """The commonest case: one image, one label map; its patient has no other case."""
    return CaseFiles(
        case,
        case,
        images=((image,),) if image else (),
        masks=(Mask((label,)),) if label else (),
    )


def named(paths: Sequence[Path]) -> str:
    """Files as a message names them: the one, or the first and how many there are."""
    first = paths[0].name
    return first if len(paths) == 1 else f"{first} and {len(paths) - 1} more"
