"""Hashes by which a volume is known to be made of the same bytes, by the same recipe and code, as another."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path

from pipeline.atomic import sha256_code, sha256_json
from pipeline.errors import DataError
from pipeline.volumes.case_files import CaseFiles
from pipeline.volumes.hashes import hash_all
from pipeline.volumes.job import Job
from pipeline.volumes.readers import ITK, NIFTI
from pipeline.volumes.recipe import Recipe


def hash_case(job: Job) -> dict[Path, str]:
    """SHA-256 of every file of a case, by path relative to the source.

    Raises:
        DataError: a file is not there or cannot be read.
    """
    paths = {job.raw / path: path for path in job.files.paths}
    known = {job.raw / path: sha256 for path, sha256 in job.hashes.items()}
    try:
        return {paths[path]: sha256 for path, sha256 in hash_all(paths, known).items()}
    except OSError as error:
        name = Path(str(error.filename)).name
        # A case in another format than DICOM is called after its file, whatever that says.
        told = name if name.lower().endswith((*NIFTI, *ITK)) else "one of its files"
        raise DataError(
            f"{job.files.case}: {told} cannot be read ({error.strerror})", "add it, or see who may read it"
        ) from None


def content_key(files: CaseFiles, hashes: Mapping[Path, str]) -> str:
    """Hash of what a case consists of: names, bytes, and what its source says of it.

    Slices are taken in the order of their hashes: what a file is called says nothing about a case.
    """
    parts = [sorted(hashes[path] for path in paths) for paths in files.images]
    masks = [[mask.label, [hashes[path] for path in mask.paths]] for mask in files.masks]
    problem = files.problem and asdict(files.problem)
    return sha256_json([files.case, files.patient, parts, masks, files.annotated, problem])


def case_key(files: CaseFiles, content: str, recipe: Recipe) -> str:
    """Hash of all a volume and its row are made of."""
    return sha256_json([content, asdict(recipe), _code()])


@cache
def _code() -> str:
    return sha256_code("volumes")
