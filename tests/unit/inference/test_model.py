import json

import nibabel
import numpy as np
import pytest
import torch
from nibabel.orientations import axcodes2ornt, ornt_transform

from pipeline.atomic import sha256_file
from pipeline.errors import DataError, MissingError
from pipeline.inference.model import Model, build, load_model
from pipeline.networks.base import ANY_SIZE
from pipeline.volumes.calibration import Offset
from pipeline.volumes.geometry import Geometry, to_canonical
from pipeline.volumes.readers.scan import Origin, Scan

ORIENTATIONS = ["RAS", "LPS", "LAS", "PIR", "SAL", "ILA"]
LABELS = {"large": 7, "small": 3}
"""By name in another order than by value."""
AIR, SMALL, LARGE = -1000.0, 100.0, 300.0
INTENSITIES = (AIR, SMALL, LARGE)


def boxes():
    """An image (X, Y, Z) with two boxes in it, and its label map."""
    image, labels = np.full((13, 11, 9), AIR, np.float32), np.zeros((13, 11, 9), np.uint8)
    image[2:9, 3:10, 1:6], labels[2:9, 3:10, 1:6] = LARGE, LABELS["large"]
    image[6:12, 1:5, 4:8], labels[6:12, 1:5, 4:8] = SMALL, LABELS["small"]
    return image, labels


def turned(array, orientation, spacing=(2.0, 1.5, 1.0)):
    """An array with axes to the right, front and head as a file whose axes lead elsewhere."""
    image = nibabel.Nifti1Image(array, np.diag([*spacing, 1.0]))
    image = image.as_reoriented(ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(orientation)))
    return np.asarray(image.dataobj), image.affine


def scan_of(array, affine):
    return Scan(np.ascontiguousarray(array, np.float32), Geometry(array.shape, affine))


@pytest.fixture
def folder(tmp_path, save_model):
    return save_model(tmp_path / "liver", LABELS, INTENSITIES, spacing=(1.0, 1.5, 2.0))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_labels_lie_where_the_boxes_are_in_the_array_of_the_file(folder, orientation):
    image, labels = boxes()
    array, affine = turned(image, orientation)
    predicted = load_model(folder).predict("scan", [scan_of(array, affine)])
    assert predicted.dtype == np.uint8
    np.testing.assert_array_equal(predicted, turned(labels, orientation)[0])


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_network_sees_the_patient_from_one_side(folder, orientation):
    class Rising(torch.nn.Module):
        form = ANY_SIZE

        """Class 1 where the intensity rises to the patient's right, 2 where it rises to the head."""

        def forward(self, image):
            logits = torch.zeros(len(image), 3, *image.shape[2:])
            logits[:, 0] = 0.5
            logits[:, 1, :, :, 1:] = image[:, 0].diff(dim=3)
            logits[:, 2, 1:] = image[:, 0].diff(dim=1) * 2
            return logits

    image, _ = boxes()
    expected = np.zeros(image.shape, np.uint8)
    expected[1:][np.diff(image, axis=0) > 0] = LABELS["small"]
    expected[:, :, 1:][np.diff(image, axis=2) > 0] = LABELS["large"]
    config = load_model(folder).config | {"patch_size": [16, 16, 16]}
    array, affine = turned(image, orientation)
    predicted = Model(config, Rising()).predict("scan", [scan_of(array, affine)])
    np.testing.assert_array_equal(predicted, turned(expected, orientation)[0])


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("spacing", [(0.5, 0.75, 1.0), (1.0, 0.75, 2.0)])
def test_a_model_of_a_finer_grid_labels_the_grid_of_the_file(tmp_path, save_model, orientation, spacing):
    image, labels = boxes()
    labels[labels == LABELS["small"]] = LABELS["large"]
    image[labels > 0] = LARGE
    folder = save_model(tmp_path / "liver", {"large": 7}, (AIR, LARGE), spacing=spacing)
    array, affine = turned(image, orientation)
    predicted = load_model(folder).predict("scan", [scan_of(array, affine)])
    np.testing.assert_array_equal(predicted, turned(labels, orientation)[0])


def test_a_model_of_a_coarser_grid_labels_the_grid_of_the_file(tmp_path, save_model):
    image, labels = np.full((24, 24, 24), AIR, np.float32), np.zeros((24, 24, 24), np.uint8)
    image[5:19, 6:18, 4:15], labels[5:19, 6:18, 4:15] = LARGE, 7
    folder = save_model(tmp_path / "liver", {"large": 7}, (AIR, LARGE), spacing=(1.4, 1.6, 1.5))
    predicted = load_model(folder).predict("scan", [scan_of(image, np.eye(4))])
    overlap = 2 * np.count_nonzero(predicted & labels) / (np.count_nonzero(predicted) + labels.sum() / 7)
    assert overlap > 0.93


def test_stored_values_are_shifted_to_hu(tmp_path, save_model):
    image, labels = boxes()
    folder = save_model(
        tmp_path / "liver", LABELS, INTENSITIES, offset=Offset(-1024.0), spacing=(1.0, 1.5, 2.0)
    )
    array, affine = turned(image + 1024, "LPS")
    predicted = load_model(folder).predict("scan", [scan_of(array, affine)])
    np.testing.assert_array_equal(predicted, turned(labels, "LPS")[0])


def test_an_offset_that_was_found_is_added_only_to_what_has_no_sign(tmp_path, save_model):
    image, labels = boxes()
    offset = Offset(-1000.0, "unsigned")
    folder = save_model(tmp_path / "liver", LABELS, INTENSITIES, offset=offset, spacing=(1.0, 1.5, 2.0))
    for stored in (image, image + 1000):
        predicted = load_model(folder).predict("scan", [scan_of(*turned(stored, "LPS"))])
        np.testing.assert_array_equal(predicted, turned(labels, "LPS")[0])


def test_the_padding_of_a_scan_is_air_to_the_model(folder):
    image, labels = boxes()
    stored = image.copy()
    stored[0] = LARGE + 1
    array, affine = turned(stored, "LPS")
    scan = Scan(array, Geometry(array.shape, affine), Origin(padding=LARGE + 1))
    (calibrated,) = load_model(folder).calibrated("scan", [scan])
    np.testing.assert_array_equal(calibrated, image.T)
    np.testing.assert_array_equal(load_model(folder).predict("scan", [scan]), turned(labels, "LPS")[0])


def test_another_modality_than_the_models_is_refused(folder):
    scan = Scan(boxes()[0], Geometry((13, 11, 9), np.eye(4)), Origin(modality="MR"))
    with pytest.raises(DataError, match="its header says MR, but CT is expected: give CT with values as in"):
        load_model(folder).predict("scan", [scan])


def test_nobody_who_has_a_scan_labelled_is_sent_to_the_parameters_of_ingest(folder):
    array, affine = turned(boxes()[0] + 3000, "LPS")
    with pytest.raises(DataError, match="the lowest value is") as refused:
        load_model(folder).predict("scan", [scan_of(array, affine)])
    assert refused.value.remedy == "give CT with values as in the cases that the model was trained on"
    with pytest.raises(DataError, match="a scaled image: use the original CT"):
        load_model(folder).predict("scan", [scan_of(array.clip(0, 255), affine)])


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_channel_is_turned_and_resampled_alike(tmp_path, save_model, orientation):
    image, labels = boxes()
    # Neither channel tells the boxes by itself; their mean does.
    first, second = image.clip(AIR + 100), image.clip(AIR + 100)
    first[labels > 0] += 150
    second[labels > 0] -= 150
    folder = save_model(tmp_path / "liver", LABELS, INTENSITIES, spacing=(1.0, 1.5, 2.0), channels=2)
    scans = [scan_of(*turned(one, orientation)) for one in (first, second)]
    model = load_model(folder)
    np.testing.assert_array_equal(model.predict("scan", scans), turned(labels, orientation)[0])
    for calibrated, scan in zip(model.calibrated("scan", scans), scans, strict=True):
        np.testing.assert_array_equal(calibrated, to_canonical(scan.array, scan.geometry))


@pytest.mark.parametrize("count", [1, 3])
def test_another_number_of_channels_is_refused(tmp_path, save_model, count):
    folder = save_model(tmp_path / "liver", LABELS, INTENSITIES, channels=2)
    scan = scan_of(boxes()[0], np.eye(4))
    with pytest.raises(DataError, match=rf"^scan: {count} channels?, .* trained on 2:"):
        load_model(folder).predict("scan", [scan] * count)


@pytest.mark.parametrize("first_can", [True, False])
def test_a_channel_may_lack_where_the_networks_before_can_do_without_it_too(tmp_path, save_model, first_can):
    first, second = (
        load_model(
            save_model(
                tmp_path / name,
                LABELS,
                INTENSITIES,
                channels=2,
                network={"name": "nearest_intensity", "does_without": can},
            )
        )
        for name, can in (("first", first_can), ("second", True))
    )
    model, scans = Model(second.config, second.network, [first]), [None, scan_of(boxes()[0], np.eye(4))]
    if first_can:
        assert len(model.given("scan", scans)) == 1
        return
    with pytest.raises(DataError, match="1 channel, but the model was trained on 2"):
        model.given("scan", scans)


@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_channels_that_lie_apart_are_refused(tmp_path, save_model, shift):
    folder = save_model(tmp_path / "liver", LABELS, INTENSITIES, channels=2)
    image, affine = boxes()[0], np.eye(4)
    affine[0, 3] = shift
    other = scan_of(image if shift else image[:-1], affine)
    with pytest.raises(DataError, match=r"^scan: .*channel 1"):
        load_model(folder).predict("scan", [scan_of(image, np.eye(4)), other])


def test_windows_of_one_image_are_channels_of_the_network(tmp_path, save_model):
    image, labels = boxes()
    channel = {"image": 0, "clip": [-1000.0, 1000.0], "mean": 0.0, "std": 100.0}
    folder = save_model(
        tmp_path / "liver",
        LABELS,
        INTENSITIES,
        spacing=(1.0, 1.5, 2.0),
        normalisation=[channel | {"mean": -50.0}, channel | {"mean": 50.0}],
    )
    predicted = load_model(folder).predict("scan", [scan_of(*turned(image, "LPS"))])
    np.testing.assert_array_equal(predicted, turned(labels, "LPS")[0])


def test_values_that_are_no_hu_are_refused_by_the_name_of_the_scan(folder):
    image, _ = boxes()
    with pytest.raises(DataError, match=r"^patient_7\.nii: .*air"):
        load_model(folder).predict("patient_7.nii", [scan_of(image + 1024, np.eye(4))])


def test_the_scan_stays_as_it_was(folder):
    image, _ = boxes()
    scan = scan_of(image, np.eye(4))
    before = scan.array.copy()
    load_model(folder).predict("scan", [scan])
    np.testing.assert_array_equal(scan.array, before)


def test_a_loaded_network_is_the_saved_one_and_ready_to_judge(folder):
    network = load_model(folder).network
    assert not network.training
    assert network.intensities.tolist() == [-10.0, 1.0, 3.0]


def test_a_folder_without_a_model_is_told_with_the_command_that_makes_one(tmp_path):
    with pytest.raises(MissingError, match="dvc repro train@liver"):
        load_model(tmp_path / "liver")


@pytest.mark.parametrize("name", ["config.json", "weights.safetensors"])
def test_half_a_model_is_none(folder, name):
    (folder / name).unlink()
    with pytest.raises(MissingError, match="dvc repro train@liver"):
        load_model(folder)


def test_weights_that_were_changed_are_refused(folder):
    weights = folder / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(DataError, match="checksum"):
        load_model(folder)


def test_a_model_is_whole_only_with_all_of_its_files_as_they_were_saved(folder):
    other = folder / "folds" / "1" / "notes.json"
    other.parent.mkdir(parents=True)
    other.write_text("{}")
    config = json.loads((folder / "config.json").read_text())
    config["sha256"]["folds/1/notes.json"] = sha256_file(other)
    (folder / "config.json").write_text(json.dumps(config))
    load_model(folder)
    other.write_text("{ }")
    with pytest.raises(DataError, match=r"notes\.json is not the file that was saved"):
        load_model(folder)
    other.unlink()
    with pytest.raises(DataError, match=r"notes\.json is not the file that was saved"):
        load_model(folder)


def test_weights_that_were_cut_short_are_refused(folder):
    weights = folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-3])
    with pytest.raises(DataError, match="checksum"):
        load_model(folder)


@pytest.mark.parametrize("content", ["", '{"organ": "liver"', "[]", '{"organ": "liver"}', "\udcff"])
def test_a_config_that_is_none_is_refused(folder, content):
    (folder / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=r"config\.json"):
        load_model(folder)


def test_weights_of_another_network_are_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    config["labels"] = {"one": 1, "two": 2, "three": 3}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match=r"does not fit its config\.json"):
        load_model(folder)


@pytest.mark.parametrize(
    ("section", "change", "told"),
    [
        ("recipe", {"new": 1}, "new"),
        ("recipe", {"labels": None}, "labels"),
        ("recipe", {"spacing": None}, "spacing"),
        ("network", {"name": "gone"}, "there is no network 'gone'"),
        ("network", {"name": "unet", "newer": 3}, "newer"),
    ],
)
def test_a_model_of_another_version_is_told_with_what_is_not_known(folder, section, change, told):
    config = json.loads((folder / "config.json").read_text())
    changed = config[section] | change
    config[section] = {key: value for key, value in changed.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match=rf"another version of Hounsfield \(.*{told}.*: use the version"):
        load_model(folder)


def test_a_network_is_built_from_its_configuration(folder):
    network = build(
        load_model(folder).config
        | {"network": {"name": "residual_unet", "channels": [4, 6], "strides": [[1, 1, 1], [2, 2, 2]]}}
    )
    assert network(torch.zeros(1, 1, 8, 8, 8)).shape == (1, 3, 8, 8, 8)


def test_a_network_has_an_input_for_every_channel(folder):
    config = load_model(folder).config
    network = build(
        config
        | {
            "network": {"name": "residual_unet", "channels": [4, 6], "strides": [[1, 1, 1], [2, 2, 2]]},
            "normalisation": config["normalisation"] * 3,
        }
    )
    assert network(torch.zeros(1, 3, 8, 8, 8)).shape == (1, 3, 8, 8, 8)


@pytest.mark.parametrize("axes", [["x"], ["z", "y"]])
def test_mirrored_it_is_the_mean_of_what_is_seen_from_each_side(folder, axes):
    config = load_model(folder).config | {"network": {"name": "residual_unet", "channels": [4, 6]}}
    torch.manual_seed(0)
    network = build(config).eval()
    plain, mirrored = Model(config, network), Model(config | {"mirror_axes": axes}, network)
    image = torch.randn(1, 10, 12, 9) * 100
    places = ["zyx".index(axis) - 3 for axis in axes]
    flips = [(), *[(place,) for place in places], *([tuple(places)] if len(places) > 1 else [])]
    expected = torch.stack([plain.shares(image.flip(each)).flip(each) for each in flips]).mean(0)
    torch.testing.assert_close(mirrored.shares(image), expected)
    assert not torch.allclose(mirrored.shares(image), plain.shares(image), atol=1e-4)
