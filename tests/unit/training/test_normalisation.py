import torch

from pipeline.training.normalisation import normalise


def test_intensities_are_clipped_shifted_and_scaled():
    plan = {"kind": "ct", "clip": [-100.0, 300.0], "mean": 50.0, "std": 25.0}
    hu = torch.tensor([-1000.0, -100.0, 50.0, 75.0, 300.0, 3000.0])
    assert normalise(hu, plan).tolist() == [-6.0, -6.0, 0.0, 1.0, 10.0, 10.0]
