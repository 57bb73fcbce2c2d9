import sys

import pytest


@pytest.fixture(autouse=True)
def one_torch_thread():
    """Networks as small as in these tests spend their time waiting for threads, not computing.

    Tests that do not use torch do not wait for its import.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def save_model(monkeypatch):
    """Saves models whose answer is known: a voxel is of the class whose intensity is nearest to its own."""
    import torch
    from safetensors.torch import save_file

    from pipeline.atomic import sha256_file, write_json
    from pipeline.networks import NETWORKS

    class NearestIntensity(torch.nn.Module):
        def __init__(self, _in_channels, classes, _channels, _strides):
            super().__init__()
            self.intensities = torch.nn.Parameter(torch.zeros(classes))

        def forward(self, image):
            return -50 * (image - self.intensities[None, :, None, None, None]) ** 2

    module = type(sys)("nearest_intensity")
    module.NearestIntensity = NearestIntensity
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(NETWORKS, module.__name__, (module.__name__, NearestIntensity.__name__))

    def save(folder, labels, intensities, spacing=(1.0, 1.0, 1.0), patch_size=(8, 8, 8), **config):
        """`intensities` in HU: of the background, then of the labels in the order of their values."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = folder / "weights.safetensors"
        save_file({"intensities": torch.tensor(intensities) / 100}, weights)
        defaults = {
            "organ": folder.name,
            "modality": "CT",
            "labels": labels,
            "hu_offset": 0.0,
            "spacing": list(spacing),
            "patch_size": list(patch_size),
            "normalisation": {"kind": "ct", "clip": [-1000.0, 1000.0], "mean": 0.0, "std": 100.0},
            "network": {"name": module.__name__, "channels": [], "strides": []},
            "training": {"steps": 1, "profile": "small"},
            "sha256": {weights.name: sha256_file(weights)},
        }
        write_json(folder / "config.json", defaults | config)
        return folder

    return save
