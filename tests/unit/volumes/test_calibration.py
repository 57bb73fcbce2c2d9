from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.volumes import calibration
from pipeline.volumes.calibration import (
    AIR_HU,
    SOFT_TISSUE,
    Offset,
    calibrate_ct,
    calibrate_mr,
    find_offset,
    soft_tissue_peak,
)

Floats = NDArray[np.float32]
NONE = Offset()
UNSIGNED = Offset(-1000.0, "unsigned")


def _ct() -> Floats:
    """Air on one side, a body of soft tissue and bone on the other."""
    image = np.full((8, 9, 10), AIR_HU, np.float32)
    image[:, :, 5:] = np.random.default_rng(0).normal(40, 15, (8, 9, 5))
    image[0, 0, 9] = 1500
    return image


def _head() -> Floats:
    """A head as it is stored without a sign: air at 0, soft tissue at 1040, bone above."""
    generator = np.random.default_rng(0)
    image = np.zeros((30, 40, 40), np.float32)
    image[:, 8:34, 6:36] = np.round(generator.normal(1040, 12, (30, 26, 30)))
    image[:, 10:14, 8:34] = np.round(generator.normal(930, 15, (30, 4, 26)))
    image[:, 16:20, 12:30] = np.round(generator.normal(1900, 250, (30, 4, 18)))
    return image


def _refusal(image: NDArray[Any], offset: Offset = NONE) -> DataError:
    with pytest.raises(DataError) as refused:
        calibrate_ct("case_7", image.astype(np.float32), offset)
    assert str(refused.value).startswith("case_7")
    return refused.value


def test_a_ct_in_hu_stays_as_it_is() -> None:
    image, notes = calibrate_ct("case_7", _ct(), NONE)
    assert np.array_equal(image, _ct())
    assert notes == []


def test_padding_becomes_air_and_is_noted() -> None:
    image = _ct()
    image[:4, :, 0] = -3024
    calibrated, notes = calibrate_ct("case_7", image, NONE)
    assert calibrated.min() == AIR_HU
    assert np.array_equal(calibrated[image > -1100], image[image > -1100])
    assert notes == ["5.0% of voxels were padding, set to air"]
    assert (image[:4, :, 0] == -3024).all(), "what was handed in is not changed"


def test_values_of_metal_are_kept() -> None:
    image = _ct()
    image[1, 1, 9] = 20000
    assert calibrate_ct("case_7", image, NONE)[0].max() == 20000


def test_a_shifted_ct_is_refused_with_the_parameter_that_mends_it() -> None:
    error = _refusal(_ct() + 1024)
    assert "lowest value is 24" in error.reason
    assert "ingest.hu_offset" in error.remedy


def test_the_offset_brings_a_shifted_ct_back_and_is_noted() -> None:
    image, notes = calibrate_ct("case_7", _ct() + 1024, Offset(-1024.0))
    np.testing.assert_allclose(image, _ct(), atol=1e-3)
    assert image.dtype == np.float32
    assert notes == ["HU offset -1024 added"]


def test_offset_and_padding_are_both_noted() -> None:
    image = _ct() + 1024
    image[0, 0, 0] = -2000
    notes = calibrate_ct("case_7", image, Offset(-1024.0))[1]
    assert notes == ["HU offset -1024 added", "0.1% of voxels were padding, set to air"]


def test_a_windowed_image_of_8_bits_is_refused() -> None:
    assert "8-bit" in _refusal(np.linspace(0, 255, 1000).reshape(10, 10, 10)).reason


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (-4.0, 9.0), (-1000.0, -1000.0), (0.0, 0.0)]
)
def test_a_scaled_or_empty_image_is_refused(low: float, high: float) -> None:
    assert "scaled" in _refusal(np.linspace(low, high, 1000).reshape(10, 10, 10)).reason


def test_values_beyond_hu_are_refused() -> None:
    image = _ct()
    image[0, 0, 0] = 65535
    assert "rescale slope" in _refusal(image).remedy


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1.7e6, 3e5), (1e-9, 0.0), (0.01, -5.0)])
def test_mr_intensities_mean_the_same_whatever_their_scale(scale: float, shift: float) -> None:
    values = np.random.default_rng(0).gamma(2.0, 1.0, (20, 20, 20)).astype(np.float32)
    image, notes = calibrate_mr("case_7", (values * scale + shift).astype(np.float32))
    assert image.dtype == np.float32
    assert abs(float(image.mean())) < 1e-3
    assert float(image.std()) == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(image, calibrate_mr("case_7", values)[0], atol=1e-2)
    assert notes == []


def test_one_bright_artefact_does_not_set_the_scale_of_an_mr() -> None:
    values = np.random.default_rng(0).normal(100, 10, (20, 20, 20)).astype(np.float32)
    marred = values.copy()
    marred[0, 0, 0] = 1e6
    difference = calibrate_mr("case_7", marred)[0] - calibrate_mr("case_7", values)[0]
    assert np.abs(difference[1:]).max() < 0.01


@pytest.mark.parametrize("value", [0.0, 1.0, -3.5, 1e6])
def test_a_constant_mr_is_refused(value: float) -> None:
    for scale in ("zscore", "percentiles"):
        with pytest.raises(DataError, match=r"case_7: all voxels are about"):
            calibrate_mr("case_7", np.full((5, 5, 5), value, np.float32), scale)


def test_an_mr_can_be_scaled_by_its_percentiles() -> None:
    values = np.random.default_rng(0).gamma(2.0, 1.0, (20, 20, 20)).astype(np.float32)
    image, notes = calibrate_mr("case_7", values * 700 + 3, "percentiles")
    low, high = np.percentile(values, (0.5, 99.5))
    expected = np.clip((values - low) / (high - low) * 2 - 1, -1, 1)
    np.testing.assert_allclose(image, expected, atol=1e-4)
    assert (image.min(), image.max()) == (-1, 1)
    assert image.dtype == np.float32
    assert notes == []


def test_the_padding_value_that_the_header_names_becomes_air() -> None:
    image = _ct()
    image[:2, :3] = -512
    calibrated, notes = calibrate_ct("case_7", image, NONE, padding=-512.0)
    assert (calibrated[:2, :3] == AIR_HU).all()
    assert np.array_equal(calibrated[2:], image[2:])
    assert notes == ["8.3% of voxels were padding, set to air"]
    assert (image[:2, :3] == -512).all(), "what was handed in is not changed"


def test_the_padding_value_is_looked_for_before_the_offset_is_added() -> None:
    image = _ct() + 1024
    image[:2, :3] = 63
    calibrated, notes = calibrate_ct("case_7", image, Offset(-1024.0), padding=63.0)
    assert (calibrated[:2, :3] == AIR_HU).all()
    np.testing.assert_allclose(calibrated[2:], _ct()[2:], atol=1e-3)
    assert notes == ["HU offset -1024 added", "8.3% of voxels were padding, set to air"]


def test_water_is_no_padding_where_the_header_names_0() -> None:
    image = _ct()
    image[:, :, 7] = 0
    calibrated, notes = calibrate_ct("case_7", image, NONE, padding=0.0)
    assert np.array_equal(calibrated, image)
    assert notes == []


def test_a_padding_value_that_is_nowhere_is_no_note() -> None:
    image, notes = calibrate_ct("case_7", _ct(), NONE, padding=-2000.0)
    assert np.array_equal(image, _ct())
    assert notes == []


def test_an_offset_for_unsigned_scans_is_not_added_to_one_with_negative_values() -> None:
    image, notes = calibrate_ct("case_7", _ct(), UNSIGNED)
    assert np.array_equal(image, _ct())
    assert notes == []
    image, notes = calibrate_ct("case_7", _head(), UNSIGNED)
    assert np.array_equal(image, _head() - 1000)
    assert notes == ["HU offset -1000 added"]


def test_an_offset_that_a_person_gave_is_added_everywhere() -> None:
    image, notes = calibrate_ct("case_7", _ct() + 10, Offset(-10.0))
    np.testing.assert_allclose(image, _ct(), atol=1e-3)
    assert notes == ["HU offset -10 added"]


def test_an_offset_that_takes_a_ct_out_of_hu_is_refused() -> None:
    refusal = _refusal(_head() - 1000, Offset(-1024.0))
    assert "the HU offset of -1024 takes 53% of it below air and 2% near water" in refusal.reason
    assert "HU already" in refusal.remedy


def test_corners_that_were_filled_with_air_before_an_offset_are_padding() -> None:
    image = _head()
    image[:, :4] = -1024
    calibrated, notes = calibrate_ct("case_7", image, Offset(-1000.0))
    assert (calibrated[:, :4] == AIR_HU).all()
    assert notes == ["HU offset -1000 added", "10.0% of voxels were padding, set to air"]


@pytest.mark.parametrize("padding", [None, -1000.0])
def test_an_organ_cut_out_before_an_offset_is_soft_tissue_in_padding(padding: float | None) -> None:
    image = np.full((20, 40, 40), -1000, np.float32)
    image[5:10, 15:22, 15:22] = 1064 + np.random.default_rng(0).normal(0, 20, (5, 7, 7))
    calibrated, notes = calibrate_ct("case_7", image, Offset(-1024.0), padding)
    assert abs(np.median(calibrated[5:10, 15:22, 15:22]) - 40) < 5
    assert notes == ["HU offset -1024 added", "99.2% of voxels were padding, set to air"]


def test_a_padding_that_the_header_names_speaks_against_no_offset() -> None:
    image = np.full((20, 40, 40), -1000, np.float32)
    image[5:10, 15:22, 15:22] = 174 + np.random.default_rng(0).normal(0, 20, (5, 7, 7))
    lung, _ = calibrate_ct("case_7", image, Offset(-1024.0), padding=-1000.0)
    assert abs(np.median(lung[5:10, 15:22, 15:22]) + 850) < 5


def test_a_head_in_hu_is_refused_an_offset_though_its_skull_would_lie_near_water() -> None:
    image = np.random.default_rng(0).normal(-1000, 15, (20, 64, 64)).astype(np.float32)
    image[:, 8:56, 8:56] = np.random.default_rng(1).normal(1000, 300, (20, 48, 48))
    image[:, 11:53, 11:53] = 35
    assert "takes 44% of it below air and 5% near water" in _refusal(image, Offset(-1024.0)).reason


@pytest.mark.parametrize("offset", [NONE, UNSIGNED, Offset(-1000.0), Offset(-1024.0)])
def test_no_offset_makes_an_8_bit_or_a_scaled_image_a_ct(offset: Offset) -> None:
    grey = np.linspace(0, 255, 1000).reshape(10, 10, 10)
    assert "8-bit" in _refusal(grey, offset).reason
    assert "scaled" in _refusal(grey / 255, offset).reason


def test_soft_tissue_is_found_in_a_ct_without_a_sign() -> None:
    peak = soft_tissue_peak(_head())
    assert peak == pytest.approx(1040, abs=5)


@pytest.mark.parametrize("fat", [1.0, 8.0])
def test_fat_is_not_taken_for_soft_tissue(fat: float) -> None:
    generator = np.random.default_rng(0)
    share = fat / (1 + fat)
    tissue = np.where(generator.random(30000) < share, 930.0, 1055.0) + generator.normal(0, 12, 30000)
    image = np.round(tissue).astype(np.float32).reshape(30, 50, 20)
    assert soft_tissue_peak(image) == pytest.approx(1055, abs=8)


def test_a_ct_with_negative_values_has_no_stored_soft_tissue() -> None:
    assert soft_tissue_peak(_ct()) is None
    image = _head()
    image[0, 0, 0] = -1
    assert soft_tissue_peak(image) is None


def test_without_a_value_near_water_there_is_no_soft_tissue() -> None:
    assert soft_tissue_peak(np.linspace(0, 255, 1000, dtype=np.float32).reshape(10, 10, 10)) is None
    assert soft_tissue_peak(np.zeros((4, 4, 4), np.float32)) is None


def test_soft_tissue_lies_at_the_same_place_whatever_the_order_of_the_axes() -> None:
    assert soft_tissue_peak(_head().T) == soft_tissue_peak(_head())


def test_of_a_large_scan_some_of_the_voxels_tell_where_soft_tissue_lies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calibration, "SAMPLE", 6000)
    assert soft_tissue_peak(_head()) == pytest.approx(1040, abs=8)


@pytest.mark.parametrize(
    ("peak", "hu"), [(1040.0, -1000.0), (1070.0, -1024.0), (1000.0 + SOFT_TISSUE, -1000.0), (1100.0, -1024.0)]
)
def test_the_convention_is_taken_that_brings_soft_tissue_to_its_place(peak: float, hu: float) -> None:
    assert find_offset([peak, None, peak]) == Offset(hu, "unsigned")


def test_data_stored_as_a_head_and_neck_set_are_given_a_thousand() -> None:
    offset = find_offset([soft_tissue_peak(_head())])
    assert offset == UNSIGNED
    image = calibrate_ct("case_7", _head(), offset)[0]
    assert image.min() == AIR_HU
    assert float(np.median(image[:, 22:34, 6:36])) == pytest.approx(40, abs=3)


def test_raw_numbers_of_12_bits_are_given_1024() -> None:
    raw = np.where(_head() > 0, _head() + 30, 0).clip(0, 4095)
    assert soft_tissue_peak(raw) == pytest.approx(1070, abs=5)
    assert find_offset([soft_tissue_peak(raw)]) == Offset(-1024.0, "unsigned")


def test_one_odd_scan_does_not_move_the_offset_of_all() -> None:
    assert find_offset([1040.0, 1043.0, 1038.0, 1180.0, None]) == UNSIGNED


@pytest.mark.parametrize("peaks", [[], [None, None], [soft_tissue_peak(_ct())]])
def test_a_ct_in_hu_needs_no_offset(peaks: list[float | None]) -> None:
    assert find_offset(peaks) == NONE


@pytest.mark.parametrize("peak", [1045.0 + 24 + 101, 1045.0 - 101])
def test_soft_tissue_too_far_from_its_place_gives_no_offset(peak: float) -> None:
    assert find_offset([peak]) == NONE
