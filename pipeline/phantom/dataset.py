"""The embedded default data: a CT phantom of the abdomen, as a Medical Segmentation Decathlon task.

Contrast-enhanced abdomens whose liver, spleen and kidneys are labelled. Organs are told apart by
place, shape and texture, not by brightness: muscle, bowel, pancreas and vessels have the same HU.
"""

import gzip
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from pipeline.atomic import atomic_path, read_json, sha256_code, sha256_file, write_json
from pipeline.errors import DataError, ParamsError
from pipeline.phantom.anatomy import draw_patient
from pipeline.phantom.patient import LABELS
from pipeline.phantom.scan import render

DESCRIPTION = "dataset.json"
MATRIX_SIZES = (0.25, 4.0)

Progress = Callable[[int, int], None]


def make_phantom(
    folder: Path, patients: int = 32, seed: int = 0, *, size: float = 1.0, progress: Progress | None = None
) -> None:
    """Write scans, label maps and `dataset.json` of `patients` cases into `folder`.

    A patient depends on `seed` and its own number only, so a larger phantom holds the smaller one.
    Images are int16 HU of 88 x 66 x about 40 voxels of 4 x 4 x 6 mm; label maps are uint8. `size`
    multiplies the voxels on each axis: at 0.5 a case is made eight times as fast and holds every
    organ. `progress` is told (cases done, cases in all) after each case.

    The folder appears whole, when the last case is done. If it already holds exactly what this call
    would write, nothing is done.

    Raises:
        DataError: `folder` holds anything else.
        ParamsError: a number is out of range.
    """
    _check(patients, seed, size)
    code = sha256_code("phantom")
    made_from = {"patients": patients, "seed": seed, "size": float(size), "code": code}
    if _is_there(folder, made_from):
        Console(stderr=True).print(f"The phantom is in {folder} already.", soft_wrap=True)
        return
    partial = folder.absolute().with_name(f".{folder.absolute().name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    for number in range(1, patients + 1):
        _write_case(partial, _name(number), np.random.default_rng([seed, number]), size)
        if progress:
            progress(number, patients)
    write_json(partial / DESCRIPTION, _describe(patients, {**made_from, "sha256": _hashes(partial)}))
    os.replace(partial, folder)


def _check(patients: int, seed: int, size: float) -> None:
    if not 1 <= patients <= 999:
        raise ParamsError(f"The phantom cannot have {patients} patients: choose 1 to 999.")
    if seed < 0:
        raise ParamsError(f"The phantom's seed is {seed}: choose 0 or more.")
    low, high = MATRIX_SIZES
    if not low <= size <= high:
        raise ParamsError(f"The phantom's size is {size}: choose {low} to {high} times the usual matrix.")


def _is_there(folder: Path, made_from: dict[str, Any]) -> bool:
    """Whether `folder` holds the phantom made from this; False if it is absent or empty."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    way_out = "choose another folder, or remove this one to have the phantom made anew"
    found = _made_from(folder)
    hashes = found.pop("sha256", None)
    if hashes is None:
        raise DataError(f"{folder} holds something that is not the phantom", way_out)
    for key in ("patients", "seed", "size"):
        if found.get(key) != made_from[key]:
            raise DataError(
                f"{folder} holds a phantom of {key} {found.get(key)}, not {made_from[key]}", way_out
            )
    present = _hashes(folder)
    changed = sorted(path for path in hashes.keys() | present.keys() if hashes.get(path) != present.get(path))
    if changed:
        raise DataError(f"{folder} holds the phantom, but {changed[0]} is not as it was made", way_out)
    if found["code"] != made_from["code"]:
        # Nothing of a person's is lost: it is whole, and newer code makes it anew.
        shutil.rmtree(folder)
        return False
    return True


def _made_from(folder: Path) -> dict[str, Any]:
    """What `dataset.json` says the phantom was made from; empty where it says nothing of the kind."""
    try:
        content = read_json(folder / DESCRIPTION)
        return dict(content["phantom"])
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in `folder` but the description, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / DESCRIPTION)
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}


def _name(number: int) -> str:
    return f"patient_{number:03d}"


def _describe(patients: int, made_from: dict[str, Any]) -> dict[str, Any]:
    names = [_name(number) for number in range(1, patients + 1)]
    return {
        "name": "Phantom of the abdomen",
        "description": "Computed, not measured: contrast-enhanced CT with liver, spleen and kidneys",
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {str(value): name for name, value in LABELS.items()},
        "numTraining": patients,
        "numTest": 0,
        "training": [
            {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names
        ],
        "test": [],
        "phantom": made_from,
    }


def _write_case(folder: Path, name: str, generator: np.random.Generator, size: float) -> None:
    patient = draw_patient(generator)
    scan = render(patient, size)
    orientation = patient.protocol.orientation
    for kind, voxels in (("imagesTr", scan.hu), ("labelsTr", scan.labels)):
        content = _nifti(voxels, scan.affine, orientation)
        with atomic_path(folder / kind / f"{name}.nii.gz") as temporary:
            # No time in the gzip header: equal calls write equal bytes.
            temporary.write_bytes(gzip.compress(content, compresslevel=6, mtime=0))


def _nifti(voxels: NDArray[Any], affine: NDArray[np.float64], orientation: str) -> bytes:
    """A NIfTI file whose axes run along `orientation`, from `voxels` in RAS order; mm, in both forms."""
    turn = nibabel.orientations.axcodes2ornt(orientation)
    turned = nibabel.Nifti1Image(voxels, affine).as_reoriented(turn)
    image = nibabel.Nifti1Image(np.asarray(turned.dataobj), turned.affine)
    image.header.set_xyzt_units("mm")
    image.set_qform(turned.affine, code="scanner")
    image.set_sform(turned.affine, code="scanner")
    content: bytes = image.to_bytes()
    return content
