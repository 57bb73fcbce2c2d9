"""Sound series of DICOM: their voxels, where they lie, and what is told of them."""

import numpy as np
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from pipeline.errors import DataError
from pipeline.volumes.readers import read_geometry, read_scan

TWELVE_BITS = {"BitsStored": 12, "HighBit": 11}


def test_voxels_are_columns_rows_and_slices_in_hu(tmp_path, dicom):
    scan = read_scan(*dicom.write_series(tmp_path))
    assert scan.array.dtype == np.float32
    assert scan.array.shape == scan.geometry.shape == (20, 24, 4)
    assert np.array_equal(scan.array, dicom.expected())


def test_the_affine_leads_to_the_right_and_to_the_front(tmp_path, dicom):
    geometry = read_scan(*dicom.write_series(tmp_path)).geometry
    assert np.allclose(geometry.affine, [[-1.5, 0, 0, -10], [0, -2, 0, -20], [0, 0, 3, 30], [0, 0, 0, 1]])
    assert geometry.orientation == "LPS"
    assert geometry.spacing == (3.0, 2.0, 1.5)


def test_headers_alone_give_the_same_geometry(tmp_path, dicom):
    paths = dicom.write_series(tmp_path)
    geometry, scan = read_geometry(*paths), read_scan(*paths)
    assert geometry.shape == scan.geometry.shape
    assert np.array_equal(geometry.affine, scan.geometry.affine)


def test_slices_are_ordered_by_place_not_by_name(tmp_path, dicom):
    paths = dicom.write_series(tmp_path, each=lambda k: {"InstanceNumber": 9 - k})
    assert np.array_equal(read_scan(*[paths[k] for k in (2, 0, 3, 1)]).array, dicom.expected())


def test_an_oblique_series_lies_where_its_header_says(tmp_path, dicom):
    turn = np.deg2rad(30)
    across = np.array([np.cos(turn), np.sin(turn), 0])
    down = np.array([0.0, 0, -1])
    normal = np.cross(across, down)
    scan = read_scan(
        *dicom.write_series(
            tmp_path,
            each=lambda k: {"ImagePositionPatient": list(np.round([5, 6, 7] + 3 * k * normal, 10))},
            ImageOrientationPatient=[round(float(number), 12) for number in (*across, *down)],
        )
    )
    i, j, k = 4, 3, 2
    lps = np.array([5, 6, 7]) + 1.5 * i * across + 2 * j * down + 3 * k * normal
    assert np.allclose((scan.geometry.affine @ [i, j, k, 1])[:3], lps * [-1, -1, 1])


@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
    ],
)
def test_every_plain_encoding_is_read(tmp_path, dicom, syntax):
    assert np.array_equal(read_scan(*dicom.write_series(tmp_path, syntax=syntax)).array, dicom.expected())


@pytest.mark.parametrize(
    "syntax", ["RLELossless", "JPEGLSLossless", "JPEG2000Lossless", "JPEGLosslessProcess14_1"]
)
def test_every_lossless_compression_gives_the_numbers_back(tmp_path, dicom, syntax):
    paths = [dicom.compressed(path, syntax) for path in dicom.write_series(tmp_path)]
    assert np.array_equal(read_scan(*paths).array, dicom.expected())


@pytest.mark.parametrize(
    "syntax", ["RLELossless", "JPEGLSLossless", "JPEG2000Lossless", "JPEGLosslessProcess14_1"]
)
def test_signed_numbers_of_twelve_bits_survive_compression(tmp_path, dicom, syntax):
    paths = [dicom.compressed(path, syntax) for path in dicom.write_series(tmp_path, **TWELVE_BITS)]
    assert np.array_equal(read_scan(*paths).array, dicom.expected())


@pytest.mark.parametrize(
    ("syntax", "dtype", "bits"),
    [("JPEGBaselineProcess1", np.uint8, {}), ("JPEGExtendedProcess2_4", np.uint16, TWELVE_BITS)],
)
def test_lossy_jpeg_comes_close(tmp_path, dicom, syntax, dtype, bits):
    flat = [np.full((16, 16), 50 + 40 * k, dtype) for k in range(3)]
    paths = dicom.write_series(tmp_path, 3, lambda k: {"pixels": flat[k]}, RescaleIntercept=0, **bits)
    scan = read_scan(*[dicom.compressed(path, syntax) for path in paths])
    assert np.allclose(scan.array, np.stack(flat, axis=-1), atol=2)


def test_bits_beyond_those_stored_are_ignored(tmp_path, dicom):
    stored = [((dicom.pixels_of(k).astype(np.int32) & 0x0FFF) | 0x5000).astype(np.uint16) for k in range(4)]
    paths = dicom.write_series(
        tmp_path, each=lambda k: {"pixels": stored[k]}, PixelRepresentation=1, **TWELVE_BITS
    )
    assert np.array_equal(read_scan(*paths).array, dicom.expected())


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.uint32])
def test_every_width_of_numbers_is_read(tmp_path, dicom, dtype):
    values = np.array([[0, 1], [100, 255]], dtype)
    paths = dicom.write_series(tmp_path, pixels=values, RescaleIntercept=None, RescaleSlope=None)
    assert np.array_equal(read_scan(*paths).array[:, :, 2], values.T)


def test_each_slice_has_its_own_scale(tmp_path, dicom):
    paths = dicom.write_series(tmp_path, each=lambda k: {"RescaleSlope": 0.5 + k, "RescaleIntercept": -k})
    array = read_scan(*paths).array
    for k in range(4):
        assert np.allclose(array[:, :, k], dicom.pixels_of(k).T * (0.5 + k) - k)


def test_a_ct_without_a_scale_is_noted_and_an_mr_is_not(tmp_path, dicom):
    bare = {"RescaleSlope": None, "RescaleIntercept": None}
    ct = read_scan(*dicom.write_series(tmp_path / "ct", **bare))
    mr = read_scan(*dicom.write_series(tmp_path / "mr", SOPClassUID=MRImageStorage, Modality="MR", **bare))
    assert np.array_equal(ct.array, dicom.expected(intercept=0))
    assert "without a rescale slope" in ct.origin.notes[0]
    assert (mr.origin.modality, mr.origin.notes) == ("MR", ())


def test_an_inverted_display_does_not_change_the_values(tmp_path, dicom):
    scan = read_scan(*dicom.write_series(tmp_path, PhotometricInterpretation="MONOCHROME1"))
    assert np.array_equal(scan.array, dicom.expected())
    assert "MONOCHROME1" in scan.origin.notes[0]


def test_the_origin_names_modality_and_kind_of_scanner(tmp_path, dicom):
    origin = read_scan(*dicom.write_series(tmp_path)).origin
    assert (origin.modality, origin.scanner, origin.padding, origin.notes) == (
        "CT",
        "ACME Scan 3000",
        None,
        (),
    )


def test_the_padding_is_scaled_like_the_voxels(tmp_path, dicom):
    paths = dicom.write_series(tmp_path, PixelPaddingValue=-40, RescaleSlope=2.0)
    scan = read_scan(*paths)
    assert scan.origin.padding == scan.array[0, 0, 0] == -1080
    assert np.array_equal(scan.array, dicom.expected(slope=2))


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_padding_with_the_wrong_sign_is_the_same_bits(tmp_path, dicom, syntax):
    def each(k):
        return {"PixelPaddingValue": -40}

    paths = dicom.write_series(tmp_path, each=each, syntax=syntax)
    assert read_scan(*paths).origin.padding == -1040
    unsigned = dicom.dataset_of()
    unsigned.add_new("PixelPaddingValue", "US", 65496)
    dicom.save(unsigned, paths[0])
    assert read_scan(*paths).origin.padding == -1040


def test_a_range_of_padding_becomes_one_value_and_a_note(tmp_path, dicom):
    scan = read_scan(*dicom.write_series(tmp_path, PixelPaddingValue=-40, PixelPaddingRangeLimit=-36))
    assert scan.origin.padding == -1040
    assert (scan.array[:5, 0, 0] == -1040).all()
    assert np.array_equal(scan.array[5:], dicom.expected()[5:])
    assert scan.origin.notes == ("4 voxels in the range of the padding were set to one value",)


def test_an_enhanced_object_is_a_volume_in_one_file(tmp_path, dicom):
    order = [2, 0, 3, 1]
    scan = read_scan(dicom.save(dicom.enhanced(order=order), tmp_path / "e.dcm"))
    assert np.allclose(np.diag(scan.geometry.affine), [-1.5, -2, 3, 1])
    for k in range(4):
        assert np.array_equal(scan.array[:, :, k], dicom.pixels_of(k).T * (k + 1.0) - k)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_an_enhanced_object_may_be_compressed(tmp_path, dicom, syntax):
    dataset = dicom.enhanced()
    dataset.compress(syntax)
    scan = read_scan(dicom.save(dataset, tmp_path / "e.dcm"))
    assert np.array_equal(scan.array[:, :, 3], dicom.pixels_of(3).T * 4.0 - 3)


def test_slices_that_are_there_twice_are_dropped_with_a_note(tmp_path, dicom):
    paths = dicom.write_series(tmp_path)
    copies = [dicom.save(dicom.dataset_of(k), tmp_path / f"copy{k}.dcm") for k in (1, 2)]
    scan = read_scan(*copies, *paths)
    assert np.array_equal(scan.array, dicom.expected())
    assert "2 slices were there twice" in scan.origin.notes[0]
    assert read_geometry(*copies, *paths).shape == (20, 24, 4)


def test_positions_rounded_to_a_tenth_are_even(tmp_path, dicom):
    paths = dicom.write_series(tmp_path, 9, lambda k: {"ImagePositionPatient": [10, 20, round(0.625 * k, 1)]})
    assert read_scan(*paths).geometry.spacing[0] == pytest.approx(0.625)


def test_a_file_without_preamble_is_read(tmp_path, dicom):
    paths = [dicom.save_without_preamble(dicom.dataset_of(k), tmp_path / f"{k}.dcm") for k in range(4)]
    assert np.array_equal(read_scan(*paths).array, dicom.expected())


def colours(k, tint):
    grey = np.arange(30, dtype=np.uint8).reshape(6, 5) + 50 * k
    image = np.repeat(grey[..., None], 3, axis=-1)
    image[0, 0, 0] += tint
    return image


def write_colours(dicom, folder, tint, **elements):
    return dicom.write_series(
        folder,
        each=lambda k: {"pixels": colours(k, tint)},
        **(
            {
                "SOPClassUID": SecondaryCaptureImageStorage,
                "Modality": "MR",
                "SamplesPerPixel": 3,
                "PlanarConfiguration": 0,
                "PhotometricInterpretation": "RGB",
                "RescaleSlope": None,
                "RescaleIntercept": None,
            }
            | elements
        ),
    )


def test_grey_that_is_stored_as_colour_is_grey(tmp_path, dicom):
    scan = read_scan(*write_colours(dicom, tmp_path, tint=0))
    assert np.array_equal(scan.array[:, :, 2], colours(2, 0)[..., 0].T)
    assert "grey stored as colour" in scan.origin.notes[0]


def test_colour_is_read_as_luminance_and_its_share_is_noted(tmp_path, dicom):
    scan = read_scan(*write_colours(dicom, tmp_path, tint=80))
    assert scan.array[0, 0, 1] == pytest.approx(50 + 80 * 0.2125)
    assert np.array_equal(scan.array[1:, :, 1], colours(1, 0)[..., 0].T[1:])
    assert "3.3% of its voxels are coloured" in scan.origin.notes[0]


def test_a_ct_in_colour_is_refused(tmp_path, dicom):
    paths = write_colours(dicom, tmp_path, 80, SOPClassUID="1.2.840.10008.5.1.4.1.1.2")
    with pytest.raises(DataError, match=r"^slice0\.dcm has 3 samples a pixel .* RGB, which is no grey image"):
        read_scan(*paths)
