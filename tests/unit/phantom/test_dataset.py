"""The phantom: an abdomen to look at, a data set to trust, and no task for a threshold."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, label

from pipeline.errors import DataError, ParamsError
from pipeline.phantom.anatomy import draw_patient
from pipeline.phantom.dataset import make_phantom
from pipeline.phantom.patient import LABELS, Ellipsoid, Organ, Patient
from pipeline.phantom.scan import Scan, coverage, render

ORGANS = {name: value for name, value in LABELS.items() if value}
PLAUSIBLE_ML = {
    "liver": (1150, 1900),
    "spleen": (120, 350),
    "left_kidney": (110, 220),
    "right_kidney": (110, 220),
}


@pytest.fixture(scope="module")
def patients() -> list[Patient]:
    return [draw_patient(np.random.default_rng([0, number])) for number in range(1, 13)]


@pytest.fixture(scope="module")
def scans(patients: list[Patient]) -> list[Scan]:
    return [render(patient) for patient in patients]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "abdomen"
    make_phantom(folder, patients=8, size=0.5)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def cases(folder: Path) -> list[tuple[nibabel.Nifti1Image, nibabel.Nifti1Image]]:
    listed = json.loads((folder / "dataset.json").read_text())["training"]
    return [(nibabel.load(folder / case["image"]), nibabel.load(folder / case["label"])) for case in listed]


def millilitres(scan: Scan, name: str) -> float:
    return float((scan.labels == LABELS[name]).sum() * abs(np.linalg.det(scan.affine)) / 1000)


def organ_of(patient: Patient, name: str) -> Organ:
    return next(organ for organ in patient.organs if organ.name == name)


# The data set


def test_layout_is_that_of_the_decathlon(small: Path) -> None:
    description = json.loads((small / "dataset.json").read_text())
    assert description["modality"] == {"0": "CT"}
    assert description["labels"] == {
        "0": "background",
        "1": "liver",
        "2": "spleen",
        "3": "left_kidney",
        "4": "right_kidney",
    }
    assert description["numTraining"] == 8
    assert description["training"][0] == {
        "image": "./imagesTr/patient_001.nii.gz",
        "label": "./labelsTr/patient_001.nii.gz",
    }
    assert len(contents(small)) == 2 * 8 + 1


def test_image_and_label_map_share_one_geometry_in_millimetres(small: Path) -> None:
    for image, label_map in cases(small):
        assert image.get_data_dtype() == np.int16
        assert label_map.get_data_dtype() == np.uint8
        assert image.shape == label_map.shape
        np.testing.assert_array_equal(image.affine, label_map.affine)
        for file in (image, label_map):
            assert file.header.get_xyzt_units()[0] == "mm"
            assert (int(file.header["qform_code"]), int(file.header["sform_code"])) == (1, 1)
            np.testing.assert_allclose(file.get_qform(), file.get_sform(), atol=1e-3)


def test_spacing_is_anisotropic_and_spacing_and_orientation_vary(small: Path) -> None:
    spacings = [image.header.get_zooms() for image, _ in cases(small)]
    assert all(z > 1.2 * x for x, _, z in spacings)
    assert len({tuple(np.round(spacing, 2)) for spacing in spacings}) > 4
    assert len({nibabel.aff2axcodes(image.affine) for image, _ in cases(small)}) > 1


def test_organs_lie_on_their_sides_whatever_the_orientation_of_the_file(small: Path) -> None:
    for _, label_map in cases(small):
        voxels = np.asarray(label_map.dataobj)
        assert set(np.unique(voxels)) == set(LABELS.values())
        centre = {
            name: nibabel.affines.apply_affine(label_map.affine, np.argwhere(voxels == value)).mean(axis=0)
            for name, value in ORGANS.items()
        }
        assert centre["liver"][0] > centre["spleen"][0] + 80
        assert centre["right_kidney"][0] > centre["left_kidney"][0] + 80
        assert min(centre["liver"][2], centre["spleen"][2]) > centre["right_kidney"][2]


def test_bytes_depend_on_the_seed_alone(small: Path, tmp_path: Path) -> None:
    make_phantom(tmp_path / "again", patients=8, size=0.5)
    make_phantom(tmp_path / "other", patients=8, size=0.5, seed=1)
    assert contents(tmp_path / "again") == contents(small)
    other = contents(tmp_path / "other")
    assert not any(other[path] == content for path, content in contents(small).items())


def test_a_larger_phantom_holds_the_smaller_one(small: Path, tmp_path: Path) -> None:
    make_phantom(tmp_path / "few", patients=2, size=0.5)
    few, many = contents(tmp_path / "few"), contents(small)
    few.pop("dataset.json")
    assert few == {path: many[path] for path in few}


def test_a_complete_phantom_is_left_alone(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in small.rglob("*")}
    make_phantom(small, patients=8, size=0.5)
    assert {path: path.stat().st_mtime_ns for path in small.rglob("*")} == before
    assert "already" in capsys.readouterr().err


@pytest.mark.parametrize("number", [{"patients": 3}, {"seed": 1}, {"size": 0.25}])
def test_another_phantom_is_not_overwritten(tmp_path: Path, number: dict[str, float]) -> None:
    folder = tmp_path / "abdomen"
    first = {"patients": 2, "seed": 0, "size": 0.5}
    make_phantom(folder, **first)
    before = contents(folder)
    with pytest.raises(DataError, match=next(iter(number))):
        make_phantom(folder, **{**first, **number})
    assert contents(folder) == before


@pytest.mark.parametrize("change", ["edited", "removed", "added"])
def test_a_changed_phantom_is_not_taken_for_the_phantom(tmp_path: Path, change: str) -> None:
    make_phantom(tmp_path / "abdomen", patients=1, size=0.5)
    file = tmp_path / "abdomen" / "labelsTr" / "patient_001.nii.gz"
    if change == "edited":
        file.write_bytes(file.read_bytes() + b"\0")
    elif change == "removed":
        file.unlink()
    else:
        file = file.with_name("patient_002.nii.gz")
        file.write_bytes(b"\0")
    with pytest.raises(DataError, match=f"labelsTr/{file.name}"):
        make_phantom(tmp_path / "abdomen", patients=1, size=0.5)


@pytest.mark.parametrize("foreign", ["notes.txt", "dataset.json"])
def test_other_data_are_not_overwritten(tmp_path: Path, foreign: str) -> None:
    (tmp_path / foreign).write_text("[]")
    with pytest.raises(DataError, match="not the phantom"):
        make_phantom(tmp_path, patients=1, size=0.5)
    assert contents(tmp_path) == {foreign: b"[]"}


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "abdomen").write_text("")
    with pytest.raises(DataError, match="not the phantom"):
        make_phantom(tmp_path / "abdomen", patients=1, size=0.5)


def test_a_killed_call_leaves_no_folder_and_the_next_makes_the_same_bytes(
    small: Path, tmp_path: Path
) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from pipeline.phantom.dataset import make_phantom;"
        "kill = lambda done, total: done == 3 and os.kill(os.getpid(), signal.SIGKILL);"
        "make_phantom(Path(sys.argv[1]), patients=8, size=0.5, progress=kill)"
    )
    folder = tmp_path / "abdomen"
    root = Path(__file__).parents[3]
    killed = subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        check=False,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert killed.returncode == -signal.SIGKILL
    assert not folder.exists()
    make_phantom(folder, patients=8, size=0.5)
    assert contents(folder) == contents(small)
    assert [path.name for path in tmp_path.iterdir()] == ["abdomen"]


def test_progress_is_told_after_each_case(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    make_phantom(tmp_path, patients=3, size=0.25, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("number", [{"patients": 0}, {"patients": 1000}, {"seed": -1}, {"size": 0.1}])
def test_a_number_out_of_range_is_named(tmp_path: Path, number: dict[str, float]) -> None:
    with pytest.raises(ParamsError, match=str(next(iter(number.values())))):
        make_phantom(tmp_path, **number)
    assert not any(tmp_path.iterdir())


# The anatomy


def test_organs_have_the_volumes_of_people_and_vary(scans: list[Scan]) -> None:
    for name, (least, most) in PLAUSIBLE_ML.items():
        volumes = [millilitres(scan, name) for scan in scans]
        assert least < min(volumes)
        assert max(volumes) < most
        assert max(volumes) > 1.2 * min(volumes)


def test_each_organ_is_one_piece_inside_the_scan(scans: list[Scan]) -> None:
    for scan in scans:
        for value in ORGANS.values():
            pieces, _ = label(scan.labels == value)
            sizes = np.bincount(pieces.ravel())[1:]
            assert sizes.max() > 0.98 * sizes.sum()
        inner = scan.labels[1:-1, 1:-1, 1:-1]
        assert np.count_nonzero(inner) == np.count_nonzero(scan.labels)


def test_equal_patients_give_equal_scans(patients: list[Patient], scans: list[Scan]) -> None:
    assert draw_patient(np.random.default_rng([0, 1])) == patients[0]
    again = render(patients[0])
    np.testing.assert_array_equal(again.hu, scans[0].hu)
    np.testing.assert_array_equal(again.labels, scans[0].labels)


def test_a_smaller_matrix_shows_the_same_anatomy(patients: list[Patient], scans: list[Scan]) -> None:
    coarse = render(patients[0], size=0.5)
    assert coarse.hu.size < scans[0].hu.size / 7
    for name in ORGANS:
        assert millilitres(coarse, name) == pytest.approx(millilitres(scans[0], name), rel=0.1)


def test_hu_are_those_of_a_contrast_enhanced_abdomen(patients: list[Patient], scans: list[Scan]) -> None:
    usual = {"liver": (65, 135), "spleen": (85, 140), "left_kidney": (130, 190), "right_kidney": (130, 190)}
    for patient, scan in zip(patients, scans, strict=True):
        assert np.median(scan.hu[:, -1, :]) == pytest.approx(-1000, abs=10)
        for name, (low, high) in usual.items():
            assert low < np.median(scan.hu[scan.labels == LABELS[name]]) < high
        counts, edges = np.histogram(scan.hu, np.arange(-150, -50, 5))
        assert edges[counts.argmax()] == pytest.approx(patient.body.fat_hu, abs=15)
        assert np.percentile(scan.hu, 99.5) > 300


def test_noise_is_about_fifteen_to_twenty_hu(scans: list[Scan]) -> None:
    for scan in scans:
        air = scan.hu[:, -1, :].astype(np.float32)
        # Below -1024 a scanner cuts off, so only the upper half of the noise is measured.
        assert 14 < np.sqrt(np.mean((air[air > -1000] + 1000) ** 2)) < 21


def test_a_table_lies_behind_the_body(scans: list[Scan]) -> None:
    for scan in scans:
        dense = scan.hu > -700
        pieces, _ = label(dense)
        behind = scan.labels.nonzero()[1].min() - 3
        table = pieces[scan.hu.shape[0] // 8, :behind]
        assert table.any()


def test_some_patients_have_a_dark_lesion_that_belongs_to_the_organ(patients: list[Patient]) -> None:
    lesions = [_lesions(patient) for patient in patients]
    assert 0 < sum(bool(found) for found in lesions) < len(patients)


def _lesions(patient: Patient) -> list[Ellipsoid]:
    organs = [organ_of(patient, name) for name in ("liver", "spleen")]
    return [inlay for organ in organs for inlay, hu in organ.inlays if hu < organ.hu - 30]


def test_a_voxel_holds_a_structure_by_the_share_of_its_volume() -> None:
    """Against counting in voxels cut into 6 x 6 x 6, on anisotropic voxels a fifth of the ball."""

    def ball(axes: list[np.ndarray]) -> np.ndarray:
        x, y, z = np.meshgrid(*axes, indexing="ij")
        return (26 - np.sqrt(x**2 + y**2 + z**2)).astype(np.float32)

    centres = [np.arange(-8, 9) * step + 0.7 for step in (4.0, 4.0, 6.0)]
    parts = [
        (axis[:, None] + step * (np.arange(6) - 2.5) / 6).ravel()
        for axis, step in zip(centres, (4.0, 4.0, 6.0), strict=True)
    ]
    counted = (ball(parts) > 0).reshape(17, 6, 17, 6, 17, 6).mean(axis=(1, 3, 5))
    share = coverage(ball(centres))
    edge = (counted > 0) & (counted < 1)
    assert np.abs(share - counted).max() < 0.2
    assert np.abs(share - counted)[edge].mean() < 0.05
    assert share.sum() == pytest.approx(counted.sum(), rel=0.02)


# Thresholds fail


@pytest.mark.parametrize("blur", [0.0, 0.7])
def test_the_best_threshold_fails_on_every_organ(scans: list[Scan], blur: float) -> None:
    """The best interval of HU, chosen knowing the truth of all patients, inside the body.

    Over the 32 default patients its Dice is 0.55 for the liver, 0.17 for the spleen, 0.27 and 0.29
    for the left and right kidney (0.44 for both as one); after a Gaussian blur of 0.7 voxels 0.59,
    0.15, 0.24 and 0.25. With an interval of its own for every patient the liver reaches 0.60 (0.65
    blurred). Here, on 12 of them: at most 0.59.
    """
    found = {name: _best_threshold_dice(scans, value, blur) for name, value in ORGANS.items()}
    assert max(found.values()) < 0.6, found
    assert max(dice for name, dice in found.items() if name != "liver") < 0.35, found


def _best_threshold_dice(scans: list[Scan], value: int, blur: float) -> float:
    edges = np.arange(-200, 501, 2)
    organ, body = np.zeros(edges.size - 1), np.zeros(edges.size - 1)
    for scan in scans:
        pieces, _ = label(scan.hu > -300)
        inside = pieces == np.bincount(pieces.ravel())[1:].argmax() + 1
        hu = gaussian_filter(scan.hu.astype(np.float32), blur)
        organ += np.histogram(hu[inside & (scan.labels == value)], edges)[0]
        body += np.histogram(hu[inside], edges)[0]
    hit, chosen = (np.concatenate([[0], np.cumsum(counts)]) for counts in (organ, body))
    dice = 2 * (hit[None] - hit[:, None]) / np.maximum(chosen[None] - chosen[:, None] + hit[-1], 1)
    return float(dice.max())
