"""Every network of the catalogue in the three formats; `benchmarks/exports.py` takes larger patches."""

import pytest
import torch
from safetensors.torch import save_file

from pipeline.export.artefacts import LIMIT, ONNX, PROGRAM, SAFETENSORS, write_artefacts
from pipeline.inference.model import build
from pipeline.networks import names, plan_network
from pipeline.networks.weights import stored

PATCH = (8, 16, 16)
TOO_LONG = "pyramid_lstm"
"""Its sweeps, written out, take minutes at this size and are refused at that of a real patch."""


@pytest.mark.parametrize("name", [name for name in names() if name != TOO_LONG])
def test_the_three_formats_of_a_network_agree_for_any_batch(tmp_path, name):
    config = {
        "network": {"name": name} | plan_network(name, {}, PATCH, (1.0, 1.0, 1.0), small=True),
        "normalisation": [{}, {}],
        "labels": {"one": 1, "two": 2},
        "patch_size": PATCH,
    }
    torch.manual_seed(0)
    weights = {key: weight.contiguous() for key, weight in stored(build(config)).items()}
    save_file(weights, tmp_path / SAFETENSORS)
    found = write_artefacts(config, tmp_path)
    assert set(found) == {PROGRAM, ONNX}
    assert all(one["largest_difference"] < LIMIT for one in found.values())
