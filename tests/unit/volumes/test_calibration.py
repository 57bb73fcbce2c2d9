from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.volumes.calibration import AIR_HU, calibrate_ct, calibrate_mr

Floats = NDArray[np.float32]


def _ct() -> Floats:
    """Air on one side, a body of soft tissue and bone on the other."""
    image = np.full((8, 9, 10), AIR_HU, np.float32)
    image[:, :, 5:] = np.random.default_rng(0).normal(40, 15, (8, 9, 5))
    image[0, 0, 9] = 1500
    return image


def _refusal(image: NDArray[Any], offset: float = 0.0) -> DataError:
    with pytest.raises(DataError) as refused:
        calibrate_ct("case_7", image.astype(np.float32), offset)
    assert str(refused.value).startswith("case_7")
    return refused.value


def test_a_ct_in_hu_stays_as_it_is() -> None:
    image, notes = calibrate_ct("case_7", _ct(), 0.0)
    assert np.array_equal(image, _ct())
    assert notes == ""


def test_padding_becomes_air_and_is_noted() -> None:
    image = _ct()
    image[:4, :, 0] = -3024
    calibrated, notes = calibrate_ct("case_7", image, 0.0)
    assert calibrated.min() == AIR_HU
    assert np.array_equal(calibrated[image > -1100], image[image > -1100])
    assert "5.0% of voxels were padding" in notes
    assert (image[:4, :, 0] == -3024).all(), "what was handed in is not changed"


def test_values_of_metal_are_kept() -> None:
    image = _ct()
    image[1, 1, 9] = 20000
    assert calibrate_ct("case_7", image, 0.0)[0].max() == 20000


def test_a_shifted_ct_is_refused_with_the_parameter_that_mends_it() -> None:
    error = _refusal(_ct() + 1024)
    assert "lowest value is 24" in error.reason
    assert "ingest.hu_offset" in error.remedy


def test_the_offset_brings_a_shifted_ct_back_and_is_noted() -> None:
    image, notes = calibrate_ct("case_7", _ct() + 1024, -1024.0)
    np.testing.assert_allclose(image, _ct(), atol=1e-3)
    assert image.dtype == np.float32
    assert notes == "HU offset -1024 added"


def test_offset_and_padding_are_both_noted() -> None:
    image = _ct() + 1024
    image[0, 0, 0] = -2000
    notes = calibrate_ct("case_7", image, -1024.0)[1]
    assert "HU offset" in notes
    assert "padding" in notes


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
    assert notes == ""


def test_one_bright_artefact_does_not_set_the_scale_of_an_mr() -> None:
    values = np.random.default_rng(0).normal(100, 10, (20, 20, 20)).astype(np.float32)
    marred = values.copy()
    marred[0, 0, 0] = 1e6
    difference = calibrate_mr("case_7", marred)[0] - calibrate_mr("case_7", values)[0]
    assert np.abs(difference[1:]).max() < 0.01


@pytest.mark.parametrize("value", [0.0, 1.0, -3.5, 1e6])
def test_a_constant_mr_is_refused(value: float) -> None:
    with pytest.raises(DataError, match=r"case_7: all voxels are about"):
        calibrate_mr("case_7", np.full((5, 5, 5), value, np.float32))
