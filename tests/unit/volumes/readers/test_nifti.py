import gzip
import struct
import time
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import DataError, ResourceError
from pipeline.volumes.geometry import Geometry
from pipeline.volumes.readers import (
    channels_in,
    check_memory,
    read_channels,
    read_geometry,
    read_label_map,
    read_scan,
    starts_negative,
)
from pipeline.volumes.readers.nifti import write_labels

FIXTURES = Path(nibabel.__file__).parent / "tests" / "data"
AFFINE = np.diag([0.5, 1.0, 2.0, 1.0])
OFFSET_OF_SHAPE, OFFSET_OF_DATATYPE = 40, 70
OFFSET_OF_SFORM = 280


def _voxels() -> NDArray[np.int16]:
    return np.random.default_rng(0).integers(-1000, 2000, (6, 7, 8)).astype(np.int16)


def _save(path: Path, array: NDArray[Any], affine: NDArray[np.float64] = AFFINE) -> Path:
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def _patch_header(path: Path, offset: int, content: bytes) -> Path:
    """The same file with other bytes in its header."""
    opened = gzip.open if path.name.endswith(".gz") else open
    with opened(path, "rb") as file:
        whole = bytearray(file.read())
    whole[offset : offset + len(content)] = content
    with opened(path, "wb") as file:
        file.write(bytes(whole))
    return path


def _refusal(path: Path) -> str:
    with pytest.raises(DataError) as refused:
        read_scan(path)
    message = str(refused.value)
    assert message.startswith(path.name)
    assert str(path.parent) not in message, "folders may name a person"
    assert refused.value.remedy
    return message


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32, np.float32, np.float64])
def test_voxels_and_geometry_are_read_as_they_were_written(tmp_path: Path, suffix: str, kind: type) -> None:
    array: NDArray[Any] = np.abs(_voxels() // 20).astype(kind)
    path = _save(tmp_path / f"scan{suffix}", array)
    scan = read_scan(path)
    assert scan.array.dtype == np.float32
    assert np.array_equal(scan.array, array)
    assert scan.geometry.shape == (6, 7, 8)
    assert np.array_equal(scan.geometry.affine, AFFINE)
    assert read_geometry(path).spacing == scan.geometry.spacing == (2.0, 1.0, 0.5)


def test_nifti2_is_read(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti2Image(_voxels(), AFFINE), tmp_path / "scan.nii.gz")
    assert np.array_equal(read_scan(tmp_path / "scan.nii.gz").array, _voxels())


def test_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(_voxels(), AFFINE)
    image.header.set_slope_inter(2.0, -1024.0)
    nibabel.save(image, tmp_path / "scan.nii.gz")
    stored = nibabel.load(tmp_path / "scan.nii.gz")
    assert (stored.dataobj.slope, stored.dataobj.inter) == (2.0, -1024.0)
    assert np.array_equal(read_scan(tmp_path / "scan.nii.gz").array, 2.0 * _voxels() - 1024.0)


def test_labels_stored_as_float_are_whole_numbers_again(tmp_path: Path) -> None:
    labels = (_voxels() > 0).astype(np.float64) * 2
    assert set(np.unique(read_scan(_save(tmp_path / "label.nii.gz", labels)).array)) == {0.0, 2.0}


def test_a_fourth_axis_of_one_voxel_is_dropped(tmp_path: Path) -> None:
    path = _save(tmp_path / "scan.nii.gz", _voxels()[..., None, None])
    assert np.array_equal(read_scan(path).array, _voxels())
    assert read_geometry(path).shape == (6, 7, 8)


@pytest.mark.parametrize("shape", [(6, 7, 8, 2), (6, 7), (6,), (1, 1, 1, 1, 3)])
def test_what_is_not_one_volume_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    assert "shape" in _refusal(_save(tmp_path / "scan.nii.gz", np.zeros(shape, np.int16)))


def test_of_a_file_with_too_many_axes_it_is_said_how_channels_are_given(tmp_path: Path) -> None:
    path = _save(tmp_path / "brain.nii.gz", np.zeros((6, 7, 8, 4, 2), np.int16))
    with pytest.raises(
        DataError, match="channels of an image: one NIfTI file, or a file of its own for each"
    ):
        read_channels(path)
    assert channels_in(path) == 1
    assert "channels" not in _refusal(_save(tmp_path / "slice.nii.gz", np.zeros((6, 7), np.int16)))


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
@pytest.mark.parametrize("axes", [(3,), (1, 3)], ids=["fourth axis", "fifth axis"])
@pytest.mark.parametrize("kind", [np.int16, np.float32])
def test_the_channels_of_one_file_are_read_as_if_each_had_a_file_of_its_own(
    tmp_path: Path, suffix: str, axes: tuple[int, ...], kind: type
) -> None:
    arrays = [(_voxels() + 100 * channel).astype(kind) for channel in range(3)]
    together = np.stack(arrays, axis=-1).reshape((*arrays[0].shape, *axes))
    path = _save(tmp_path / f"brain{suffix}", together)
    scans = read_channels(path)
    assert channels_in(path) == len(scans) == 3
    for number, array in enumerate(arrays):
        alone = read_scan(_save(tmp_path / f"{number}.nii.gz", array))
        assert np.array_equal(scans[number].array, alone.array)
        assert scans[number].array.dtype == np.float32
        assert scans[number].geometry.shape == alone.geometry.shape == read_geometry(path).shape
        assert np.array_equal(scans[number].geometry.affine, alone.geometry.affine)
        assert scans[number].origin == alone.origin


def test_a_file_of_one_volume_is_one_channel(tmp_path: Path) -> None:
    for shape in (_voxels().shape, (*_voxels().shape, 1)):
        path = _save(tmp_path / "scan.nii.gz", _voxels().reshape(shape))
        (scan,) = read_channels(path)
        assert channels_in(path) == 1
        assert np.array_equal(scan.array, _voxels())


def test_the_slope_of_a_file_holds_for_each_of_its_channels(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.stack([_voxels(), _voxels() + 1], axis=-1), AFFINE)
    image.header.set_slope_inter(2, -1000)
    nibabel.save(image, tmp_path / "brain.nii")
    first, second = read_channels(tmp_path / "brain.nii")
    np.testing.assert_allclose(first.array, _voxels() * 2.0 - 1000)
    np.testing.assert_allclose(second.array - first.array, 2.0)


def test_what_wants_one_volume_refuses_several_channels(tmp_path: Path) -> None:
    path = _save(tmp_path / "brain.nii.gz", np.zeros((6, 7, 8, 4), np.uint8))
    for read in (read_scan, read_label_map):
        with pytest.raises(DataError, match="has shape"):
            read(path)


def test_a_file_that_ends_in_its_last_channel_is_damaged(tmp_path: Path) -> None:
    path = _save(tmp_path / "brain.nii", np.zeros((6, 7, 8, 4), np.int16))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="is damaged"):
        read_channels(path)


def test_all_channels_of_a_file_together_must_fit_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _save(tmp_path / "brain.nii.gz", np.zeros((60, 70, 80, 4), np.int16))
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=3 * 4 * 60 * 70 * 80 * 3))
    with pytest.raises(ResourceError, match=r"\(60, 70, 80\) voxels in 4 channels, which need"):
        read_channels(path)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=3 * 4 * 60 * 70 * 80 * 4))
    assert len(read_channels(path)) == 4


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused_and_counted(tmp_path: Path, value: float) -> None:
    array = _voxels().astype(np.float32)
    array[0, 0, :3] = value
    assert "3 voxels are NaN or infinite" in _refusal(_save(tmp_path / "scan.nii.gz", array))


def test_numbers_beyond_float32_are_refused_without_a_warning(tmp_path: Path) -> None:
    assert "infinite" in _refusal(_save(tmp_path / "scan.nii.gz", np.full((2, 2, 2), 1e300)))


def test_colour_is_refused(tmp_path: Path) -> None:
    colours = np.zeros((4, 4, 4), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    assert "colour" in _refusal(_save(tmp_path / "scan.nii.gz", colours))


def test_complex_numbers_are_refused(tmp_path: Path) -> None:
    assert "complex" in _refusal(_save(tmp_path / "scan.nii.gz", np.zeros((4, 4, 4), np.complex64)))


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str, share: float) -> None:
    path = _save(tmp_path / f"scan{suffix}", _voxels())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    assert "fetch it again" in _refusal(path)


def test_a_compressed_file_with_one_wrong_bit_is_refused(tmp_path: Path) -> None:
    path = _save(tmp_path / "scan.nii.gz", _voxels())
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    for place in generator.integers(200, len(whole) - 8, 30):
        wrong = bytearray(whole)
        wrong[place] ^= 1 << int(generator.integers(8))
        path.write_bytes(bytes(wrong))
        _refusal(path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_garbage_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"scan{suffix}"
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    assert "cannot be read" in _refusal(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "cannot be read" in _refusal(tmp_path / "scan.nii.gz")


@pytest.mark.parametrize("name", ["scan", "scan.txt", "nii", "scan.gz", "scan.zip"])
def test_other_formats_are_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"something")
    assert "convert it" in _refusal(tmp_path / name)


@pytest.mark.parametrize(("head", "body"), [(".hdr", ".img"), (".hdr.gz", ".img.gz")])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Pair, nibabel.Nifti2Pair])
def test_a_pair_of_header_and_image_is_read(tmp_path: Path, head: str, body: str, kind: Any) -> None:
    nibabel.save(kind(_voxels(), AFFINE), tmp_path / f"scan{body}")
    pair = (tmp_path / f"scan{head}", tmp_path / f"scan{body}")
    assert all(path.is_file() for path in pair)
    assert np.array_equal(read_scan(*pair).array, _voxels())
    assert np.array_equal(read_scan(pair[0]).array, _voxels())
    assert np.array_equal(read_geometry(*pair).affine, AFFINE)


@pytest.mark.parametrize("missing", [".hdr", ".img"])
def test_half_a_pair_is_refused(tmp_path: Path, missing: str) -> None:
    nibabel.save(nibabel.Nifti1Pair(_voxels(), AFFINE), tmp_path / "scan.img")
    (tmp_path / f"scan{missing}").unlink()
    _refusal(tmp_path / ("scan.img" if missing == ".hdr" else "scan.hdr"))


@pytest.mark.parametrize("half", [".hdr", ".img", ".hdr.gz", ".img.gz"])
def test_half_of_a_pair_that_ends_too_early_is_refused(tmp_path: Path, half: str) -> None:
    nibabel.save(
        nibabel.Nifti1Pair(_voxels(), AFFINE), tmp_path / f"scan.img{'.gz' if half.endswith('gz') else ''}"
    )
    broken = tmp_path / f"scan{half}"
    broken.write_bytes(broken.read_bytes()[:-20])
    _refusal(tmp_path / half.replace("img", "hdr").replace(".hdr", "scan.hdr"))


def test_analyze_whose_axes_mean_nothing_is_refused(tmp_path: Path) -> None:
    nibabel.save(nibabel.AnalyzeImage(_voxels(), AFFINE), tmp_path / "plain.img")
    nibabel.save(nibabel.Spm99AnalyzeImage(_voxels(), AFFINE), tmp_path / "spm.img")
    for name in ("plain", "spm"):
        assert "not a NIfTI volume" in _refusal(tmp_path / f"{name}.hdr")


@pytest.mark.parametrize(
    "broken",
    [
        np.zeros((3, 3)),
        np.diag([1.0, 1.0, 0.0]),
        np.diag([1.0, np.nan, 1.0]),
        np.diag([1.0, np.inf, 1.0]),
        np.diag([1.0, 1.0, 1e-5]),
        np.diag([1.0, 1.0, 5000.0]),
        [[1, 1, 0], [0, 0.01, 0], [0, 0, 1]],
        np.ones((3, 3)),
    ],
    ids=["zero", "flat", "nan", "inf", "microscopic", "metres", "sheared", "singular"],
)
def test_an_affine_without_a_usable_spacing_is_refused(tmp_path: Path, broken: Any) -> None:
    path = _save(tmp_path / "scan.nii.gz", _voxels())
    rows = np.zeros((3, 4), "<f4")
    rows[:, :3] = broken
    _patch_header(path, OFFSET_OF_SFORM, rows.tobytes())
    assert "no usable spacing" in _refusal(path)
    with pytest.raises(DataError, match="no usable spacing"):
        read_geometry(path)


def _tilted(degrees: float) -> NDArray[np.float64]:
    tilted = AFFINE.copy()
    tilted[1, 2] = 2.0 * np.tan(np.radians(degrees))
    return tilted


@pytest.mark.parametrize("degrees", [1.1, 30, -30])
def test_the_tilt_of_a_gantry_is_refused_as_in_dicom(tmp_path: Path, degrees: float) -> None:
    path = _save(tmp_path / "scan.nii.gz", _voxels(), _tilted(degrees))
    told = f"two of its axes stand at {90 - abs(degrees):.1f} degrees, not at right angles"
    assert told in _refusal(path)
    with pytest.raises(DataError, match="resample it onto a rectangular grid"):
        read_geometry(path)


def test_axes_that_are_as_good_as_at_right_angles_are_taken(tmp_path: Path) -> None:
    path = _save(tmp_path / "scan.nii.gz", _voxels(), _tilted(0.9))
    assert np.array_equal(read_scan(path).array, _voxels())


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("read", [read_scan, read_geometry])
def test_a_header_that_claims_too_much_is_refused_at_once(tmp_path: Path, suffix: str, read: Any) -> None:
    path = _save(tmp_path / f"scan{suffix}", _voxels())
    _patch_header(path, OFFSET_OF_SHAPE, struct.pack("<4h", 3, 30000, 30000, 30000))
    tracemalloc.start()
    start = time.perf_counter()
    with pytest.raises(DataError, match=r"scan\S* its header claims \(30000, 30000, 30000\) voxels"):
        read(path)
    assert time.perf_counter() - start < 1
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_header_that_claims_more_than_the_file_holds_is_refused(tmp_path: Path, suffix: str) -> None:
    path = _save(tmp_path / f"scan{suffix}", _voxels())
    _patch_header(path, OFFSET_OF_SHAPE, struct.pack("<4h", 3, 100, 100, 100))
    assert "is damaged" in _refusal(path)


def test_a_header_with_an_unknown_datatype_is_refused(tmp_path: Path) -> None:
    path = _save(tmp_path / "scan.nii", _voxels())
    _refusal(_patch_header(path, OFFSET_OF_DATATYPE, struct.pack("<h", 12345)))


def test_a_header_with_any_bytes_is_read_or_refused(tmp_path: Path) -> None:
    path = _save(tmp_path / "scan.nii", _voxels()[:3, :3, :3])
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        wrong = bytearray(whole)
        for place in generator.integers(0, 352, 3):
            wrong[place] = int(generator.integers(256))
        path.write_bytes(bytes(wrong))
        try:
            scan = read_scan(path)
        except DataError:
            refused += 1
            continue
        assert np.isfinite(scan.array).all()
        assert min(scan.geometry.spacing) > 0
        assert sorted(scan.geometry.canonical_shape) == sorted(scan.array.shape)
    assert 0 < refused < 300


@pytest.mark.parametrize(
    ("offset", "content", "reason"),
    [
        (123, b"\x01", "not measured in mm"),
        (123, b"\x03", "not measured in mm"),
        (254, struct.pack("<h", 4096), "cannot be read as NIfTI"),
        (252, struct.pack("<h", 77), "cannot be read as NIfTI"),
        (80, struct.pack("<f", -0.5), "cannot be read as NIfTI"),
        (
            88,
            struct.pack("<f", 3.0),
            "its sform gives a spacing of 0.5 x 1 x 2 mm and its pixdim 0.5 x 1 x 3",
        ),
        (OFFSET_OF_SHAPE + 6, struct.pack("<h", 7), "there are more"),
        (OFFSET_OF_DATATYPE, struct.pack("<h", 2), "there are more"),
    ],
)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_header_that_contradicts_itself_or_its_file_is_refused(
    tmp_path: Path, suffix: str, offset: int, content: bytes, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = _patch_header(_save(tmp_path / f"scan{suffix}", _voxels()), offset, content)
    assert reason in _refusal(path)
    assert capfd.readouterr() == ("", "")


def test_a_spacing_that_is_rounded_is_no_contradiction(tmp_path: Path) -> None:
    path = _patch_header(_save(tmp_path / "scan.nii", _voxels()), 88, struct.pack("<f", 1.9))
    assert read_scan(path).geometry.spacing == (2.0, 1.0, 0.5)


def test_a_header_that_does_not_say_where_left_is_is_noted(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(_voxels(), None)
    image.header.set_zooms((0.5, 1.0, 2.0))
    nibabel.save(image, tmp_path / "scan.nii")
    (note,) = read_scan(tmp_path / "scan.nii").origin.notes
    assert "does not say where left is" in note
    assert read_scan(_save(tmp_path / "known.nii", _voxels())).origin.notes == ()


def test_what_fits_into_memory_passes_and_what_does_not_is_named() -> None:
    check_memory("a: has", (100, 100, 100))
    with pytest.raises(DataError, match=r"a: has \(100000, 100000, 100000\) voxels, which need \d+"):
        check_memory("a: has", (100_000, 100_000, 100_000))


@pytest.mark.skipif(not FIXTURES.is_dir(), reason="nibabel was installed without its test data")
def test_the_odd_files_of_nibabels_own_tests_are_read_or_refused() -> None:
    read, refused = set(), {}
    for path in sorted(path for path in FIXTURES.rglob("*") if path.is_file()):
        try:
            scan = read_scan(path)
        except DataError as error:
            refused[path.name] = str(error)
            continue
        assert np.isfinite(scan.array).all()
        read.add(path.name)
    assert all(reason.startswith(name) for name, reason in refused.items())
    assert {"anatomical.nii", "standard.nii.gz"} <= read
    assert {"functional.nii", "example4d.nii.gz", "resampled_anat_moved.nii"} <= refused.keys()


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_label_map_is_written_in_the_geometry_of_its_scan(tmp_path: Path, suffix: str) -> None:
    angle = np.radians(20)
    affine = np.array(
        [
            [-0.8 * np.cos(angle), -1.5 * np.sin(angle), 0, 12.5],
            [0.8 * np.sin(angle), -1.5 * np.cos(angle), 0, -7.25],
            [0, 0, 2, 100],
            [0, 0, 0, 1],
        ]
    )
    labels = (_voxels() > 0).astype(np.uint8)
    geometry = Geometry((6, 7, 8), affine)
    write_labels(tmp_path / f"out{suffix}", labels, geometry)
    written = nibabel.load(tmp_path / f"out{suffix}")
    assert written.get_data_dtype() == np.uint8
    assert np.array_equal(np.asarray(written.dataobj), labels)
    np.testing.assert_allclose(written.get_sform(), affine, atol=1e-5)
    np.testing.assert_allclose(written.get_qform(), affine, atol=1e-4)
    assert read_geometry(tmp_path / f"out{suffix}").orientation == geometry.orientation == "LPS"


def test_a_compressed_label_map_tells_neither_when_nor_by_which_process_it_was_written(
    tmp_path: Path,
) -> None:
    write_labels(tmp_path / "out.nii.gz", np.ones((3, 4, 5), np.uint8), Geometry((3, 4, 5), np.eye(4)))
    header = (tmp_path / "out.nii.gz").read_bytes()[:10]
    has_name = 8
    assert not header[3] & has_name
    assert header[4:8] == bytes(4), "the time"


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_the_first_voxels_tell_whether_values_are_negative(tmp_path: Path, suffix: str) -> None:
    path = _save(tmp_path / f"scan{suffix}", np.abs(_voxels()))
    assert not starts_negative(path)
    assert starts_negative(_save(path, -np.abs(_voxels())))
