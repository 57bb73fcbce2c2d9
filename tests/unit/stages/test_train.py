import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file

from pipeline.atomic import locked, read_json, write_json
from pipeline.errors import DataError, MissingError, ParamsError
from pipeline.params import TrainParams
from pipeline.registry.artifacts import content_of
from pipeline.workspace import stage_files

ORGAN = "liver"
ROOT = Path(__file__).parents[3]
PARAMS = {
    "profile": "small",
    "network": {"channels": [4, 6]},
    "steps": 5,
    "batch_size": 2,
    "checkpoint_every": 2,
    "validate_every": 3,
    "precision": "float32",
}
MODEL = Path("models") / ORGAN
CURVES = Path("reports") / ORGAN / "curves.csv"
PATCHES = Path("data") / "patches" / f"{ORGAN}.parquet"


@pytest.fixture
def train(prepared):
    """Runs the stage with the parameters above and those given."""
    import torch

    from pipeline.stages.train import run

    def stage(**params):
        run(ORGAN, TrainParams(**PARAMS | params), **stage_files(prepared, "train", ORGAN))

    deterministic = torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng():
        yield stage
    torch.use_deterministic_algorithms(deterministic)


def outputs():
    return {path.name: path.read_bytes() for path in [*MODEL.iterdir(), CURVES]}


def trainings(tmp_path):
    return sorted(path.name for path in (tmp_path / "home" / "checkpoints" / ORGAN).iterdir())


def test_writing_down_what_was_planned_is_no_other_training(train, tmp_path):
    train()
    planned, key = json.loads((MODEL / "config.json").read_text()), trainings(tmp_path)
    train(network=planned["network"], learning_rate=planned["training"]["learning_rate"])
    assert json.loads((MODEL / "config.json").read_text()) == planned
    assert trainings(tmp_path) == key


def test_the_batch_of_a_gpu_is_that_of_the_plan_and_without_one_it_says_so(train, prepared, capsys):
    path = prepared / "data" / "plans" / f"{ORGAN}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"batch_size": 3}))
    train(profile="full", batch_size="auto", steps=1)
    assert json.loads((MODEL / "config.json").read_text())["training"]["batch_size"] == 3
    assert "planned for a GPU" not in capsys.readouterr().err
    train(batch_size="auto", steps=1)
    assert json.loads((MODEL / "config.json").read_text())["training"]["batch_size"] == 2
    assert "planned for a GPU" in capsys.readouterr().err


def test_the_model_can_be_used(train):
    from pipeline.inference.model import load_model
    from pipeline.volumes.recipe import Recipe

    train()
    assert sorted(path.name for path in MODEL.iterdir()) == ["config.json", "weights.safetensors"]
    config = load_model(MODEL).config
    assert config["organ"] == ORGAN
    assert config["labels"] == {"near": 5, "far": 2}
    assert config["spacing"] == [2.0, 1.0, 1.0]
    assert Recipe.of(config) == Recipe("CT", {"near": 5, "far": 2}, (2.0, 1.0, 1.0))
    assert config["normalisation"] == [{"image": 0, "clip": [-1000.0, 1000.0], "mean": 0.0, "std": 100.0}]
    assert config["patch_size"] == [8, 8, 8]
    assert config["network"] == {
        "name": "residual_unet",
        "channels": [4, 6],
        "strides": [[1, 1, 1], [1, 2, 2]],
        "kernels": [[3, 3, 3], [3, 3, 3]],
        "deep_supervision": True,
    }
    assert config["training"]["steps"] == 5
    assert config["training"]["batch_size"] == 2
    # What the profile filled in is written down, too.
    assert config["training"]["learning_rate"] == 3e-3


def test_the_curve_has_a_row_a_look(train):
    train()
    curve = pd.read_csv(CURVES)
    assert list(curve.columns) == ["step", "loss", "dice"]
    assert curve["step"].tolist() == [3, 5]
    assert curve["dice"].between(0, 1).all()


def test_one_seed_gives_the_same_bytes(train, tmp_path):
    train()
    first = outputs()
    for folder in (tmp_path / "home", MODEL):
        shutil.rmtree(folder)
    train()
    assert outputs() == first


def test_another_seed_gives_other_weights(train):
    train()
    first = outputs()
    train(seed=1)
    assert outputs()["weights.safetensors"] != first["weights.safetensors"]


def test_it_learns(train):
    train(steps=60, validate_every=60, learning_rate=0.02, ema_decay=0.9)
    # About 0.8: processors round sums in ways of their own.
    assert pd.read_csv(CURVES)["dice"].iloc[-1] > 0.7


def test_a_label_that_nobody_looked_for_is_not_learned_to_be_absent(train):
    # Of two cases to learn from, 'near' is there in both and outlined in one.
    hide_near("case_2")
    found = {}
    for annotated in ("far", ""):
        table = pd.read_parquet(PATCHES)
        table.loc[table["case"] == "case_2", "annotated"] = annotated
        table.to_parquet(PATCHES)
        # The logarithm is of what a batch holds: it says nothing of what is absent, in either case.
        train(steps=60, validate_every=60, learning_rate=0.02, ema_decay=0.9, loss={"dice": "linear"})
        found[annotated] = pd.read_csv(CURVES)["dice"].iloc[-1]
    assert found["far"] > found[""] + 0.1


def test_a_label_that_nobody_looked_for_in_what_is_learned_from_is_refused(train):
    table = pd.read_parquet(PATCHES)
    table.loc[table["fold"] == 1, "annotated"] = "far"
    table.to_parquet(PATCHES)
    with pytest.raises(DataError, match=r"nobody looked for near in any of the 2 cases .* fold"):
        train()
    with pytest.raises(DataError, match=r"nobody looked for near .* ensemble"):
        train(fold=1, ensemble=2)
    assert not MODEL.exists()
    train(fold=1)


def hide_near(case):
    from pipeline.volumes.store import SUFFIX, read_case, write_case

    path = Path("data") / "volumes" / ORGAN / f"{case}{SUFFIX}"
    stored = read_case(path)
    write_case(path, stored.image, np.where(stored.label == 2, 0, stored.label).astype(np.uint8), {})


def test_a_network_is_trained_on_every_channel(train):
    from pipeline.inference.model import load_model
    from pipeline.volumes.store import SUFFIX, read_case, write_case

    for number in range(4):
        path = Path("data") / "volumes" / ORGAN / f"case_{number}{SUFFIX}"
        stored = read_case(path)
        write_case(path, np.concatenate([stored.image, -stored.image]), stored.label, {})
    path = Path("data") / "plans" / f"{ORGAN}.json"
    plan = json.loads(path.read_text())
    channel = plan["normalisation"][0]
    plan["normalisation"] = [channel, channel | {"image": 1}, channel | {"clip": [0.0, 200.0]}]
    path.write_text(json.dumps(plan))
    train()
    weights = next(load_model(MODEL).network.parameters())
    assert weights.shape[1] == 3


def test_a_run_after_a_finished_one_gives_the_same_without_training_again(train, tmp_path):
    train()
    first = outputs()
    checkpoints = tmp_path / "home" / "checkpoints" / ORGAN
    times = {path: path.stat().st_mtime_ns for path in checkpoints.rglob("*.safetensors")}
    shutil.rmtree(MODEL)
    train()
    assert outputs() == first
    assert {path: path.stat().st_mtime_ns for path in checkpoints.rglob("*.safetensors")} == times


def test_a_checkpoint_is_not_used_for_other_parameters_data_augmentation_or_code(
    train, tmp_path, monkeypatch
):
    train()
    assert len(trainings(tmp_path)) == 1
    train(learning_rate=0.001)
    assert len(trainings(tmp_path)) == 2
    table = pd.read_parquet(PATCHES)
    table.loc[5, "key"] = "another volume"
    table.to_parquet(PATCHES)
    train()
    assert len(trainings(tmp_path)) == 3
    policy = json.loads(Path(f"data/augmentation/{ORGAN}.json").read_text())
    policy["params"]["rotation_degrees"] = 1.0
    Path(f"data/augmentation/{ORGAN}.json").write_text(json.dumps(policy))
    train()
    assert len(trainings(tmp_path)) == 4
    monkeypatch.setattr("pipeline.training.material.sha256_code", lambda *_: "other")
    train()
    assert len(trainings(tmp_path)) == 5


def test_where_nobody_looked_for_a_label_in_the_watched_fold_its_dice_is_not_known(train):
    table = pd.read_parquet(PATCHES)
    table.loc[table["fold"] == 0, "annotated"] = "another"
    table.to_parquet(PATCHES)
    train()
    assert pd.read_csv(CURVES)["dice"].isna().all()


def test_a_case_that_is_only_tested_with_makes_no_other_training(train, tmp_path):
    train()
    made, weights = trainings(tmp_path), outputs()["weights.safetensors"]
    path = Path("data") / "accepted" / f"{ORGAN}.parquet"
    accepted = pd.read_parquet(path)
    tested = accepted.head(1).assign(case="new", split="test", fold=-1, spacing_z=3.0)
    pd.concat([accepted, tested]).to_parquet(path)
    train()
    assert trainings(tmp_path) == made
    assert outputs()["weights.safetensors"] == weights
    assert json.loads((MODEL / "config.json").read_text())["fingerprint_data"]["cases"] == 5


def test_the_watched_fold_is_not_learned_from(train):
    from pipeline.volumes.store import SUFFIX, write_case

    train(fold=1)
    before = outputs()["weights.safetensors"]
    noise = np.random.default_rng(0).normal(0, 1, (12, 12, 12)).astype(np.float32)
    for case in ("case_2", "case_3"):
        path = Path("data") / "volumes" / ORGAN / f"{case}{SUFFIX}"
        write_case(path, noise, (noise > 0).astype(np.uint8), {})
    table = pd.read_parquet(PATCHES)
    table.loc[table["fold"] == 1, "key"] = "another volume"
    table.to_parquet(PATCHES)
    train(fold=1)
    assert outputs()["weights.safetensors"] == before


@pytest.mark.parametrize(
    ("fold", "folds", "said"),
    [
        (3, None, r"fold 3 holds no case of 4: set organs\.liver\.train\.fold to one of \[0, 1"),
        (0, 0, r"fold 0 holds every case of 4.*: add cases, or set .*validate\.split_seed"),
        (1, 0, r"fold 0 holds every case of 4.*: add cases, or set .*validate\.split_seed"),
    ],
)
def test_a_fold_that_cannot_be_watched_is_told_with_the_way_out(train, fold, folds, said):
    table = pd.read_parquet(PATCHES)
    (table if folds is None else table.assign(fold=folds)).to_parquet(PATCHES)
    with pytest.raises(DataError, match=said):
        train(fold=fold)


def test_killed_at_any_moment_and_run_again_it_gives_the_same_bytes(prepared):
    script = Path(__file__).with_name("forked_train.py")
    done = subprocess.run(
        [sys.executable, script, json.dumps(PARAMS)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    *kills, undisturbed = found["kills"]
    assert len(kills) >= 7
    assert undisturbed["after"] != found["older"]
    for kill in kills:
        assert kill["after"] == undisturbed["after"]
        assert kill["curve"] == undisturbed["curve"]
        whole = {name: hashed for name, hashed in kill["at_kill"].items() if not name.startswith(".")}
        assert kill["accepted"] == (whole in (found["older"], undisturbed["after"]))
    assert not all(kill["accepted"] for kill in kills)


def test_a_training_waits_for_another_of_the_same_folder(train, tmp_path, capsys):
    second, said = threading.Thread(target=train), ""
    with locked(MODEL.with_name(f".{ORGAN}.lock"), "a test"):
        second.start()
        while "another process is busy with training liver; waiting for it" not in said:
            assert second.is_alive()
            said += capsys.readouterr().err
            time.sleep(0.02)
        assert not (tmp_path / "home" / "checkpoints").exists()
    second.join()
    assert (MODEL / "config.json").is_file()


def test_a_training_can_begin_with_a_registered_model(train, tmp_path, capsys):
    train()
    content = content_of(MODEL)
    kept = tmp_path / "home" / "champions" / content
    shutil.copytree(MODEL, kept)
    begun = {"steps": 1, "learning_rate": 1e-9, "ema_decay": 0.0}
    train(**begun)
    fresh = load_file(MODEL / "weights.safetensors")
    train(**begun, start=content)
    warm = load_file(MODEL / "weights.safetensors")
    champion = load_file(kept / "weights.safetensors")
    assert f"weights of the model {content[:12]}" in capsys.readouterr().err
    assert all(np.allclose(warm[name], champion[name], atol=1e-6) for name in champion)
    assert not all(np.allclose(fresh[name], champion[name], atol=1e-6) for name in champion)
    assert json.loads((MODEL / "config.json").read_text())["training"]["start"] == content


def test_a_model_of_other_width_lends_what_fits(train, tmp_path, capsys):
    train()
    content = content_of(MODEL)
    shutil.copytree(MODEL, tmp_path / "home" / "champions" / content)
    train(start=content, network={"channels": [4, 8]})
    said = capsys.readouterr().err
    taken, of = (int(n) for n in re.search(r"starting from (\d+) of (\d+) weights", said).groups())
    assert 0 < taken < of


@pytest.fixture
def donor(train, tmp_path):
    """A registered model by its content, with its weights."""
    train()
    content = content_of(MODEL)
    kept = tmp_path / "home" / "champions" / content
    shutil.copytree(MODEL, kept)
    return content, load_file(kept / "weights.safetensors")


def moved(donor):
    """Of the weights of the model that was trained, those that are not the donor's any more."""
    own = load_file(MODEL / "weights.safetensors")
    assert own.keys() == donor.keys()
    return {name for name in own if not np.array_equal(own[name], donor[name])}


def test_in_a_full_transfer_every_layer_learns(train, donor):
    content, weights = donor
    train(start=content, seed=1)
    assert len(moved(weights)) == len(weights)


def test_in_a_partial_transfer_the_first_layers_are_bit_for_bit_those_they_were(train, donor, capsys):
    content, weights = donor
    train(start=content, seed=1, transfer="partial", frozen_share=0.5)
    learned = moved(weights)
    assert 0 < len(learned) < len(weights)
    assert "encoder.0.first.0.weight" not in learned
    assert "head.weight" in learned
    assert "7 of 14 layers" in capsys.readouterr().err
    train(start=content, seed=1, transfer="partial", frozen_share=0.2)
    assert learned < moved(weights)


def test_each_network_of_an_ensemble_begins_with_the_one_that_left_the_same_fold_out(train, tmp_path):
    train(ensemble=2)
    donors = [load_file(MODEL / place / "weights.safetensors") for place in (".", "folds/1")]
    content = content_of(MODEL)
    shutil.copytree(MODEL, tmp_path / "home" / "champions" / content)
    begun = {"steps": 1, "learning_rate": 1e-9, "ema_decay": 0.0, "start": content}
    train(**begun, ensemble=2)
    for place, donor in zip((".", "folds/1"), donors, strict=True):
        own = load_file(MODEL / place / "weights.safetensors")
        assert all(np.allclose(own[name], donor[name], atol=1e-6) for name in donor)
    train(**begun, fold=1)
    own = load_file(MODEL / "weights.safetensors")
    assert all(np.allclose(own[name], donors[1][name], atol=1e-6) for name in own)


def test_a_network_begins_with_none_of_its_organ_that_has_learned_from_its_fold(train, donor, capsys):
    content, weights = donor
    begun = {"steps": 1, "learning_rate": 1e-9, "ema_decay": 0.0}
    train(**begun, fold=1)
    fresh = load_file(MODEL / "weights.safetensors")
    train(**begun, ensemble=2, start=content)
    assert (
        "has learned from cases of fold 1, which a network is judged by: it begins" in capsys.readouterr().err
    )
    own, other = (load_file(MODEL / place / "weights.safetensors") for place in (".", "folds/1"))
    assert all(np.allclose(own[name], weights[name], atol=1e-6) for name in weights)
    assert all(np.allclose(other[name], fresh[name], atol=1e-6) for name in fresh)
    with pytest.raises(
        ParamsError, match=r"transfer is zero, but the model .* has learned from cases of fold 1"
    ):
        train(start=content, ensemble=2, transfer="zero")


def test_where_patients_were_dealt_to_folds_otherwise_a_fold_of_the_same_number_is_another(
    train, donor, capsys, tmp_path
):
    content, weights = donor
    begun = {"steps": 1, "learning_rate": 1e-9, "ema_decay": 0.0}
    accepted = Path("data") / "accepted" / f"{ORGAN}.parquet"
    pd.read_parquet(accepted).assign(split_rule="2 folds, seed 1").to_parquet(accepted)
    train(**begun, start=content)
    assert (
        "has learned from cases of fold 0, which a network is judged by: it begins" in capsys.readouterr().err
    )
    own = load_file(MODEL / "weights.safetensors")
    assert not np.allclose(own["head.weight"], weights["head.weight"], atol=1e-6)
    assert read_json(MODEL / "config.json")["training"]["split_rule"] == "2 folds, seed 1"
    # A model that was trained before this was recorded is trusted to be of the same rule.
    of_before = tmp_path / "of_before"
    shutil.copytree(tmp_path / "home" / "champions" / content, of_before)
    config = read_json(of_before / "config.json")
    del config["training"]["split_rule"]
    write_json(of_before / "config.json", config)
    content = content_of(of_before)
    of_before.rename(tmp_path / "home" / "champions" / content)
    train(**begun, start=content)
    own = load_file(MODEL / "weights.safetensors")
    assert all(np.allclose(own[name], weights[name], atol=1e-6) for name in weights)


def test_cases_of_an_earlier_release_are_not_trained_with(train):
    accepted = Path("data") / "accepted" / f"{ORGAN}.parquet"
    pd.read_parquet(accepted).drop(columns="split_rule").to_parquet(accepted)
    with pytest.raises(MissingError, match=r"does not say how .*: run dvc repro augment@liver"):
        train()


def test_weights_that_may_not_stay_in_a_later_network_are_refused_before_the_first_is_trained(
    train, donor, tmp_path
):
    content, _ = donor
    made = trainings(tmp_path)
    with pytest.raises(
        ParamsError, match=r"transfer is partial, but the model .* has learned from cases of fold 1"
    ):
        train(start=content, ensemble=2, transfer="partial")
    assert trainings(tmp_path) == made


def test_what_no_donor_gave_is_never_frozen(train, donor):
    content, weights = donor
    train(start=content, transfer="partial", frozen_share=1.0, network={"channels": [4, 8]})
    own = load_file(MODEL / "weights.safetensors")
    assert np.array_equal(own["encoder.0.first.0.weight"], weights["encoder.0.first.0.weight"])
    taken = {name for name in own if name in weights and own[name].shape == weights[name].shape}
    before = outputs()
    train(
        start=content, transfer="partial", frozen_share=1.0, network={"channels": [4, 8]}, learning_rate=0.1
    )
    after = load_file(MODEL / "weights.safetensors")
    assert before != outputs()
    assert {name for name in own if not np.array_equal(own[name], after[name])} == set(own) - taken


def test_a_partial_transfer_that_leaves_nothing_to_learn_is_refused(train, donor):
    content, _ = donor
    with pytest.raises(ParamsError, match=r"frozen_share of 1 leaves no weight.*: lower train\.frozen_share"):
        train(start=content, transfer="partial", frozen_share=1.0)


def test_in_a_partial_transfer_a_training_goes_on_where_it_was_stopped(train, donor, monkeypatch):
    content, _ = donor
    given = {"start": content, "transfer": "partial", "steps": 6}
    train(**given)
    undisturbed = outputs()
    shutil.rmtree(Path(os.environ["HOUNSFIELD_HOME"]) / "checkpoints")
    saves = []

    def stop(*_given):
        saves.append(1)
        if len(saves) == 2:
            raise KeyboardInterrupt
        return save(*_given)

    from pipeline.training import loop

    save = loop.save_checkpoint
    monkeypatch.setattr(loop, "save_checkpoint", stop)
    with pytest.raises(KeyboardInterrupt):
        train(**given)
    monkeypatch.setattr(loop, "save_checkpoint", save)
    train(**given)
    assert outputs() == undisturbed


def test_in_a_zero_transfer_nothing_changes_and_the_model_can_be_used(train, donor):
    from pipeline.inference.model import load_model

    content, weights = donor
    train(start=content, seed=1, transfer="zero")
    assert not moved(weights)
    curve = pd.read_csv(CURVES)
    assert curve["step"].tolist() == [0]
    assert 0 <= curve["dice"].item() <= 1
    assert load_model(MODEL).config["training"]["transfer"] == "zero"


def test_in_a_zero_transfer_no_weight_may_be_random(train, donor):
    content, _ = donor
    with pytest.raises(ParamsError, match="weights would be random"):
        train(start=content, transfer="zero", network={"channels": [4, 8]})


@pytest.mark.parametrize("transfer", ["partial", "zero"])
def test_a_transfer_needs_something_to_start_from(transfer):
    with pytest.raises(ValueError, match="hounsfield start-from ORGAN OTHER"):
        TrainParams(transfer=transfer)


@pytest.mark.parametrize(
    "change",
    [{"dropout": 0.3}, {"drop_connect": 0.3}, {"network": {"channels": [4, 6], "init": "normal"}}],
    ids=str,
)
def test_what_is_dropped_and_how_weights_are_drawn_makes_another_model(train, change):
    train()
    plain = load_file(MODEL / "weights.safetensors")
    train(**change)
    assert len(moved(plain)) > len(plain) / 2
    assert all(np.isfinite(weight).all() for weight in load_file(MODEL / "weights.safetensors").values())


@pytest.mark.parametrize("what", ["absent", "changed"])
def test_a_start_that_is_not_there_is_refused(train, tmp_path, what):
    train()
    content = content_of(MODEL)
    kept = tmp_path / "home" / "champions" / content
    if what == "changed":
        shutil.copytree(MODEL, kept)
        (kept / "weights.safetensors").write_bytes(b"other")
    with pytest.raises(MissingError, match="--start warm"):
        train(start=content)


def test_voxels_between_objects_can_be_made_heavier(train):
    train()
    plain = load_file(MODEL / "weights.safetensors")
    train(loss={"boundary_weights": {"w0": 10, "sigma": 2}})
    heavier = load_file(MODEL / "weights.safetensors")
    assert any(not np.array_equal(plain[name], heavier[name]) for name in plain)
    assert all(np.isfinite(weight).all() for weight in heavier.values())


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_a_patch_that_is_one_voxel_in_the_deepest_layer_is_refused(train, norm):
    network = {"name": "unet", "width": 0.05, "norm": norm}
    with pytest.raises(ParamsError, match=r"patches of 8 x 8 x 8 voxels .*: raise patches\.size"):
        train(network=network, batch_size=1)


def test_in_a_partial_transfer_too_small_a_patch_is_refused_as_well(train, tmp_path):
    network = {"name": "unet", "width": 0.05, "norm": "instance"}
    table = pd.read_parquet(PATCHES)
    table.assign(size_z=16, size_y=16, size_x=16).to_parquet(PATCHES)
    train(network=network, steps=1)
    content = content_of(MODEL)
    shutil.copytree(MODEL, tmp_path / "home" / "champions" / content)
    table.to_parquet(PATCHES)
    with pytest.raises(ParamsError, match=r"patches of 8 x 8 x 8 voxels .*: raise patches\.size"):
        train(network=network, start=content, transfer="partial")


def test_a_model_does_not_look_at_left_and_right_the_other_way_round(train):
    plan = Path("data") / "plans" / f"{ORGAN}.json"
    plan.write_text(plan.read_text().replace('"near"', '"Kidney_L"'))
    with pytest.raises(ParamsError, match=r"inference\.mirror_axes has x, but Kidney_L would.*: remove x"):
        train(inference={"mirror_axes": ["y", "x"]})
    assert not MODEL.exists()


def test_a_weight_of_no_label_is_refused(train):
    with pytest.raises(ParamsError, match="'liver', which is no label: it may have background, far, near"):
        train(loss={"weights": {"liver": 2}})


def test_the_curve_of_an_ensemble_goes_on_where_one_of_its_networks_has_ended():
    from pipeline.stages.train import _mean_curve

    short, long = (
        [{"step": step, "loss": 1.0, "dice": dice} for step, dice in rows]
        for rows in ([(3, 0.1), (5, 0.5)], [(3, 0.3), (6, 0.7), (9, 0.9)])
    )
    mean = [(row["step"], round(row["dice"], 6)) for row in _mean_curve([short, long])]
    assert mean == [(3, 0.2), (5, 0.4), (6, 0.6), (9, 0.7)]


def test_a_fold_whose_dice_is_not_known_hides_no_other_of_an_ensemble():
    from pipeline.stages.train import _mean_curve

    curves = [[{"step": step, "loss": 1.0, "dice": dice} for step in (3, 5)] for dice in (0.4, 0.6, math.nan)]
    assert [row["dice"] for row in _mean_curve(curves)] == [0.5, 0.5]
    assert math.isnan(_mean_curve([curves[2]] * 2)[0]["dice"])


def test_asked_to_end_the_command_says_that_a_retry_goes_on_and_it_does(prepared, tmp_path):
    """As Airflow asks it to: with the code that has it tried again, and the weights of an undisturbed one."""
    (prepared / "params.yaml").write_text(json.dumps(whole_params(steps=200)))
    with command(tmp_path / "undisturbed") as undisturbed:
        said = undisturbed.stderr.read()
    assert undisturbed.returncode == 0, said
    expected = outputs()
    shutil.rmtree(MODEL)
    with command(tmp_path / "asked") as asked:
        said = next(line for line in asked.stderr if line.startswith("step "))
        asked.send_signal(signal.SIGTERM)
        said += asked.stderr.read()
    assert asked.returncode == 75, said
    stopped = re.search(r"error the training was stopped after step (\d+), which is saved: given again", said)
    assert int(stopped[1]) < 200
    assert not MODEL.exists()
    with command(tmp_path / "asked") as again:
        said = again.stderr.read()
    assert again.returncode == 0, said
    assert f"going on from step {stopped[1]}\n" in said
    assert outputs() == expected


def whole_params(**train):
    """All that `params.yaml` has to have, as JSON, which is YAML."""
    sections = ["ingest", "validate", "patches", "augment", "train", "evaluate", "register"]
    organ = {section: {} for section in sections}
    organ["ingest"] = {"labels": {"near": 5, "far": 2}, "modality": "CT"}
    organ["train"] = PARAMS | train
    return {"defaults": {}, "organs": {ORGAN: organ}}


def command(home):
    """`hounsfield train` in a process of its own."""
    environment = {"HOUNSFIELD_HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", "train", ORGAN],
        env=os.environ | environment,
        stderr=subprocess.PIPE,
        text=True,
    )
