import numpy as np
import pandas as pd
import torch

from pipeline.inference.model import load_model
from pipeline.inference.rule_out import REACH, labelled_range, ruled_in
from pipeline.volumes.geometry import Geometry
from pipeline.volumes.readers.scan import Scan

AIR, ORGAN = -1000.0, 60.0


def test_the_range_is_that_of_all_cases():
    cases = pd.DataFrame({"fg_low": [10.0, -5.0, np.nan], "fg_high": [90.0, 120.0, np.nan]})
    assert labelled_range(cases) == (-5.0, 120.0)
    assert labelled_range(cases[2:]) is None


def test_a_label_too_small_for_the_percentiles_of_all_is_within_the_range():
    cases = pd.DataFrame({"fg_low": [10.0, -5.0], "fg_high": [90.0, 120.0], "hu_liver": [50.0, 60.0]})
    assert labelled_range(cases.assign(hu_stent=[None, 1485.0])) == (-5.0, 1485.0)
    assert labelled_range(cases.assign(hu_trachea=-990.0, hu_stent=None)) == (-990.0, 120.0)


def test_what_has_another_intensity_and_lies_apart_is_ruled_out():
    image = torch.full((1, 24, 24, 24), AIR)
    image[:, 8:14, 8:14, 8:14] = ORGAN
    possible = ruled_in(image, (40.0, 80.0))
    assert possible[8:14, 8:14, 8:14].all()
    # The mean of the cube around a voxel at the border is not the organ's, but such voxels are near.
    reach = REACH - 1
    assert possible[8 - reach : 14 + reach, 10, 10].all()
    assert not possible[:3].any()
    assert not possible[20:].any()


def test_a_single_voxel_of_noise_rules_nothing_in():
    image = torch.full((1, 12, 12, 12), AIR)
    image[0, 6, 6, 6] = ORGAN
    assert not ruled_in(image, (40.0, 80.0)).any()


def test_fewer_windows_are_computed_and_the_labels_are_the_same(tmp_path, save_model):
    # Noise, as windows of one value are computed once anyway.
    image = np.random.default_rng(0).uniform(AIR - 20, AIR + 20, (48, 48, 48)).astype(np.float32)
    image[4:12, 4:12, 4:12] = ORGAN
    scan = Scan(image, Geometry(image.shape, np.eye(4)))
    predicted, computed = [], []
    for name, more in (("everywhere", {}), ("ruled_out", {"rule_out": [40.0, 80.0]})):
        model = load_model(save_model(tmp_path / name, {"liver": 1}, (AIR, ORGAN), **more))
        windows = []
        model.network.register_forward_hook(lambda _n, given, _o, kept=windows: kept.append(len(given[0])))
        predicted.append(model.predict("scan", [scan]))
        computed.append(sum(windows))
    np.testing.assert_array_equal(*predicted)
    assert predicted[0].sum() == 8**3
    assert computed[1] < computed[0] / 10


def test_where_the_first_channel_is_missing_nothing_is_ruled_out(tmp_path, save_model):
    # Noise, as a channel of one value is a missing one.
    image = np.random.default_rng(0).uniform(AIR - 20, AIR + 20, (16, 16, 16)).astype(np.float32)
    image[4:12, 4:12, 4:12] += ORGAN - AIR
    scan = Scan(image, Geometry(image.shape, np.eye(4)))
    network = {"name": "nearest_intensity", "does_without": True}
    more = {"channels": 2, "network": network, "rule_out": [30.0, 90.0]}
    model = load_model(save_model(tmp_path / "model", {"liver": 1}, (AIR, ORGAN), **more))
    assert model.predict("scan", [scan, None]).sum() == 8**3
    assert model.predict("scan", [None, scan]).sum() == 8**3
