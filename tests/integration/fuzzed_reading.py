"""Reading one damaged file, in a worker process, and judging what came of it; see test_fuzz_ingest.py."""

import functools
import os
import resource
import shutil
from dataclasses import dataclass
from pathlib import Path

import fuzzed_files
import independent_parsers
import numpy as np

from pipeline.errors import DataError
from pipeline.volumes.case_files import Mask
from pipeline.volumes.masks import read_masks
from pipeline.volumes.readers import channels_in, read_channels, read_geometry

MEMORY = 512 << 20
"""Bytes that the largest of these small files may make a worker hold."""
CHECKSUMMED = ("nifti_packed",)
"""A check sum covers all of their bytes: whatever is accepted has to be what was written."""
LABELS = {"near": 1, "far": 2}


@dataclass(frozen=True)
class Input:
    """One damaged file."""

    kind: str
    sound: Path
    """Folder of the sound files."""
    seed: int


def judge(damaged):
    """Read one damaged file: 'refused', 'unchanged' or 'as it says'.

    Raises:
        AssertionError: it was accepted and is not what its bytes say, or refused without a file's name.
    """
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    copy = _copy(damaged.sound)
    generator = fuzzed_files.generator_of(damaged.kind, damaged.seed)
    victim = fuzzed_files.victim(damaged.kind, copy, generator)
    done = fuzzed_files.damage(damaged.kind, victim, generator)
    try:
        verdict = _judged(damaged.kind, damaged.sound, copy)
    except AssertionError as error:
        raise AssertionError(f"{damaged.kind} {damaged.seed}: {done}: {error}") from None
    finally:
        shutil.copyfile(damaged.sound / victim.name, victim)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    assert grown < MEMORY, f"{damaged.kind} {damaged.seed}: {done}: {grown >> 20} MiB"
    return verdict


@functools.cache
def _copy(sound):
    """Of the sound files, for this worker alone."""
    copy = sound.with_name("DOE_JANE") / str(os.getpid()) / sound.name
    shutil.copytree(sound, copy)
    return copy


def _judged(kind, sound, copy):
    refusal = None
    try:
        accepted = read(kind, copy)
    except DataError as error:
        refusal = error
    if refusal is not None:
        names = [path.name for path in copy.iterdir()]
        assert refusal.reason.startswith((*names, "case: ")), refusal.reason
        assert "DOE" not in str(refusal), "a folder may name a person"
        assert refusal.remedy
        return "refused"
    if _equal(accepted, _written(kind, sound)):
        return "unchanged"
    assert kind not in CHECKSUMMED, "accepted, and is not what was written"
    if kind == "rtstruct":
        _check_contours(accepted[0], _written(kind, sound)[0], copy / "masks.dcm")
        return "as it says"
    try:
        said = parse(kind, copy)
    except Exception as error:
        raise AssertionError(f"accepted what cannot be read: {type(error).__name__}: {error}") from None
    assert _equal(accepted, said), f"accepted {_told(accepted)}, but the file says {_told(said)}"
    return "as it says"


def read(kind, folder):
    """Voxels and affine, or label map and affine, by the pipeline."""
    paths = sorted(folder.iterdir())
    if kind not in fuzzed_files.MASKS:
        opened = paths if kind in fuzzed_files.SERIES else paths[:1]
        scans = read_channels(*opened)
        geometry = read_geometry(*opened)
        assert channels_in(*opened) == len(scans)
        assert {scan.array.shape for scan in scans} == {geometry.shape}
        assert np.array_equal(geometry.affine, scans[0].geometry.affine)
        arrays = [scan.array for scan in scans]
        return arrays[0] if len(arrays) == 1 else np.stack(arrays, axis=-1), geometry.affine
    image = read_geometry(*(path for path in paths if path.name != "masks.dcm"))
    masks = read_masks("case", folder, [Mask((Path("masks.dcm"),))], image, LABELS, {})
    return masks.array, image.affine


_written = functools.cache(read)


def parse(kind, folder):
    """The same by the independent parsers."""
    paths = sorted(folder.iterdir())
    if kind == "seg":
        array, affine = independent_parsers.dicom(*paths[1:])
        return independent_parsers.segments(paths[0], array.shape, 30.0, 3.0), affine
    name = next(name for name in ("nifti", "metaimage", "nrrd", "dicom") if kind.startswith(name))
    return getattr(independent_parsers, name)(*(paths if name == "dicom" else paths[:1]))


def _check_contours(accepted, written, path):
    """A changed digit moves a contour and nobody can tell: nothing else may differ than its slices.

    What was renamed is no organ any more, as the file says.
    """
    lost = [LABELS[name] for name in LABELS.keys() - independent_parsers.regions(path)]
    assert not np.isin(accepted, lost).any()
    written = np.where(np.isin(written, lost), 0, written)
    different = [k for k in range(written.shape[2]) if (accepted[:, :, k] != written[:, :, k]).any()]
    assert len(different) <= 2, f"slices {different} differ"


def _equal(one, other):
    return (
        one[0].shape == other[0].shape
        and np.allclose(one[0], other[0], rtol=1e-6, atol=1e-6, equal_nan=False)
        and np.allclose(one[1], other[1], rtol=1e-6, atol=1e-5)
    )


def _told(read):
    array, affine = read
    return f"{array.shape} voxels of {array.mean():g}, affine {np.round(affine[:3], 4).tolist()}"
