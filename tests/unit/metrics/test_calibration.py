import tracemalloc

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import calibration_curve

from pipeline.labels import UNKNOWN
from pipeline.metrics import calibration
from pipeline.metrics.calibration import as_table, expected_error, nothing, overconfidence, tally


def case(organ, truth):
    """Shares (2, 1, 1, X) and truth (1, 1, X) of one label, given by its probability in each voxel."""
    organ = np.array(organ, np.float32)
    return np.stack([1 - organ, organ])[:, None, None], np.array(truth, np.uint8)[None, None]


def test_counted_by_hand():
    shares, truth = case([0.72, 0.78, 0.74, 0.76, 0.25, 1.0, 0.004], [1, 1, 1, 0, 0, 1, 0])
    table = as_table(tally(shares, truth, [1]), {"liver": 1})
    assert table["bin"].tolist() == [2, 7, 9]
    assert table["voxels"].tolist() == [1, 4, 1]
    assert table["confidence"].tolist() == pytest.approx([0.25, 0.75, 1.0], abs=1e-6)
    assert table["observed"].tolist() == [0, 0.75, 1]
    assert expected_error(table) == pytest.approx(0.25 / 6, abs=1e-6)
    assert overconfidence(table) == pytest.approx(0.25 / 6, abs=1e-6)


def test_a_model_that_is_less_sure_than_it_could_be_falls_short():
    table = as_table(tally(*case([0.6] * 10, [1] * 9 + [0]), [1]), {"liver": 1})
    assert overconfidence(table) == pytest.approx(-0.3, abs=1e-6)
    assert expected_error(table) == pytest.approx(0.3, abs=1e-6)


def random_case(seed, shape=(9, 30, 40)):
    """Three classes; the truth is drawn by shares that are more even than those the model tells."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (3, *shape))
    shares = np.exp(logits) / np.exp(logits).sum(0)
    even = np.exp(logits / 2) / np.exp(logits / 2).sum(0)
    truth = (rng.random(shape) > even.cumsum(0)[:2, ...]).sum(0)
    return shares.astype(np.float32), truth.astype(np.uint8)


def test_it_agrees_with_scikit_learn():
    shares, truth = random_case(0)
    table = as_table(tally(shares, truth, [1, 2]), {"liver": 1, "spleen": 2})
    for name, index in (("liver", 1), ("spleen", 2)):
        seen = shares[index] >= calibration.LEAST
        observed, confidence = calibration_curve(truth[seen] == index, shares[index][seen], n_bins=10)
        own = table[table["label"] == name]
        np.testing.assert_allclose(own["observed"], observed, rtol=1e-6)
        np.testing.assert_allclose(own["confidence"], confidence, rtol=1e-6)
        assert overconfidence(own[own["bin"] > 7]) > 0.05, "the truth is more even than the model says"


def test_parts_of_a_case_add_up_to_the_whole_whatever_is_looked_at_together(monkeypatch):
    shares, truth = random_case(1)
    whole = tally(shares, truth, [1, 2])
    parts = nothing(3) + tally(shares[:, :4], truth[:4], [1, 2]) + tally(shares[:, 4:], truth[4:], [1, 2])
    monkeypatch.setattr(calibration, "SLAB", 2 * truth[0].size)
    for other in (parts, tally(shares, truth, [1, 2])):
        for name in ("voxels", "true", "missed"):
            np.testing.assert_array_equal(getattr(other, name), getattr(whole, name))
        np.testing.assert_allclose(other.probability, whole.probability)


def test_what_nobody_looked_at_or_looked_for_is_left_out():
    shares, truth = random_case(2)
    hidden = truth.copy()
    hidden[3:] = UNKNOWN
    seen = tally(shares, hidden, [2])
    np.testing.assert_array_equal(seen.voxels, tally(shares[:, :3], truth[:3], [2]).voxels)
    assert seen.voxels[1].sum() == seen.missed[1] == 0
    assert as_table(seen, {"liver": 1, "spleen": 2})["label"].unique().tolist() == ["spleen"]


def test_sure_background_hides_nothing_and_what_the_model_had_no_idea_of_is_told():
    # Half of the doubtful voxels are wrong; a million sure ones would make that an error of nothing.
    shares, truth = case([0.9] * 10 + [0.001] * 5000, [1] * 5 + [0] * 5 + [1] * 3 + [0] * 4997)
    table = as_table(tally(shares, truth, [1]), {"liver": 1})
    assert table["voxels"].sum() == 10
    assert table["missed"].tolist() == [3]
    assert expected_error(table) == pytest.approx(0.4, abs=1e-6)


def test_a_voxel_counts_from_one_hundredth_on():
    table = as_table(tally(*case([0.011, 0.02, 0.009, 0.009], [0, 1, 0, 1]), [1]), {"liver": 1})
    assert table[["voxels", "missed"]].to_numpy().tolist() == [[2, 1]]


def test_shares_chosen_by_their_size_alone_stay_calibrated():
    rng = np.random.default_rng(3)
    organ = rng.beta(0.1, 3, 200_000)
    table = as_table(tally(*case(organ, rng.random(organ.size) < organ), [1]), {"liver": 1})
    assert expected_error(table) < 0.01
    assert abs(overconfidence(table[table["bin"] == 0])) < 0.003


def test_a_share_a_little_above_one_is_in_the_last_bin():
    table = as_table(tally(*case([np.nextafter(np.float32(1), np.float32(2))], [1]), [1]), {"liver": 1})
    assert table["bin"].tolist() == [9]


def test_nothing_counted_is_an_empty_table():
    table = as_table(nothing(2), {"liver": 1})
    assert isinstance(table, pd.DataFrame)
    assert table.empty
    assert "observed" in table


def test_the_memory_needed_does_not_grow_with_the_scan():
    peaks = []
    for slices in (64, 256):
        shares = np.full((2, slices, 256, 256), 0.5, np.float32)
        truth = np.zeros(shares.shape[1:], np.uint8)
        tracemalloc.start()
        tally(shares, truth, [1])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]
