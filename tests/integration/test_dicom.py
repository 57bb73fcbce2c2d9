"""Real DICOM: what is read is what SimpleITK reads, what is refused has its own reason."""

import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813

from pipeline.errors import DataError
from pipeline.volumes.identity import pseudonym
from pipeline.volumes.layouts.dicom import find
from pipeline.volumes.readers import read_geometry, read_scan
from pipeline.volumes.readers.dicom_pixels import stored_values

SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"
ALONE: set[str] = set()
"""Of pydicom's own files, those that are a volume by themselves: none, all are single slices or no images."""
TOGETHER = [("98892001", "CT5N")]
APART = [
    ("77654033", "CT2", "slices are missing"),
    ("98892003", "MR700", "7 orientations"),
    ("98892003", "MR1", "belong to 3 series"),
    ("98892003", "MR2", "belong to 3 series"),
]
GENERIC = [
    *("anatomical/001", "anatomical/001_implicit", "anatomical/002_non_isotropic", "compressed/001"),
    *("compressed_j2k/001", "compressed_jpeg/001", "compressed_jpegls/001", "compressed_rle/001", "rgb/001"),
]
FAILING = {
    "gantrytilting/001": "tilted by 14.0 degrees",
    "notavolume/001": "all 4 slices lie at one position",
    "slicecount/001": "2 slices, a volume has at least 3",
    "sliceincrement/001": "1 slice is missing between 28.1 and 38.1 mm along their normal",
    "sliceincrement/002": "1 slice is missing between",
    "sliceorientation/001": "its slices have 2 orientations",
}


@pytest.fixture(autouse=True)
def own_salt(monkeypatch, tmp_path):
    monkeypatch.setenv("HOUNSFIELD_SALT", "of these tests")
    monkeypatch.chdir(tmp_path)
    sitk.ProcessObject_SetGlobalWarningDisplay(False)


def by_simpleitk(folder):
    """Voxels (I, J, K), and the affine in RAS."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    reader.SetOutputPixelType(sitk.sitkFloat32)
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0), np.diag([-1, -1, 1, 1]) @ affine


def assert_as_simpleitk(folder, paths):
    scan = read_scan(*paths)
    voxels, affine = by_simpleitk(folder)
    assert np.array_equal(scan.array, voxels)
    assert np.allclose(scan.geometry.affine, affine, rtol=0, atol=1e-5)
    assert read_geometry(*paths).shape == scan.geometry.shape
    return scan


@pytest.mark.parametrize("name", GENERIC)
def test_generic_series_are_read_as_simpleitk_reads_them(real_data, name):
    folder = real_data / "odd_dicom" / "generic" / name
    scan = assert_as_simpleitk(folder, sorted(folder.iterdir()))
    assert scan.origin.modality == "MR"
    # A segmentation of the white matter is drawn into this one, in red.
    assert bool(scan.origin.notes) == (name == "rgb/001")


def test_no_channel_of_the_colour_series_is_the_image(real_data):
    """The red was blended in: where it covers most, the other channels are darkest, though white
    matter is the brighter tissue. So nothing but the luminance, with a note, can be given."""
    folder = real_data / "odd_dicom" / "generic" / "rgb" / "001"
    pixels = np.stack([pydicom.dcmread(path).pixel_array for path in sorted(folder.iterdir())]).astype(int)
    red, green, blue = np.moveaxis(pixels, -1, 0)
    assert np.array_equal(green, blue)
    tint = red - green
    assert 0.18 < (tint > 0).mean() < 0.2
    assert green[tint >= 95].mean() < green[(tint > 0) & (tint < 40)].mean() - 10


@pytest.mark.parametrize(("name", "reason"), FAILING.items())
def test_failing_series_are_refused_with_their_own_reason(real_data, name, reason):
    paths = sorted((real_data / "odd_dicom" / "failing" / name).glob("*.dcm"))
    with pytest.raises(DataError) as caught:
        read_scan(*paths)
    assert caught.value.reason.startswith(paths[0].name)
    assert reason in caught.value.reason
    assert caught.value.remedy


def test_every_sarcoma_is_found_and_read_as_simpleitk_reads_it(real_data):
    source = real_data / "sarcoma_dicom"
    layout = find(source)
    assert (len(layout.cases), layout.modality) == (12, "CT")
    for case in layout.cases:
        assert len(case.masks) == 1
        folder = case.images[0][0].parent
        patient = folder.parts[0]
        # The folders are called after the patients.
        assert case.case == case.patient == pseudonym(patient)
        assert case.masks[0].paths[0].parts[0] == patient
        scan = assert_as_simpleitk(source / folder, [source / path for path in case.images[0]])
        assert scan.origin.scanner == "GE MEDICAL SYSTEMS Discovery ST"
        assert patient not in repr((scan.origin, case.case, case.patient))


def shipped():
    return sorted(path for path in SHIPPED.rglob("*") if path.is_file())


@pytest.mark.parametrize("path", shipped(), ids=lambda path: str(path.relative_to(SHIPPED)))
def test_every_file_that_pydicom_ships_is_read_or_refused(path):
    if str(path.relative_to(SHIPPED)) in ALONE:
        assert_as_simpleitk(path.parent, [path])
        return
    with pytest.raises(DataError) as caught:
        read_scan(path)
    # The patient of this one is called Test.
    assert caught.value.reason.startswith("a DICOM file" if path.name == "test-SR.dcm" else path.name)
    assert caught.value.remedy


@pytest.mark.parametrize(("patient", "name"), TOGETHER)
def test_series_that_pydicom_ships_are_read_as_simpleitk_reads_them(patient, name):
    folder = SHIPPED / "dicomdirtests" / patient / name
    assert_as_simpleitk(folder, sorted(folder.iterdir()))


@pytest.mark.parametrize(("patient", "name", "reason"), APART)
def test_files_that_pydicom_ships_and_are_no_volume_are_refused(patient, name, reason):
    with pytest.raises(DataError, match=reason):
        read_scan(*sorted((SHIPPED / "dicomdirtests" / patient / name).iterdir()))


GREY = {
    *("693_J2KI.dcm", "CT_small.dcm", "J2K_pixelrep_mismatch.dcm", "JPEG-lossy.dcm", "JPEG2000.dcm"),
    *("JPEGLSNearLossless_08.dcm", "JPEGLSNearLossless_16.dcm", "JPGExtended.dcm", "MR_small.dcm"),
    *("MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_expb.dcm", "MR_small_implicit.dcm"),
    *("MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_padded.dcm"),
    *("examples_overlay.dcm", "image_dfl.dcm"),
}


@pytest.mark.parametrize("name", sorted(GREY))
def test_grey_pixels_are_decoded_as_simpleitk_decodes_them(name):
    path = SHIPPED / name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = pydicom.dcmread(path, stop_before_pixels=True)
    slope, intercept = float(header.get("RescaleSlope", 1)), float(header.get("RescaleIntercept", 0))
    stored = stored_values(path, name).astype(np.float64)
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    assert np.array_equal(stored * slope + intercept, expected)
