"""The stage `train` with a network that is given what others before it found."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.errors import DataError, HounsfieldError, ParamsError
from pipeline.inference.composition import given_by
from pipeline.inference.model import load_model
from pipeline.params import TrainParams
from pipeline.registry.artifacts import content_of
from pipeline.stages import train as stage_train
from pipeline.stages.train import run
from pipeline.training import cross_validation, fit
from pipeline.training.material import as_model
from pipeline.volumes.store import SUFFIX, StoredCase, write_case
from pipeline.workspace import stage_files

ORGAN = "liver"
MODEL = Path("models") / ORGAN
SMALL = {"name": "residual_unet", "channels": [4, 6]}
PARAMS = {"profile": "small", "network": SMALL, "steps": 3, "batch_size": 2, "precision": "float32"}
FOLDS = {"case_0": 0, "case_1": 1, "case_2": 2, "case_3": 1}
"""Fold 0 is watched; the others are a group each."""
GIVES = ["maps", "region", "box"]


@pytest.fixture
def train(prepared):
    for name in ("patches", "accepted"):
        path = Path("data") / name / f"{ORGAN}.parquet"
        table = pd.read_parquet(path)
        table.assign(fold=table["case"].map(FOLDS)).to_parquet(path)

    def stage(gives="maps", **params):
        before = {"network": SMALL, "gives": gives, "grow_mm": 2}
        run(
            ORGAN,
            TrainParams(**PARAMS | {"before": before} | params),
            **stage_files(prepared, "train", ORGAN),
        )

    deterministic = torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng():
        yield stage
    torch.use_deterministic_algorithms(deterministic)


def image_of(case):
    return torch.from_numpy(StoredCase(Path("data/volumes") / ORGAN / f"{case}{SUFFIX}").image())


@pytest.mark.parametrize("gives", GIVES)
def test_a_case_is_predicted_by_networks_that_have_not_learned_from_it(train, tmp_path, gives):
    train(gives)
    before = [load_model(MODEL / "before" / str(number)) for number in range(2)]
    (handed,) = {path.parent for path in (tmp_path / "home" / "checkpoints" / ORGAN).rglob("*.npy")}
    assert sorted(path.stem for path in handed.iterdir()) == sorted(FOLDS)
    # Of the groups [1] and [2], the first network is without the first and the second without the second.
    unknowing = {0: before, 1: before[:1], 2: before[1:]}
    for case, fold in FOLDS.items():
        found = torch.stack([model.shares(image_of(case)) for model in unknowing[fold]]).mean(0)
        expected = given_by(found, {"gives": gives, "grow_mm": 2}, (2.0, 1.0, 1.0))
        np.testing.assert_array_equal(np.load(handed / f"{case}.npy", allow_pickle=False), expected)


@pytest.mark.parametrize("gives", GIVES)
def test_run_again_it_gives_the_same_without_training_again(train, tmp_path, gives):
    train(gives)
    first = {path: path.read_bytes() for path in MODEL.rglob("*") if path.is_file()}
    home = tmp_path / "home" / "checkpoints"
    made = {path: path.stat().st_mtime_ns for path in home.rglob("*") if path.is_file()}
    assert len(first) == 6
    shutil.rmtree(MODEL)
    train(gives)
    assert {path: path.read_bytes() for path in MODEL.rglob("*") if path.is_file()} == first
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*") if path.is_file()} == made


def test_writing_down_what_was_planned_of_the_network_before_is_no_other_training(train, tmp_path):
    train()
    weights = (MODEL / "weights.safetensors").read_bytes()
    checkpoints = tmp_path / "home" / "checkpoints" / ORGAN
    made = {path.name for path in checkpoints.iterdir()}
    planned = json.loads((MODEL / "before" / "0" / "config.json").read_text())["network"]
    assert planned.keys() > SMALL.keys()
    train(before={"network": planned, "gives": "maps", "grow_mm": 2})
    assert {path.name for path in checkpoints.iterdir()} == made
    assert (MODEL / "weights.safetensors").read_bytes() == weights


def test_a_network_sees_the_maps_beside_the_image(train):
    train()
    model = load_model(MODEL)
    images = [channel["image"] for channel in model.config["normalisation"]]
    assert images == [0, 1, 2]
    image = image_of("case_0")
    share = model.shares(image)
    assert share.shape == (3, *image.shape[1:])
    before = model.before
    model.before = before[:1]
    assert not torch.equal(model.shares(image), share)


def test_a_later_training_without_one_before_leaves_nothing_of_it(train):
    train()
    train(before=None)
    assert sorted(path.name for path in MODEL.iterdir()) == ["config.json", "weights.safetensors"]
    assert load_model(MODEL).before == []


def test_a_changed_network_before_is_refused(train):
    train()
    config = MODEL / "before" / "1" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"patch_size": [4, 4, 4]}))
    with pytest.raises(DataError, match=r"before/1/config\.json is not the file that was saved"):
        load_model(MODEL)
    config.unlink()
    with pytest.raises(DataError, match="restore it with dvc checkout"):
        load_model(MODEL)


def test_what_lies_outside_a_region_teaches_nothing(train, monkeypatch):
    """Whatever the first network found: here a box that holds a part of the organ."""
    from pipeline.training import before

    def found(shares, *_):
        region = np.zeros((1, *shares.shape[1:]), np.uint8)
        region[0, 3:9, 3:9, 3:8] = 1
        return region

    monkeypatch.setattr(before, "given_by", found)
    train("region")
    first = (MODEL / "weights.safetensors").read_bytes()
    # Labels outside may be what they like.
    for path in (Path("data/volumes") / ORGAN).iterdir():
        case = StoredCase(path)
        label = case.label()
        label[:, :, 9:] = 1
        write_case(path, case.image(), label, {})
    shutil.rmtree(Path(os.environ["HOUNSFIELD_HOME"]))
    train("region")
    changed = [(MODEL / "before" / "0" / "weights.safetensors").read_bytes()]
    assert (MODEL / "weights.safetensors").read_bytes() == first
    assert changed[0] != first


@pytest.mark.parametrize("gives", ["region", "box"])
def test_what_lies_where_the_network_does_not_look_was_not_found(train, monkeypatch, gives):
    """The first network found half of one organ, and nothing of the other."""
    from pipeline.training import before

    def found(shares, *_):
        region = np.zeros((1, *shares.shape[1:]), np.uint8)
        region[0, 3:6, 3:8, 2:6] = 1
        return region

    monkeypatch.setattr(before, "given_by", found)
    train(gives, steps=20, learning_rate=0.02, ema_decay=0.0)
    dice = pd.read_csv(Path("reports") / ORGAN / "curves.csv")["dice"]
    assert 0.3 < dice.iloc[-1] < 0.34


def test_a_network_before_is_not_trained_without_a_label_either(train):
    path = Path("data/patches") / f"{ORGAN}.parquet"
    table = pd.read_parquet(path)
    table.loc[table["fold"] == 1, "annotated"] = "far"
    table.to_parquet(path)
    with pytest.raises(DataError, match=r"nobody looked for near in any of the 2 cases .* before\.folds"):
        train()


def test_a_label_that_a_later_network_before_would_lack_is_said_before_anything_is_trained(train, tmp_path):
    path = Path("data/patches") / f"{ORGAN}.parquet"
    table = pd.read_parquet(path)
    # Of the two networks of the ensemble, the first has none before it that learns from fold 0 alone.
    table.loc[table["fold"] == 0, "annotated"] = "far"
    table.to_parquet(path)
    with pytest.raises(DataError, match="nobody looked for near in any of the 1 cases"):
        train(ensemble=2)
    assert not (tmp_path / "home" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"loss": {"weights": {"livr": 2.0}}}, "'livr', which is no label"),
        ({"start": "0" * 64}, "train.start names is not at"),
        ({"network": {"name": "unet", "width": 0.0}}, "'unet' cannot be built"),
        ({"network": {"name": "pyramid_lstm"}, "dropout": 0.1}, "dropout has nothing to drop"),
        (
            {"network": SMALL | {"channels": [2] * 4, "strides": [[1] * 3, [2] * 3, [2] * 3, [4] * 3]}},
            "a single voxel in the deepest layer",
        ),
    ],
)
def test_what_the_second_network_cannot_be_is_said_before_the_first_is_trained(train, tmp_path, params, said):
    with pytest.raises(HounsfieldError, match=said):
        train(**params)
    assert not (tmp_path / "home" / "checkpoints").exists()


@pytest.mark.parametrize("processes", [1, 2])
def test_patches_of_all_processes_are_normalised_together_and_looked_at_so_before(
    train, monkeypatch, processes
):
    class Looked(Exception):
        pass

    def trained(*_):
        raise Looked

    monkeypatch.setattr(fit, "world", lambda: processes)
    monkeypatch.setattr(stage_train, "fit_before", trained)
    # A single voxel in the deepest layer, with batch normalisation.
    network = {"name": "unet", "width": 0.05, "norm": "batch"}
    with pytest.raises(Looked if processes == 2 else ParamsError):
        train(network=network, micro_batch=1)


def test_what_the_second_network_starts_from_is_said_when_it_starts(train, tmp_path, capsys):
    train(before=None)
    content = content_of(MODEL)
    shutil.copytree(MODEL, tmp_path / "home" / "champions" / content)
    capsys.readouterr()
    train(start=content)
    said = capsys.readouterr().err
    assert said.count("starting from") == 1
    assert "steps of" in said.partition("starting from")[0]


@pytest.mark.parametrize(("gives", "annotation"), [("region", "full"), ("region", "image"), ("box", "image")])
def test_where_only_slices_are_judged_a_network_is_not_shown_parts_of_them(train, gives, annotation):
    path = Path("data/plans") / f"{ORGAN}.json"
    plan = json.loads(path.read_text())
    plan["recipe"]["annotation"]["kind"] = annotation
    path.write_text(json.dumps(plan))
    with pytest.raises(ParamsError, match=f"gives is {gives}, but what is known"):
        train(gives, loss={"presence": 0.1 if annotation == "full" else 0.0})


def test_a_model_that_others_come_before_is_not_used_as_it_is_without_them(train, tmp_path):
    train("box")
    content = content_of(MODEL)
    shutil.copytree(MODEL, tmp_path / "home" / "champions" / content)
    with pytest.raises(ParamsError, match="networks before it find"):
        train(before=None, start=content, transfer="zero")


def test_where_nothing_is_trained_no_network_comes_before(train):
    with pytest.raises(ValueError, match="a network before it would be"):
        train(start="0" * 64, transfer="zero")


def test_too_few_folds_are_refused(train):
    with pytest.raises(DataError, match="2 folds are learned from") as refused:
        train(before={"network": SMALL, "folds": 3})
    assert "before.folds" in refused.value.remedy


def test_where_one_fold_is_learned_from_no_lower_number_is_named(train):
    for name in ("patches", "accepted"):
        path = Path("data") / name / f"{ORGAN}.parquet"
        table = pd.read_parquet(path)
        table.assign(fold=table["fold"].clip(upper=1)).to_parquet(path)
    with pytest.raises(DataError, match=r"1 fold is learned from: raise validate.folds$"):
        train()


def test_a_map_that_was_cut_short_is_never_taken_for_whole(train, tmp_path):
    train()
    first = (MODEL / "weights.safetensors").read_bytes()
    (handed,) = {path.parent for path in (tmp_path / "home" / "checkpoints" / ORGAN).rglob("*.npy")}
    (handed / "case_1.npy").rename(handed / ".1.partial.case_1.npy")
    train()
    assert (MODEL / "weights.safetensors").read_bytes() == first
    assert sorted(path.name for path in handed.iterdir()) == [f"{case}.npy" for case in sorted(FOLDS)]


def test_what_is_ruled_out_at_inference_needs_no_other_training(train, tmp_path, capsys):
    accepted = Path("data/accepted") / f"{ORGAN}.parquet"
    pd.read_parquet(accepted).assign(fg_low=50.0, fg_high=350.0).to_parquet(accepted)
    train(before=None)
    capsys.readouterr()
    train(before=None, inference={"rule_out": True})
    assert "going on from step 3" in capsys.readouterr().err
    assert load_model(MODEL).config["rule_out"] == [50.0, 350.0]


@pytest.mark.parametrize("before", [None, {"network": SMALL}])
def test_an_ensemble_is_the_mean_of_networks_that_each_left_another_fold_out(train, before):
    train(before=before, ensemble=3)
    model = load_model(MODEL)
    assert [one.config["training"]["fold"] for one in (model, *model.folds)] == [0, 1, 2]
    assert set(model.config["fold_dice"]) == {"0", "1", "2"}
    assert all(0 <= dice <= 1 for dice in model.config["fold_dice"].values())
    alone = type(model)(model.config, model.network, model.before)
    image = image_of("case_0")
    each = [one.shares(image) for one in (alone, *model.folds)]
    assert not torch.allclose(each[0], each[1])
    torch.testing.assert_close(model.shares(image), torch.stack(each).mean(0))


def test_the_first_network_of_an_ensemble_is_not_trained_again(train, capsys):
    train(before=None)
    alone = (MODEL / "weights.safetensors").read_bytes()
    train(before=None, ensemble=2)
    assert "going on from step 3" in capsys.readouterr().err
    assert (MODEL / "weights.safetensors").read_bytes() == alone
    train(before=None)
    assert not (MODEL / "folds").exists()


def test_a_network_of_an_ensemble_that_was_changed_is_refused(train):
    train(before=None, ensemble=2)
    weights = MODEL / "folds" / "1" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(DataError, match="checksum"):
        load_model(MODEL)


def test_an_ensemble_has_no_more_networks_than_there_are_folds(train):
    with pytest.raises(DataError, match="an ensemble of 4 networks, but the cases are in 3 folds"):
        train(before=None, ensemble=4)


def test_what_helps_the_folds_left_out_is_done_to_label_maps(train, monkeypatch):
    """The right label map with a stray voxel of `near` in a corner: pieces so small are dropped."""
    asked = []

    def straying(trained):
        model = as_model(trained)

        def slabs(image):
            asked.append(trained.config["training"]["fold"])
            classes = torch.bucketize(image[0], torch.tensor([-50.0, 200.0]))
            classes[0, 0, 0] = 2
            yield torch.nn.functional.one_hot(classes, 3).movedim(-1, 0).float()

        model.slabs = slabs
        return model

    monkeypatch.setattr(cross_validation, "as_model", straying)
    train(before=None, ensemble=3)
    assert asked == [0, 1, 1, 2]
    cleaning = load_model(MODEL).config["clean"]
    assert set(cleaning) == {"near"}
    assert cleaning["near"]["minimum_ml"] == 0.018
    assert cleaning["near"]["cases"] == 4
    train(before=None, inference={"clean": "none"})
    assert "clean" not in load_model(MODEL).config


def test_what_helps_one_patient_alone_is_not_done_to_label_maps(train, monkeypatch):
    asked = []

    def adopted(steps, dice, patient):
        asked.append((len(dice), patient.tolist()))

    monkeypatch.setattr(cross_validation, "adopt", adopted)
    path = Path("data/accepted") / f"{ORGAN}.parquet"
    table = pd.read_parquet(path)
    # Judged by folds: case_0, then case_1 and case_3, then case_2.
    table.assign(patient=table["case"].map({"case_3": "case_1"}).fillna(table["case"])).to_parquet(path)
    train(before=None, ensemble=3)
    assert asked == [(4, [0, 1, 1, 2])] * 2


def test_what_lies_under_the_marks_of_slices_says_nothing_of_how_a_model_is_used(train):
    plan = Path("data/plans") / f"{ORGAN}.json"
    told = json.loads(plan.read_text())
    told["recipe"]["annotation"]["kind"] = "image"
    plan.write_text(json.dumps(told))
    accepted = Path("data/accepted") / f"{ORGAN}.parquet"
    pd.read_parquet(accepted).assign(fg_low=-1024.0, fg_high=-990.0).to_parquet(accepted)
    train(before=None, inference={"rule_out": True})
    assert not {"rule_out", "clean"} & load_model(MODEL).config.keys()
