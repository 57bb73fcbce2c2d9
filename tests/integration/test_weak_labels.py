"""Annotations that are no outlines: a network that learns from them alone finds what they mark."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.cli import run_stage
from pipeline.labels import UNKNOWN
from pipeline.metrics.overlap import dice
from pipeline.prediction.predict import predict_scans
from pipeline.volumes.store import SUFFIX, read_case
from tests.conftest import Project

ORGAN = "lesion"
SHAPE = (32, 32, 24)
RADIUS = 4.0
CASES = 12
STEPS = 120
NOBODY = 9
BEFORE = ("ingest", "validate", "patches", "augment", "train")
Mask = NDArray[np.uint8]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with bright balls in noise; the masks are full outlines."""
    project = Project(tmp_path_factory.mktemp("project"))
    source = tmp_path_factory.mktemp("source")
    for number in range(CASES):
        image, label = balls(number)
        write(source / "images" / f"case_{number}.nii.gz", image)
        write(source / "labels" / f"case_{number}.nii.gz", label)
    project.hounsfield("add-organ", ORGAN, "--source", str(source), "--modality", "MR", "--label", "lesion=1")
    return project


def balls(seed: int) -> tuple[NDArray[np.float32], Mask]:
    """Two balls, at places of their own."""
    rng = np.random.default_rng(seed)
    label = np.zeros(SHAPE, np.uint8)
    for half in range(2):
        place = [rng.uniform(6, 10) + 16 * half, rng.uniform(6, 26), rng.uniform(6, 18)]
        apart = np.linalg.norm(np.indices(SHAPE) - np.array(place)[:, None, None, None], axis=0)
        label[apart <= RADIUS] = 1
    return (label * 100 + rng.normal(0, 25, SHAPE)).astype(np.float32), label


def write(path: Path, array: NDArray[Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([1.0, 1.0, 1.0, 1.0])), path)


def points(label: Mask) -> Mask:
    """One voxel a ball, in its middle."""
    marked = np.zeros_like(label)
    for half in (slice(0, 16), slice(16, 32)):
        place = np.argwhere(label[half]).mean(0).round().astype(int)
        marked[half][tuple(place)] = 1
    return marked


def some_slices(label: Mask) -> Mask:
    """Every fourth slice; of the others the map says that nobody looked at them."""
    kept = label.copy()
    kept[:, :, np.arange(SHAPE[2]) % 4 > 0] = NOBODY
    return kept


def learned(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mark: Any, **params: Any
) -> float:
    """The mean Dice with the full outlines, of a network that was given only what `mark` leaves of them."""
    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("HOUNSFIELD_HOME", str(tmp_path / "home"))
    for number in range(CASES):
        write(project.folder / f"data/raw/{ORGAN}/labels/case_{number}.nii.gz", mark(balls(number)[1]))
    train = {
        "profile": "small",
        "steps": STEPS,
        "validate_every": STEPS,
        "network": {"channels": [8, 16, 32]},
    }
    project.set_params(
        organs__lesion__ingest__annotation=params.pop("annotation"),
        organs__lesion__patches={"size": [24, 32, 32], "per_case": 8},
        organs__lesion__train=train | params,
    )
    for stage in BEFORE:
        run_stage(stage, ORGAN)
    found = []
    for number in range(100, 104):
        image, truth = balls(number)
        write(tmp_path / "scan.nii.gz", image)
        assert not predict_scans(
            project.folder, ORGAN, tmp_path / "scan.nii.gz", tmp_path / "out.nii.gz", "latest"
        ).failed
        predicted = np.asarray(nibabel.load(tmp_path / "out.nii.gz").dataobj)
        found.append(dice(truth, predicted, 1))
    return float(np.mean(found))


def stored(project: Project, number: int) -> Mask:
    return read_case(project.folder / f"data/volumes/{ORGAN}/case_{number}{SUFFIX}").label


SPARSE = {"kind": "sparse", "unlabelled": NOBODY}
POINTS = {"kind": "points", "size_mm": [8, 8, 8]}


def test_points_alone_are_enough_to_find_what_they_mark(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert learned(project, monkeypatch, tmp_path, points, annotation=POINTS) > 0.55
    assert set(np.unique(stored(project, 0))) == {0, 1, UNKNOWN}
    # Taken for outlines, the same points teach that there is next to nothing.
    assert learned(project, monkeypatch, tmp_path, points, annotation={"kind": "full"}) < 0.5


def test_a_few_slices_are_enough_where_the_others_are_known_to_be_unknown(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sparse = learned(project, monkeypatch, tmp_path, some_slices, annotation=SPARSE)
    assert set(np.unique(stored(project, 0))) == {0, 1, UNKNOWN}
    run_stage("evaluate", ORGAN)
    assert sparse > 0.8


def test_maps_of_a_network_that_was_told_of_slices_alone_overlap_the_truth(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    network = {"name": "unet_mds"}
    image = {"kind": "image"}
    found = learned(
        project, monkeypatch, tmp_path, lambda label: label, annotation=image, network=network, steps=240
    )
    held = stored(project, 0)
    assert all(one.all() or not one.any() for one in held)
    assert found > 0.5
