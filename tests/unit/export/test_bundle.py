import json
import multiprocessing
import resource
import shutil

import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.atomic import sha256_file, write_json
from pipeline.errors import DataError, MissingError
from pipeline.export import artefacts, bundle
from pipeline.export.artefacts import LIMIT, agreement, network_of, pickled
from pipeline.export.bundle import write_bundle
from pipeline.inference.model import load_model

FILES = [
    "configs/inference.json",
    "configs/metadata.json",
    "docs/README.md",
    "models/agreement.json",
    "models/model.onnx",
    "models/model.pt2",
    "models/model.safetensors",
]


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def exported(tmp_path, save_network):
    """A model and its bundle."""
    model, target = save_network(tmp_path / "liver"), tmp_path / "out"
    write_bundle(model, target, 3, "# The card\n")
    return model, target


def test_a_bundle_is_whole_and_holds_the_card(exported):
    _, target = exported
    assert files(target) == FILES
    assert (target / "docs/README.md").read_text() == "# The card\n"
    assert [path.name for path in target.parent.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("network", "options"),
    [
        (None, {}),
        ({"name": "unet", "width": 0.125, "dims": 2}, {}),
        ({"name": "multistream", "width": 0.125}, {"channels": 2}),
        ({"name": "patch_cnn", "width": 0.25}, {}),
    ],
    ids=["residual_unet", "2D", "two channels", "margin"],
)
def test_the_three_artefacts_give_the_same_answer(tmp_path, save_network, network, options):
    """By other images and batches than those of the export."""
    model = save_network(tmp_path / "liver", network, **options)
    write_bundle(model, tmp_path / "out", 1, None)
    config = load_model(model).config
    ours = network_of(config, model / "weights.safetensors")
    sizes = ours.form.input_size(ours.form.fit(config["patch_size"]))
    program = torch.export.load(tmp_path / "out/models/model.pt2").module()
    session = onnxruntime.InferenceSession(tmp_path / "out/models/model.onnx")
    weights = network_of(config, tmp_path / "out/models/model.safetensors")
    for batch in (1, 2, 5):
        image = torch.randn(batch, len(config["normalisation"]), *sizes)
        with torch.no_grad():
            expected = ours(image).softmax(1)
            found = {
                "program": program(image),
                "onnx": torch.from_numpy(session.run(["pred"], {"image": image.numpy()})[0]),
                "safetensors": weights(image),
            }
        for name, logits in found.items():
            assert logits.shape == expected.shape
            assert (logits.softmax(1) - expected).abs().max() < LIMIT, name


def test_what_was_measured_is_written_down(exported):
    _, target = exported
    measured = json.loads((target / "models/agreement.json").read_text())["."]
    assert set(measured) == {"model.pt2", "model.onnx"}
    assert all(0 <= one["largest_difference"] < LIMIT for one in measured.values())


def changed(path, by):
    weights = load_file(path)
    name = next(iter(weights))
    save_file(weights | {name: weights[name] + by}, path)


@pytest.mark.parametrize("blamed", ["model.pt2", "model.onnx"])
def test_an_artefact_with_other_weights_is_named_with_how_far_it_is_off(
    tmp_path, save_network, exported, blamed
):
    model, target = exported
    other = save_network(tmp_path / "other")
    changed(other / "weights.safetensors", 0.3)
    config = json.loads((other / "config.json").read_text())
    write_json(
        other / "config.json",
        config | {"sha256": {"weights.safetensors": sha256_file(other / "weights.safetensors")}},
    )
    write_bundle(other, tmp_path / "other_out", 1, None)
    shutil.copyfile(tmp_path / "other_out/models" / blamed, target / "models" / blamed)
    with pytest.raises(DataError, match=rf"{blamed} gives other class probabilities.* up to 0\.\d+ apart"):
        agreement(load_model(model).config, target / "models")


def test_an_artefact_that_is_cut_short_is_named(exported):
    model, target = exported
    whole = (target / "models/model.onnx").read_bytes()
    (target / "models/model.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"model\.onnx cannot be used"):
        agreement(load_model(model).config, target / "models")


def test_the_program_holds_nothing_to_be_unpickled_and_one_that_does_is_not_loaded(exported):
    model, target = exported
    program = target / "models/model.pt2"
    assert pickled(program) == []
    image = torch.zeros(1, 1, 8, 12, 16)
    recorded = torch.export.export(
        network_of(load_model(model).config, model / "weights.safetensors"), (image,)
    )
    torch.export.save(recorded, program)
    assert pickled(program) == ["model/data/sample_inputs/model.pt"]
    with pytest.raises(DataError, match="holds pickled objects"):
        agreement(load_model(model).config, target / "models")


def test_weights_that_are_not_those_saved_are_refused_and_leave_nothing(tmp_path, save_network):
    model = save_network(tmp_path / "liver")
    changed(model / "weights.safetensors", 0.01)
    with pytest.raises(DataError, match="checksum differs"):
        write_bundle(model, tmp_path / "out", 1, None)
    assert [path.name for path in tmp_path.iterdir()] == ["liver"]


def test_an_export_that_fails_on_its_way_leaves_nothing(tmp_path, save_network, monkeypatch):
    model = save_network(tmp_path / "liver")
    monkeypatch.setattr(bundle, "content_of", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(MissingError, match=r"out cannot be written \(No space left\)"):
        write_bundle(model, tmp_path / "out", 1, None)
    assert [path.name for path in tmp_path.iterdir()] == ["liver"]


@pytest.mark.parametrize("short_of", ["model.safetensors", "model.onnx", "model.pt2"])
def test_a_disk_that_is_full_ends_an_export_in_a_sentence(exported, short_of):
    """Whichever file it comes to an end in; in a process of its own, which torch would end with it."""
    model, target = exported
    limit = (target / "models" / short_of).stat().st_size - 1

    def export():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        with pytest.raises(MissingError, match=r"full cannot be written \(File too large\)"):
            write_bundle(model, target.parent / "full", 1, None)

    process = multiprocessing.get_context("fork").Process(target=export)
    process.start()
    process.join()
    assert process.exitcode == 0
    assert sorted(path.name for path in target.parent.iterdir()) == ["liver", "out"]


def test_a_network_of_too_many_steps_is_refused_before_minutes_are_spent(tmp_path, save_network, monkeypatch):
    """A recurrence is as many steps as a patch has slices."""
    monkeypatch.setattr(artefacts, "OPERATIONS", 600)
    network = {"name": "clstm", "width": 0.125}
    write_bundle(save_network(tmp_path / "few", network), tmp_path / "out", 1, None)
    model = save_network(tmp_path / "many", network, patch_size=(40, 12, 16))
    with pytest.raises(DataError, match=r"'clstm' is \d+ operations .* and 600 are exported"):
        write_bundle(model, tmp_path / "none", 1, None)
    assert not (tmp_path / "none").exists()


def test_a_folder_that_holds_something_is_not_touched(tmp_path, save_network):
    model = save_network(tmp_path / "liver")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="is there already"):
        write_bundle(model, tmp_path / "out", 1, None)
    assert files(tmp_path / "out") == ["mine.txt"]


def test_networks_that_come_before_are_exported_each_for_itself(tmp_path, save_network):
    model = tmp_path / "liver"
    before = {"models": 2, "gives": "maps", "grow_mm": 0.0}
    for number in range(2):
        save_network(model / f"before/{number}", patch_size=(8, 8, 8))
    image = {"clip": [-1000.0, 1000.0], "mean": 0.0, "std": 100.0}
    found = {"clip": [0.0, 255.0], "mean": 0.0, "std": 255.0}
    save_network(
        model, normalisation=[{"image": 0} | image, *({"image": n} | found for n in (1, 2))], before=before
    )
    measured = write_bundle(model, tmp_path / "out", 1, None)
    assert list(measured) == [".", "before/0", "before/1"]
    for place in (".", "before/0", "before/1"):
        assert (tmp_path / "out/models" / place / "model.onnx").is_file()
    metadata = json.loads((tmp_path / "out/configs/metadata.json").read_text())
    assert metadata["network_data_format"]["inputs"]["image"]["num_channels"] == 3
    assert metadata["before_1_data_format"]["inputs"]["image"]["num_channels"] == 1
    configuration = json.loads((tmp_path / "out/configs/inference.json").read_text())
    assert "run" not in configuration
    assert "given what other networks found" in " ".join(metadata["hounsfield"]["differences"])
