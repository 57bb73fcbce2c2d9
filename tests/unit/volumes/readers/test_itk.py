import gzip
import re
import time
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from pipeline.errors import DataError, HounsfieldError
from pipeline.volumes.readers import read_geometry, read_scan

SUFFIXES = (".mha", ".mhd", ".nrrd", ".nhdr")
ANGLE = np.radians(20)
DIRECTION = np.array(
    [[np.cos(ANGLE), -np.sin(ANGLE), 0], [np.sin(ANGLE), np.cos(ANGLE), 0], [0, 0, 1]], np.float64
)
SPACING, ORIGIN = (0.5, 1.0, 2.5), (10.0, -20.0, 30.0)


def _voxels(kind: Any = np.int16) -> NDArray[Any]:
    """(I, J, K)."""
    return np.random.default_rng(0).integers(0, 120, (6, 7, 8)).astype(kind)


def _image(array: NDArray[Any]) -> sitk.Image:
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    image.SetDirection(DIRECTION.ravel().tolist())
    return image


def _save(path: Path, array: NDArray[Any] | None = None, compressed: bool = False) -> Path:
    sitk.WriteImage(_image(_voxels() if array is None else array), str(path), compressed)
    return path


def _replace(path: Path, old: str, new: str) -> Path:
    """The same file with another line in its header."""
    changed, count = re.subn(old.encode(), new.encode(), path.read_bytes(), count=1)
    assert count == 1
    path.write_bytes(changed)
    return path


def _by_itk(path: Path) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Voxels (I, J, K) and affine (to RAS+) as ITK reads them; None if it does not."""
    sitk.ProcessObject.GlobalWarningDisplayOff()
    reader = sitk.ImageFileReader()
    reader.SetImageIO("MetaImageIO" if path.suffix in (".mha", ".mhd") else "NrrdImageIO")
    reader.SetFileName(str(path))
    try:
        image = reader.Execute()
    except RuntimeError:
        return None
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).T, np.diag([-1, -1, 1, 1]) @ affine


def _agrees(path: Path) -> None:
    scan, peer = read_scan(path), _by_itk(path)
    assert peer is not None
    assert np.array_equal(scan.array, peer[0].astype(np.float32))
    np.testing.assert_allclose(scan.geometry.affine, peer[1], atol=1e-5)


def _data(path: Path) -> Path:
    """The file that holds the voxels."""
    return next((other for other in path.parent.iterdir() if other != path), path)


def _refusal(path: Path) -> str:
    with pytest.raises(DataError) as refused:
        read_scan(path)
    message = str(refused.value)
    assert message.startswith(path.name)
    assert str(path.parent) not in message, "folders may name a person"
    assert refused.value.remedy
    return message


@pytest.fixture(autouse=True)
def silent(capfd: pytest.CaptureFixture[str]) -> Any:
    """ITK writes to the terminal by itself, which no test of this file may see."""
    yield
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int32, np.int64, np.float32, np.float64])
def test_voxels_are_read_as_they_were_written(
    tmp_path: Path, suffix: str, kind: type, compressed: bool
) -> None:
    path = _save(tmp_path / f"scan{suffix}", _voxels(kind), compressed)
    scan = read_scan(path)
    assert scan.array.dtype == np.float32
    assert np.array_equal(scan.array, _voxels())
    assert scan.array.flags.writeable
    assert scan.geometry.shape == (6, 7, 8)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_geometry_is_that_of_nifti(tmp_path: Path, suffix: str) -> None:
    """ITK writes both; nibabel reads the one, and this reader the other."""
    itk = read_geometry(_save(tmp_path / f"scan{suffix}"))
    nifti = nibabel.load(_save(tmp_path / "scan.nii"))
    np.testing.assert_allclose(itk.affine, nifti.affine, atol=1e-5)
    np.testing.assert_allclose(itk.affine[:3, 3], (-10, 20, 30))
    assert itk.orientation == "LPS"
    assert itk.spacing == pytest.approx(SPACING[::-1])
    assert np.array_equal(read_scan(tmp_path / f"scan{suffix}").geometry.affine, itk.affine)


META_TYPES = (
    *("CHAR", "UCHAR", "SHORT", "USHORT", "INT", "UINT", "LONG", "ULONG", "LONG_LONG", "ULONG_LONG"),
    *("FLOAT", "DOUBLE"),
)
NRRD_TYPES = {
    1: ("signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"),
    2: ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    -2: ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    4: ("int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32", "uint32_t", "float"),
    8: ("longlong", "long long", "long long int", "signed long long int", "int64", "int64_t"),
    -8: ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t", "double"),
}


def _bytes(n: int) -> bytes:
    """Of which any few make a number of ordinary size, in either order and of every type."""
    return bytes(np.random.default_rng(0).choice([0x3F, 0x40, 0xBF, 0xC0], n).astype(np.uint8))


@pytest.mark.parametrize("order", ["", "ElementByteOrderMSB = True\n", "BinaryDataByteOrderMSB = True\n"])
@pytest.mark.parametrize("kind", META_TYPES)
def test_every_type_of_metaimage_is_read_as_itk_reads_it(tmp_path: Path, kind: str, order: str) -> None:
    size = {"C": 1, "S": 2, "L": 8 if "LONG_LONG" in kind else 4, "D": 8}.get(kind.removeprefix("U")[0], 4)
    header = f"NDims = 3\n{order}DimSize = 2 3 4\nElementType = MET_{kind}\nElementSize = 1 2 3\n"
    (tmp_path / "scan.mhd").write_text(header + "ElementDataFile = scan.raw\n")
    (tmp_path / "scan.raw").write_bytes(_bytes(24 * size))
    _agrees(tmp_path / "scan.mhd")


@pytest.mark.parametrize("endian", ["little", "big"])
@pytest.mark.parametrize(
    ("size", "kind"), [(abs(n), kind) for n, kinds in NRRD_TYPES.items() for kind in kinds]
)
def test_every_type_of_nrrd_is_read_as_itk_reads_it(
    tmp_path: Path, size: int, kind: str, endian: str
) -> None:
    header = f"NRRD0004\ntype: {kind}\ndimension: 3\nsizes: 2 3 4\nendian: {endian}\nencoding: raw\n"
    (tmp_path / "scan.nhdr").write_text(header + "spacings: 1 2 3\ndata file: scan.raw\n")
    (tmp_path / "scan.raw").write_bytes(_bytes(24 * size))
    _agrees(tmp_path / "scan.nhdr")


@pytest.mark.parametrize(
    "line",
    [
        "ElementSpacing = 4 5 6\nElementSize = 1 2 3",
        "ElementSpacing = 1 2 3\nTransformMatrix = 0 1 0 -1 0 0 0 0 1\nPosition = 1 2 3",
        "ElementSpacing = 1 2 3\nRotation = 0 0 1 1 0 0 0 1 0\nOrigin = -4 5 6",
        "ElementSpacing = 1 2 3\nOrientation = 0.6 0.8 0 -0.8 0.6 0 0 0 1\nOffset = 1.5 -2e1 .5",
    ],
)
def test_the_axes_of_metaimage_are_those_of_itk(tmp_path: Path, line: str) -> None:
    header = f"NDims = 3\nDimSize = 2 3 4\n{line}\nElementType = MET_UCHAR\nElementDataFile = LOCAL\n"
    (tmp_path / "scan.mha").write_bytes(header.encode() + bytes(range(24)))
    _agrees(tmp_path / "scan.mha")


@pytest.mark.parametrize(
    "lines",
    [
        "space dimension: 3\nspace directions: (0,1,0) (0,0,2) (3,0,0)",
        "space: RAS\nspace directions: (0,1,0) (0,0,2) (3,0,0)\nkinds: space domain ???",
        "space: LAS\nspace directions: (.6,.8,0) (-0.8,0.6,0) (0,0,2)\nspace origin: (1,2,3)",
    ],
)
def test_the_axes_of_nrrd_are_those_of_itk(tmp_path: Path, lines: str) -> None:
    header = f"NRRD0005\ntype: uint8\ndimension: 3\nsizes: 2 3 4\nencoding: raw\n{lines}\n\n"
    (tmp_path / "scan.nrrd").write_bytes(header.encode() + bytes(range(24)))
    _agrees(tmp_path / "scan.nrrd")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        # A left that is taken for a right is worse than a file that is refused.
        ("space: .*", "spase: right-anterior-superior"),
        ("space: .*\n", ""),
        ("type: .*", "type: block"),
        ("type: .*", "type: shortint int"),
        ("endian: .*\n", ""),
        ("dimension: 3", "dimension: 4"),
        ("kinds: .*", "kinds: domain domain"),
        ("kinds: .*", "kinds: vector domain domain"),
        # Whose sign nobody knows.
        ("type: .*", "type: char"),
        ("space directions: .*", "space directions: (1,0,0) (0,1,0)"),
        ("space directions: .*", "space directions: (1,0) (0,1) (0,0)"),
        ("space origin: .*", "space origin: (1,2)"),
        ("space directions: .*", "spacings: 1 2"),
    ],
)
def test_nrrd_that_contradicts_itself_is_refused(tmp_path: Path, old: str, new: str) -> None:
    assert "cannot be read" in _refusal(_replace(_save(tmp_path / "scan.nhdr"), old, new))


def test_the_companions_may_be_given(tmp_path: Path) -> None:
    path = _save(tmp_path / "scan.mhd")
    assert np.array_equal(read_scan(path, _data(path)).array, _voxels())


def test_big_endian_numbers_are_read(tmp_path: Path) -> None:
    path = _replace(_save(tmp_path / "scan.mhd"), "MSB = False", "MSB = True")
    _data(path).write_bytes(_voxels().T.astype(">i2").tobytes())
    assert np.array_equal(read_scan(path).array, _voxels())


@pytest.mark.parametrize(
    ("space", "signs"),
    [
        ("left-posterior-superior", (-1, -1, 1)),
        ("LPS", (-1, -1, 1)),
        ("right-anterior-superior", (1, 1, 1)),
        ("RAS", (1, 1, 1)),
        ("left-anterior-superior", (-1, 1, 1)),
    ],
)
def test_the_spaces_of_nrrd_are_turned(tmp_path: Path, space: str, signs: tuple[int, ...]) -> None:
    path = _replace(_save(tmp_path / "scan.nhdr"), "space: .*", f"space: {space}")
    _replace(path, "space directions: .*", "space directions: (1,0,0) (0,2,0) (0,0,3)")
    geometry = read_geometry(path)
    np.testing.assert_allclose(geometry.affine[:3, :3], np.diag([1, 2, 3]) * signs, atol=1e-9)
    np.testing.assert_allclose(geometry.affine[:3, 3], np.array(ORIGIN) * signs)
    assert read_scan(path).origin.notes == ()


@pytest.mark.parametrize("space", ["scanner-xyz", "3D-left-handed", "right-anterior-superior-time"])
def test_a_space_without_left_and_right_is_refused(tmp_path: Path, space: str) -> None:
    path = _replace(_save(tmp_path / "scan.nrrd"), "left-posterior-superior", space)
    with pytest.raises(DataError, match=r"scan\.nrrd .*(does not say where left is|does not understand)"):
        read_geometry(path)


def test_a_header_without_a_space_is_taken_as_lps_and_says_so(tmp_path: Path) -> None:
    path = _replace(_save(tmp_path / "scan.nhdr"), "space: .*\n", "")
    _replace(path, "space directions: .*\n", "spacings: 1 2 3\n")
    _replace(path, "space origin: .*\n", "")
    scan = read_scan(path)
    assert scan.geometry.orientation == "LPS"
    assert scan.origin.notes == ("the header names no space: axes taken as left, posterior, superior",)


@pytest.mark.parametrize(
    ("suffix", "line"), [(".mhd", "DistanceUnits = um"), (".nhdr", 'space units: "um" "um" "um"')]
)
def test_other_units_than_millimetres_are_refused(tmp_path: Path, suffix: str, line: str) -> None:
    path = _save(tmp_path / f"scan{suffix}")
    last = path.read_text().splitlines()[-1]
    _replace(path, last, f"{line}\n{last}")
    assert "measured in um" in _refusal(path)
    _replace(path, "um.*", "mm" if suffix == ".mhd" else 'mm" "mm" "mm"')
    assert np.array_equal(read_scan(path).array, _voxels())


def test_slope_and_intercept_of_metaimage_are_applied(tmp_path: Path) -> None:
    path = _save(tmp_path / "scan.mha")
    lines = "ElementToIntensityFunctionSlope = 2\nElementToIntensityFunctionOffset = -1024\nElementType"
    _replace(path, "ElementType", lines)
    assert np.array_equal(read_scan(path).array, 2 * _voxels() - 1024.0)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_colour_and_vectors_are_refused(tmp_path: Path, suffix: str) -> None:
    image = sitk.GetImageFromArray(np.zeros((4, 5, 6, 3), np.uint8), isVector=True)
    sitk.WriteImage(image, str(tmp_path / f"scan{suffix}"))
    assert "3 numbers a voxel" in _refusal(tmp_path / f"scan{suffix}")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("shape", [(6, 7), (6, 7, 8, 2)])
def test_what_is_not_one_volume_is_refused(tmp_path: Path, suffix: str, shape: tuple[int, ...]) -> None:
    image = sitk.GetImageFromArray(np.zeros(shape, np.int16), isVector=False)
    sitk.WriteImage(image, str(tmp_path / f"scan{suffix}"))
    assert "has shape" in _refusal(tmp_path / f"scan{suffix}")


def test_a_fourth_axis_of_one_voxel_is_dropped(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(_voxels().T[None], isVector=False)
    sitk.WriteImage(image, str(tmp_path / "scan.mha"))
    assert np.array_equal(read_scan(tmp_path / "scan.mha").array, _voxels())


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_are_refused_and_counted(tmp_path: Path, suffix: str, value: float) -> None:
    array = _voxels(np.float32)
    array[0, 0, :3] = value
    assert "3 voxels are NaN or infinite" in _refusal(_save(tmp_path / f"scan{suffix}", array))


def test_numbers_beyond_float32_are_refused_without_a_warning(tmp_path: Path) -> None:
    assert "infinite" in _refusal(_save(tmp_path / "scan.nrrd", np.full((2, 2, 2), 1e300)))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_data_that_end_too_early_are_refused(
    tmp_path: Path, suffix: str, compressed: bool, share: float
) -> None:
    path = _save(tmp_path / f"scan{suffix}", compressed=compressed)
    data = _data(path)
    whole = data.read_bytes()
    header = 500 if data == path else 0
    data.write_bytes(whole[: header + int((len(whole) - header) * share)])
    assert "fetch it again" in _refusal(path)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_more_data_than_the_header_claims_are_refused(tmp_path: Path, suffix: str, compressed: bool) -> None:
    path = _save(tmp_path / f"scan{suffix}", compressed=compressed)
    _replace(path, "6 7 8", "6 7 7")
    assert "claims 588 bytes" in _refusal(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_compressed_data_with_one_wrong_bit_are_refused(tmp_path: Path, suffix: str) -> None:
    path = _save(tmp_path / f"scan{suffix}", compressed=True)
    data = _data(path)
    whole = data.read_bytes()
    generator = np.random.default_rng(0)
    start = len(whole) - 200
    # The last four bytes of gzip are the length, which zlib checks too.
    for place in generator.integers(start, len(whole), 20):
        wrong = bytearray(whole)
        wrong[place] ^= 1 << int(generator.integers(8))
        data.write_bytes(bytes(wrong))
        assert "is damaged" in _refusal(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("read", [read_scan, read_geometry])
def test_a_header_that_claims_too_much_is_refused_at_once(tmp_path: Path, suffix: str, read: Any) -> None:
    path = _replace(_save(tmp_path / f"scan{suffix}"), "6 7 8", "30000 30000 30000")
    tracemalloc.start()
    start = time.process_time()
    with pytest.raises(HounsfieldError, match=r"scan\S* its header claims \(30000, 30000, 30000\) voxels"):
        read(path)
    assert time.process_time() - start < 1
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_a_stream_that_unpacks_to_much_more_is_not_unpacked_to_its_end(tmp_path: Path) -> None:
    path = _save(tmp_path / "scan.nhdr", compressed=True)
    _data(path).write_bytes(gzip.compress(bytes(300_000_000), compresslevel=1))
    tracemalloc.start()
    assert "its data are more" in _refusal(path)
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("size", ["", "CompressedDataSize = 0\n", "CompressedDataSize = 12\n"])
def test_metaimage_that_misstates_its_compressed_size_is_refused(tmp_path: Path, size: str) -> None:
    path = _save(tmp_path / "scan.mha", compressed=True)
    assert "is damaged" in _refusal(_replace(path, "CompressedDataSize = .*\n", size))


@pytest.mark.parametrize(("line", "suffix"), [("HeaderSize = {}", ".mhd"), ("byte skip: {}", ".nhdr")])
@pytest.mark.parametrize("skip", [100, -1])
def test_bytes_before_the_voxels_are_skipped(tmp_path: Path, line: str, suffix: str, skip: int) -> None:
    path = _save(tmp_path / f"scan{suffix}")
    last = path.read_text().splitlines()[-1]
    _replace(path, last, f"{line.format(skip)}\n{last}")
    _data(path).write_bytes(bytes(range(100)) + _data(path).read_bytes())
    assert np.array_equal(read_scan(path).array, _voxels())
    _data(path).write_bytes(_data(path).read_bytes()[150:])
    _refusal(path)


@pytest.mark.parametrize(
    ("suffix", "old", "new"),
    [
        (".mhd", "BinaryData = True", "BinaryData = False"),
        (".nhdr", "encoding: raw", "encoding: ascii"),
        (".nhdr", "encoding: raw", "encoding: hex"),
        (".nhdr", "encoding: raw", "encoding: bzip2"),
        (".nhdr", "encoding: raw", "line skip: 2\nencoding: raw"),
    ],
)
def test_text_and_rare_packings_are_refused(tmp_path: Path, suffix: str, old: str, new: str) -> None:
    assert "packing that is not read" in _refusal(_replace(_save(tmp_path / f"scan{suffix}"), old, new))


@pytest.mark.parametrize(
    "header",
    [
        "ElementDataFile = ../secret.raw\n",
        "ElementDataFile = /{folder}/secret.raw\n",
        "ElementDataFile : ../secret.raw\n",
        "Comment = x\rElementDataFile = ../secret.raw\nElementDataFile = scan.raw\n",
        "Comment =\nElementDataFile = ../secret.raw\nElementDataFile = scan.raw\n",
        "Element DataFile = scan.raw\nElementDataFile = ../secret.raw\n",
        "ElementSpacing = 1 1\nElementDataFile = scan.raw\nElementDataFile = ../secret.raw\n",
        "HeaderSize =\nElementDataFile = scan.raw\nElementDataFile = ../secret.raw\n",
        "ElementDataFile = LIST\n../secret.raw\n",
        "ElementDataFile = ../secret%d.raw 1 1 1\n",
    ],
)
def test_metaimage_does_not_lead_out_of_its_folder(tmp_path: Path, header: str) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    for name in ("secret.raw", "secret1.raw", "inside/scan.raw"):
        (tmp_path / name).write_bytes(bytes(48))
    text = "NDims = 3\nDimSize = 2 3 4\nElementType = MET_SHORT\n" + header.format(folder=tmp_path)
    (folder / "scan.mhd").write_text(text, newline="")
    assert "secret" not in _refusal(folder / "scan.mhd")
    with pytest.raises(DataError):
        read_geometry(folder / "scan.mhd")


@pytest.mark.parametrize(
    "header",
    [
        "data file: ../secret.raw\n",
        "DataFile: ../secret.raw\n",
        "data file: /{folder}/secret.raw\n",
        "data file: scan.raw\ndatafile: ../secret.raw\n",
        "# x\rdata file: ../secret.raw\ndata file: scan.raw\n",
        "data file: LIST\n../secret.raw\n",
        "data file: ../secret%d.raw 1 1 1\n",
    ],
)
@pytest.mark.parametrize("suffix", [".nhdr", ".nrrd"])
def test_nrrd_does_not_lead_out_of_its_folder(tmp_path: Path, header: str, suffix: str) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    for name in ("secret.raw", "secret1.raw", "inside/scan.raw"):
        (tmp_path / name).write_bytes(bytes(48))
    text = "NRRD0004\ntype: short\ndimension: 3\nsizes: 2 3 4\nendian: little\nencoding: raw\n"
    (folder / f"scan{suffix}").write_text(text + header.format(folder=tmp_path), newline="")
    assert "secret" not in _refusal(folder / f"scan{suffix}")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("content", [b"", b"something", bytes(1000), b"\xff" * 400_000, b"a = b\n" * 60_000])
def test_garbage_is_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"scan{suffix}"
    path.write_bytes(content)
    assert "cannot be read" in _refusal(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_missing_file_is_refused(tmp_path: Path, suffix: str) -> None:
    assert "cannot be read" in _refusal(tmp_path / f"scan{suffix}")


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
def test_missing_data_are_refused_by_name(tmp_path: Path, suffix: str) -> None:
    path = _save(tmp_path / f"scan{suffix}")
    _data(path).unlink()
    assert "data file scan.raw is not there" in _refusal(path)


@pytest.mark.parametrize(
    ("suffix", "old", "new"),
    [
        (".mhd", "ElementSpacing = .*", "ElementSpacing = 1 1 0"),
        (".mhd", "ElementSpacing = .*", "ElementSpacing = 1 1 5000"),
        (".mhd", "ElementSpacing = .*", "ElementSpacing = 1 1 nan"),
        (".mhd", "TransformMatrix = .*", "TransformMatrix = 0 0 0 0 0 0 0 0 0"),
        (".mhd", "ElementSpacing = .*", "ElementSpacinf = 1 1 1"),
        (".mhd", "TransformMatrix = .*", "TransformMatrix = 1e308 0 0 0 1 0 0 0 1"),
        (".mhd", "ElementType = .*", "ElementType = MET_NONSENSE"),
        (".nhdr", "space directions: .*", "space directionz: (1,0,0) (0,1,0) (0,0,1)"),
        (".nhdr", "space directions: .*", "space directions: (-1e308,0,0) (0,1,0) (0,0,1)"),
        (".nhdr", "space directions: .*", "space directions: (0/9,0,0) (0,1,0) (0,0,1)"),
        (".nhdr", "space origin: .*", "space origin: (1,2,3!4)"),
        (".mhd", "DimSize = .*", "DimSize = 6 -7 8"),
        (".mhd", "DimSize = .*", "DimSize = 6 0 8"),
        (".nhdr", "space directions: .*", "space directions: (0,0,0) (0,1,0) (0,0,1)"),
        (".nhdr", "space directions: .*", "space directions: (nan,0,0) (0,1,0) (0,0,1)"),
        (".nhdr", "space directions: .*", "space directions: (1,0,0) (1,0,0) (0,0,1)"),
        (".nhdr", "sizes: .*", "sizes: 6 0 8"),
    ],
)
def test_a_header_without_a_usable_grid_is_refused(tmp_path: Path, suffix: str, old: str, new: str) -> None:
    path = _replace(_save(tmp_path / f"scan{suffix}"), old, new)
    with pytest.raises(HounsfieldError, match=r"^scan"):
        read_geometry(path)


def test_metaimage_without_an_orientation_is_taken_as_lps_and_says_so(tmp_path: Path) -> None:
    path = _replace(_save(tmp_path / "scan.mha"), "TransformMatrix = .*\n", "")
    assert "names no orientation" in read_scan(path).origin.notes[0]


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_header_with_any_bytes_is_read_or_refused(tmp_path: Path, suffix: str, compressed: bool) -> None:
    path = _save(tmp_path / f"scan{suffix}", compressed=compressed)
    whole = path.read_bytes()
    end = min(len(whole), 420)
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(100):
        wrong = bytearray(whole)
        place = int(generator.integers(end))
        if generator.random() < 0.5:
            wrong[place] = int(generator.integers(32, 127))
        else:
            del wrong[place : place + int(generator.integers(1, 8))]
        path.write_bytes(bytes(wrong))
        try:
            scan = read_scan(path)
        except HounsfieldError:
            refused += 1
            continue
        assert np.isfinite(scan.array).all()
        assert min(scan.geometry.spacing) > 0
        peer = _by_itk(path)
        if peer is not None:
            assert np.array_equal(scan.array, peer[0])
            np.testing.assert_allclose(scan.geometry.affine, peer[1], atol=1e-4)
    assert 0 < refused < 100


def test_zlib_tells_of_a_truncated_stream() -> None:
    """What the reader relies on, also at a block's very end."""
    packed = zlib.compress(bytes(1 << 20))
    unpacking = zlib.decompressobj(47)
    assert len(unpacking.decompress(packed[:-1], 1 << 20)) == 1 << 20
    assert not unpacking.eof
