"""The bundle in MONAI's own hands."""

import importlib.metadata
import json
from dataclasses import asdict

import nibabel
import numpy as np
import pytest
import torch

from pipeline.export.artefacts import network_of
from pipeline.export.bundle import write_bundle
from pipeline.export.metadata import MONAI, SCHEMA
from pipeline.inference.model import load_model
from pipeline.volumes.calibration import Offset, calibrate_mr
from pipeline.volumes.readers import read_scan
from pipeline.volumes.recipe import Recipe

LABELS = {"large": 7, "small": 3}
pytestmark = pytest.mark.filterwarnings("ignore")

NEEDED = [
    "schema",
    "version",
    "monai_version",
    "pytorch_version",
    "numpy_version",
    "task",
    "description",
    "authors",
    "copyright",
]
TEXTS = [
    *NEEDED,
    "data_source",
    "data_type",
    "image_classes",
    "label_classes",
    "pred_classes",
    "intended_use",
]
TENSOR = {
    "type": "string",
    "format": "string",
    "num_channels": "integer",
    "spatial_shape": "array",
    "dtype": "string",
    "value_range": "array",
}


@pytest.fixture(scope="module")
def schema(tmp_path_factory):
    """What MONAI's schema of 2024-07-25 asks for, key by key; its URL cannot be reached from a test."""
    tensor = {
        "type": "object",
        "required": list(TENSOR),
        "properties": {key: {"type": kind} for key, kind in TENSOR.items()}
        | {
            "spatial_shape": {"type": "array", "items": {"type": ["string", "integer"]}},
            "value_range": {"type": "array", "items": {"type": "number"}},
            "is_patch_data": {"type": "boolean"},
            "channel_def": {"type": "object"},
        },
    }
    sides = {side: {"type": "object", "additionalProperties": tensor} for side in ("inputs", "outputs")}
    objects = ("changelog", "required_packages_version", "eval_metrics", "supported_apps")
    whole = {
        "$schema": "https://json-schema.org/draft/2019-09/schema",
        "type": "object",
        "required": [*NEEDED, "required_packages_version", "network_data_format"],
        "properties": {key: {"type": "string"} for key in TEXTS}
        | {key: {"type": "object"} for key in objects},
        "patternProperties": {
            "^[_a-zA-Z0-9]+_data_format$": {
                "type": "object",
                "required": ["inputs", "outputs"],
                "properties": sides,
            }
        },
    }
    path = tmp_path_factory.mktemp("schema") / "metadata_schema.json"
    path.write_text(json.dumps(whole))
    return path


@pytest.fixture
def bundle(tmp_path, save_network):
    def make(*args, **options):
        model = save_network(tmp_path / "liver", *args, **options)
        write_bundle(model, tmp_path / "out", 3, None)
        return model, tmp_path / "out"

    return make


def verify(folder, schema):
    from monai.bundle import verify_metadata

    # A schema that is there already is not downloaded: so the check works without a network, too.
    verify_metadata(meta_file=str(folder / "configs/metadata.json"), filepath=str(schema))


def test_monai_accepts_the_metadata_and_would_not_without_what_it_asks_for(bundle, schema):
    _, folder = bundle()
    verify(folder, schema)
    path = folder / "configs/metadata.json"
    whole = json.loads(path.read_text())
    assert whole["schema"] == SCHEMA
    assert whole["version"] == "3.0.0"
    path.write_text(json.dumps({key: value for key, value in whole.items() if key != "copyright"}))
    with pytest.raises(ValueError, match="'copyright' is a required property"):
        verify(folder, schema)
    whole["network_data_format"]["inputs"]["image"]["num_channels"] = "1"
    path.write_text(json.dumps(whole))
    with pytest.raises(ValueError, match="is not of type 'integer'"):
        verify(folder, schema)


@pytest.mark.parametrize(
    ("network", "options"),
    [(None, {}), ({"name": "patch_cnn", "width": 0.25}, {"channels": 2})],
    ids=["residual_unet", "margin and two channels"],
)
def test_monai_finds_the_network_as_the_metadata_says(bundle, network, options):
    from monai.bundle import verify_net_in_out

    _, folder = bundle(network, **options)
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(folder / "configs/metadata.json"),
        config_file=str(folder / "configs/inference.json"),
        device="cpu",
        bundle_root=str(folder),
    )


def test_the_metadata_say_what_goes_in_and_comes_out(bundle):
    model, folder = bundle({"name": "patch_cnn", "width": 0.25})
    said = json.loads((folder / "configs/metadata.json").read_text())["network_data_format"]
    network = network_of(load_model(model).config, model / "weights.safetensors")
    image, pred = said["inputs"]["image"], said["outputs"]["pred"]
    with torch.no_grad():
        logits = network(torch.zeros(1, image["num_channels"], *image["spatial_shape"]))
    assert list(logits.shape[1:]) == [pred["num_channels"], *pred["spatial_shape"]]
    assert image["value_range"] == [-3.2, 4.8]
    assert pred["channel_def"] == {"0": "background", "1": "small", "2": "large"}


def test_the_version_of_monai_that_is_named_is_the_one_of_the_tests():
    assert importlib.metadata.version("monai") == MONAI


def save_scan(path, array, spacing=(1.0, 1.0, 2.0), turn=(1, 1, 1)):
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([*(step * sign for step, sign in zip(spacing, turn, strict=True)), 1.0])
    affine[:3, 3] = (5, -7, 30)
    nibabel.save(nibabel.Nifti1Image(array.astype(np.float32), affine), path)
    return path


def boxes(shape=(20, 20, 16), seed=0):
    """Values (X, Y, Z) of two boxes in air, and the classes of their voxels."""
    classes = np.zeros(shape, np.int64)
    classes[3:12, 4:14, 2:9] = 1
    classes[12:19, 6:15, 5:13] = 2
    noise = np.random.default_rng(seed).normal(0, 20, shape)
    return (np.array([-900.0, 60.0, 500.0])[classes] + noise).clip(-1024), classes


def lesson(*channels, classes):
    """What a network learns from, as it sees it."""
    image = np.stack([channel.transpose(2, 1, 0) for channel in channels]).astype(np.float32)
    return torch.from_numpy(image), torch.from_numpy(classes.transpose(2, 1, 0).copy())


def run_in_monai(folder, scans):
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(folder / "configs/inference.json"))
    parser["bundle_root"] = str(folder)
    parser["dataset_dir"] = str(scans)
    parser["device"] = "cpu"
    try:
        parser.get_parsed_content("run")
    finally:
        torch.set_grad_enabled(True)


def check_alike(found, scans, model, least):
    """The label map of MONAI against that of this pipeline: same geometry, same labels."""
    expected = load_model(model).predict("a", [read_scan(scan) for scan in scans])
    assert set(np.unique(expected)) == {0, 3, 7}
    image, original = nibabel.load(found), nibabel.load(scans[0])
    assert image.shape == original.shape
    np.testing.assert_allclose(image.affine, original.affine, atol=1e-4)
    labels = np.asarray(image.dataobj)
    assert labels.dtype == np.uint8
    for label in (3, 7):
        common = 2 * np.count_nonzero((labels == label) & (expected == label))
        assert common / (np.count_nonzero(labels == label) + np.count_nonzero(expected == label)) >= least


@pytest.mark.parametrize(
    ("spacing", "turn", "least"),
    [((1.0, 1.0, 2.0), (-1, -1, 1), 1.0), ((1.4, 1.2, 2.2), (1, -1, -1), 0.97)],
    ids=["as the model's", "resampled"],
)
def test_monai_labels_a_ct_as_this_pipeline_does(bundle, tmp_path, spacing, turn, least):
    """In the geometry of the file, with its label values, and with the offset of unsigned values."""
    array, classes = boxes()
    array = array[:: turn[0], :: turn[1], :: turn[2]]
    recipe = asdict(Recipe("CT", LABELS, (2.0, 1.0, 1.0), Offset(-1024.0, "unsigned")))
    seen = (boxes()[0] + 200) / 250
    model, folder = bundle(recipe=recipe, patch_size=(16, 20, 20), learn=lesson(seen, classes=classes))
    scan = save_scan(tmp_path / "scans/a.nii.gz", array + 1024, spacing, turn)
    run_in_monai(folder, tmp_path / "scans")
    check_alike(folder / "label_maps/a.nii.gz", [scan], model, least)


@pytest.mark.parametrize("scale", ["zscore", "percentiles"])
def test_monai_labels_an_mr_of_two_channels_as_this_pipeline_does(bundle, tmp_path, scale):
    """The network sees the second channel first; a case is a folder of a file a channel, or one file."""
    arrays = [boxes(seed=number)[0] * (number + 1) + 1000 for number in range(2)]
    scaled = [calibrate_mr("a", array.astype(np.float32), scale)[0] for array in arrays]
    model, folder = bundle(
        channels=2,
        patch_size=(16, 20, 20),
        modality="MR",
        recipe=asdict(Recipe("MR", LABELS, (2.0, 1.0, 1.0), mr_scale=scale, channels=2)),
        normalisation=[{"image": image, "clip": [-3.0, 3.0], "mean": 0.1, "std": 0.9} for image in (1, 0)],
        learn=lesson(*((scaled[image] - 0.1) / 0.9 for image in (1, 0)), classes=boxes()[1]),
    )
    scans = [save_scan(tmp_path / f"scans/a/{number}.nii.gz", array) for number, array in enumerate(arrays)]
    channels = [nibabel.load(scan) for scan in scans]
    both = np.stack([np.asarray(channel.dataobj) for channel in channels], axis=-1)
    nibabel.save(nibabel.Nifti1Image(both, channels[0].affine), tmp_path / "scans/both.nii.gz")
    run_in_monai(folder, tmp_path / "scans")
    found = sorted((folder / "label_maps").iterdir())
    assert [path.name for path in found] == ["0.nii.gz", "both.nii.gz"]
    for path in found:
        check_alike(path, scans, model, 1.0)
