import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import nibabel
import numpy as np
import pandas as pd
import pytest

import pipeline
from pipeline.cli import approve
from pipeline.errors import DataError, MissingError, ParamsError
from pipeline.metrics.case_table import JUDGED, subject_of
from pipeline.params import RegisterParams
from pipeline.registry import champions
from pipeline.registry.artifacts import content_of
from pipeline.registry.connection import connect
from pipeline.registry.models import ModelRegistry
from pipeline.registry.version import RegisteredModel
from pipeline.stages.register import judge_champion, run
from pipeline.validation.drift import FINGERPRINT

PARAMS = RegisterParams(resamples=200)
CASES = ["001", "002", "NA", "case_4", "case_5", "case_6"]
LABELS = ["left", "right"]
CURVE = "step,loss,dice\n1,0.9,0.1\n2,0.5,\n"


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory):
    """An empty registry's database, made once because making it takes a second."""
    folder = tmp_path_factory.mktemp("registry")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        connect(folder)
    return folder / "mlflow.db"


class Project:
    """A project with the files of stage `register`; the champion's figures are those it was made with."""

    def __init__(self, root):
        self.root = root
        self.figures_of = {}
        self.judged = []
        accepted = pd.DataFrame({"case": [*CASES, "learned"], "key": "k", "split": ["test"] * 6 + ["train"]})
        (root / "data").mkdir(parents=True)
        accepted.to_parquet(root / "data" / "accepted.parquet")

    def train(self, name, dice, **more):
        """A model called `name` with this Dice (cases, labels), evaluated; `more` is of its configuration."""
        for folder in ("models", "metrics", "reports"):
            (self.root / folder).mkdir(exist_ok=True)
        config = {
            "network": {"name": "residual_unet", "channels": [8]},
            "training": {"steps": 7, "loss": {}},
            "labels": {"left": 1, "right": 2},
            "modality": "CT",
            "spacing": [3.0, 1.0, 1.0],
            "recipe": {"channels": 1},
        }
        (self.root / "models" / "config.json").write_text(json.dumps(config | more))
        (self.root / "models" / "weights.safetensors").write_text(name)
        figures = pd.DataFrame({"case": np.repeat(CASES, 2), "label": LABELS * 6, "dice": np.ravel(dice)})
        figures.to_csv(self.root / "reports" / "cases.csv", index=False)
        mean = {"dice": {"mean": float(np.nanmean(dice)), "left": None}}
        (self.root / "metrics" / "liver.json").write_text(json.dumps(mean))
        (self.root / "reports" / "curves.csv").write_text(CURVE)
        (self.root / "reports" / "report.html").write_text("<html></html>")
        self.figures_of[name] = figures

    def judge(self, champion, test, _raw, config):
        assert config == json.loads((self.root / "models" / "config.json").read_text())
        name = (champion.folder / "weights.safetensors").read_text()
        self.judged.append(name)
        figures = self.figures_of[name]
        return figures[figures["case"].isin(test["case"])]

    def register(self, params=PARAMS):
        """The outcome as it stands in the file."""
        outcome = Path("registry/liver.json")
        run(
            "liver",
            params,
            raw=Path("data/raw"),
            accepted=Path("data/accepted.parquet"),
            models=Path("models"),
            metrics=Path("metrics/liver.json"),
            curves=Path("reports/curves.csv"),
            cases=Path("reports/cases.csv"),
            report=Path("reports/report.html"),
            registry=outcome,
            decision=Path("reports/decision.html"),
            judge=self.judge,
        )
        return json.loads(outcome.read_text())


@pytest.fixture
def project(tmp_path, empty_database, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    (home / "mlflow.db").write_bytes(empty_database.read_bytes())
    monkeypatch.setenv("HOUNSFIELD_HOME", str(home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    project = Project(tmp_path / "project")
    monkeypatch.chdir(project.root)
    return project


def level(dice):
    return np.full((6, 2), dice)


def versions():
    return len(connect(Path(os.environ["HOUNSFIELD_HOME"])).search_model_versions("name = 'liver'"))


def test_the_first_model_becomes_champion_and_is_judged_against_nobody(project, capsys):
    project.train("first", level(0.8))
    outcome = project.register()
    assert outcome["decision"] == "promoted"
    assert (outcome["champion_version"], outcome["challenger_version"], outcome["compared_with"]) == (
        1,
        1,
        None,
    )
    assert project.judged == []
    champion = ModelRegistry(project.root).champion("liver")
    assert (champion.folder / "weights.safetensors").read_text() == "first"
    assert capsys.readouterr().err.startswith("liver: version 1 is promoted to champion, mean Dice 0.8000\n")


def test_a_model_that_was_trained_after_the_evaluation_is_not_promoted_for_the_figures_of_another(project):
    project.train("first", level(0.8))
    project.register()
    project.train("better", level(0.9))
    accepted, metrics = pd.read_parquet("data/accepted.parquet"), Path("metrics/liver.json")
    test = accepted[accepted["split"] == "test"]
    metrics.write_text(json.dumps({"dice": {"mean": 0.9}, JUDGED: subject_of(Path("models"), test)}))
    config = json.loads(Path("models/config.json").read_text())
    Path("models/config.json").write_text(json.dumps(config | {"sha256": {"weights.safetensors": "other"}}))
    with pytest.raises(DataError, match=r"of another model, .*: run dvc repro evaluate@liver"):
        project.register()
    Path("models/config.json").write_text(json.dumps(config))
    relabelled = accepted.assign(key=["other", *accepted["key"][1:]])
    relabelled.to_parquet("data/accepted.parquet")
    with pytest.raises(DataError, match="or of other test cases"):
        project.register()
    assert versions() == 1
    accepted.to_parquet("data/accepted.parquet")
    assert project.register()["decision"] == "promoted"


def test_a_better_model_takes_over_with_the_evidence(project):
    project.train("first", level(0.8))
    project.register()
    project.train("better", level(0.85))
    outcome = project.register()
    assert outcome["decision"] == "promoted"
    assert (outcome["champion_version"], outcome["compared_with"]) == (2, 1)
    assert outcome["evidence"]["classes"]["left"]["difference"] == 0.05
    assert outcome["evidence"]["overall"]["cases"] == len(CASES)
    assert ModelRegistry(project.root).champion_version("liver") == 2


def test_a_worse_model_is_registered_but_kept_from_the_throne_with_the_reason(project, capsys):
    project.train("first", level(0.8))
    project.register()
    project.train("worse", level(0.75))
    outcome = project.register()
    assert outcome["decision"] == "kept"
    assert (outcome["champion_version"], outcome["challenger_version"]) == (1, 2)
    assert any("left: Dice 0.7500 against the champion's 0.8000" in reason for reason in outcome["reasons"])
    assert ModelRegistry(project.root).champion_version("liver") == 1
    assert "version 1 remains champion; why: reports/decision.html" in capsys.readouterr().err


def test_a_first_model_below_the_minimum_leaves_the_throne_empty(project):
    project.train("poor", level(0.3))
    outcome = project.register()
    assert (outcome["decision"], outcome["champion_version"]) == ("kept", None)
    assert ModelRegistry(project.root).champion("liver") is None


def test_the_same_again_replays_the_decision_byte_for_byte_and_judges_nobody(project):
    project.train("first", level(0.8))
    project.register()
    project.train("better", level(0.85))
    project.register()
    files = [Path("registry/liver.json"), Path("reports/decision.html")]
    before = [file.read_bytes() for file in files]
    for file in files:
        file.unlink()
    project.judged.clear()
    project.register()
    assert [file.read_bytes() for file in files] == before
    assert project.judged == []
    assert versions() == 2


def kept_page(project, number):
    registry = ModelRegistry(project.root)
    return registry.evidence(registry.version("liver", number), "decision.html")


def test_the_page_stands_among_the_reports_and_with_the_version(project):
    project.train("first", level(0.8))
    project.register()
    assert kept_page(project, 1) == Path("reports/decision.html").read_text()
    project.train("worse", level(0.75))
    project.register()
    page = Path("reports/decision.html").read_text()
    assert kept_page(project, 2) == page
    assert "Version 2 is not promoted. Version 1 remains the champion." in page
    assert "case_4, right: challenger 0.750, champion 0.800" in page
    assert kept_page(project, 1) != page, "that of the first stays"


def test_where_the_champions_figures_were_deleted_the_decision_stands_and_the_page_has_no_cases(
    project, capsys
):
    project.train("first", level(0.8))
    project.register()
    project.train("worse", level(0.75))
    outcome = project.register()
    (kept,) = Path(os.environ["HOUNSFIELD_HOME"]).rglob("champion_cases.csv")
    kept.unlink()
    assert project.register() == outcome
    assert "Case by case" not in Path("reports/decision.html").read_text()
    assert "decision.html shows no single cases" in capsys.readouterr().err


def test_the_champion_under_other_parameters_is_unchanged_and_registered_no_second_time(project):
    project.train("first", level(0.8))
    project.register()
    outcome = project.register(RegisterParams(margin=0.02))
    assert (outcome["decision"], outcome["champion_version"], versions()) == ("unchanged", 1, 1)
    assert outcome["evidence"]["mean_dice"] == 0.8
    assert project.register()["decision"] == "promoted", "what made it champion stays on record"


def test_a_refused_model_gets_a_new_hearing_under_other_parameters(project):
    project.train("modest", level(0.45))
    assert project.register()["decision"] == "kept"
    outcome = project.register(RegisterParams(minimum_dice=0.4))
    assert (outcome["decision"], outcome["champion_version"], versions()) == ("promoted", 1, 1)


def test_a_former_champion_is_held_against_the_present_one(project):
    project.train("first", level(0.8))
    project.register()
    project.train("better", level(0.85))
    project.register()
    project.train("first", level(0.8))
    outcome = project.register()
    assert (outcome["decision"], outcome["champion_version"], outcome["compared_with"]) == ("kept", 2, 2)
    assert versions() == 2


def test_the_outcome_says_nothing_of_place_or_time(project, tmp_path, empty_database, monkeypatch):
    project.train("first", level(0.8))
    project.register()
    first = Path("registry/liver.json").read_bytes()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mlflow.db").write_bytes(empty_database.read_bytes())
    monkeypatch.setenv("HOUNSFIELD_HOME", str(tmp_path / "elsewhere"))
    other = Project(tmp_path / "another_project")
    monkeypatch.chdir(other.root)
    other.train("first", level(0.8))
    other.register()
    assert Path("registry/liver.json").read_bytes() == first


def test_a_dice_that_is_undefined_comes_through_the_file(project):
    dice = level(0.8)
    dice[0, 1] = np.nan
    project.train("first", dice)
    project.register()
    project.train("better", dice + 0.05)
    classes = project.register()["evidence"]["classes"]
    assert (classes["left"]["cases"], classes["right"]["cases"]) == (6, 5)


def test_regions_are_not_judged_at_the_gate(project):
    project.train("first", level(0.8))
    project.register()
    project.train("better", level(0.9))
    table = pd.read_csv("reports/cases.csv", dtype=str, keep_default_na=False)
    worse = pd.DataFrame({"case": CASES, "label": "both", "dice": "0"})
    interleaved = pd.concat([table, worse]).sort_values("case", kind="stable")
    interleaved.to_csv("reports/cases.csv", index=False)
    metrics = Path("metrics/liver.json")
    metrics.write_text(json.dumps(json.loads(metrics.read_text()) | {"regions": {"both": LABELS}}))
    outcome = project.register()
    assert outcome["decision"] == "promoted"
    assert sorted(outcome["evidence"]["classes"]) == LABELS
    assert outcome["evidence"]["mean_dice"] == pytest.approx(0.9)
    known = ModelRegistry(Path.cwd())
    card = known.evidence(known.version("liver", 2), "model_card.md")
    assert "Labels judged as one: both is left with right.\n\n| region |" in card
    assert "| both | 6 | 0.000 |" in card
    # Other regions are no other evidence.
    judged = list(project.judged)
    others = interleaved.assign(label=interleaved["label"].replace("both", "whole"))
    others.to_csv("reports/cases.csv", index=False)
    assert project.register() == outcome
    assert project.judged == judged


def test_figures_of_other_cases_are_refused(project):
    project.train("first", level(0.8))
    accepted = pd.read_parquet("data/accepted.parquet")
    accepted[accepted["case"] != "001"].to_parquet("data/accepted.parquet")
    with pytest.raises(DataError, match="about 6 cases, not about the 5 test cases"):
        project.register()
    assert not Path("registry/liver.json").exists()


def test_a_folder_without_a_model_is_refused(project):
    project.train("first", level(0.8))
    Path("models/config.json").unlink()
    with pytest.raises(MissingError, match="run the stage 'train'"):
        project.register()


@pytest.fixture(scope="module")
def forked(tmp_path_factory):
    """What is left by processes that were killed or ran at once: see forked_register.py."""
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    environment["PYTHONPATH"] = str(Path(pipeline.__file__).parents[1])
    script = Path(__file__).with_name("forked_register.py")
    folder = tmp_path_factory.mktemp("forked")
    done = subprocess.run(
        [sys.executable, script, folder], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_killed_at_any_step_and_run_again_leaves_what_an_undisturbed_run_leaves(forked):
    *killed, undisturbed = forked["killed"]
    assert len(killed) >= 12
    assert undisturbed["versions"] == [1, 2]
    assert undisturbed["runs"] == undisturbed["decided"] == 2
    assert undisturbed["aliases"] == {"champion": 2}
    assert undisturbed["points"] == [2, 2], "a curve is not doubled"
    assert undisturbed["data"] == [1, 1]
    assert [json.loads(text)["organ"] for text in undisturbed["lineages"]] == ["liver", "liver"]
    for left in killed:
        assert left == undisturbed


def test_one_model_registered_by_four_at_once_is_one_version_and_one_outcome(forked):
    left = forked["same"]
    assert (left["versions"], left["runs"], left["aliases"]) == ([1], 1, {"champion": 1})
    assert len(set(left["outcomes"])) == 1


def test_four_models_at_once_each_meet_the_champion_of_their_turn(forked):
    left = forked["other"]
    outcomes = sorted(map(json.loads, left["outcomes"]), key=lambda outcome: outcome["challenger_version"])
    assert left["versions"] == [1, 2, 3, 4]
    champion = None
    for outcome in outcomes:
        assert outcome["compared_with"] == champion
        champion = outcome["champion_version"]
    assert left["aliases"]["champion"] == champion
    best = max(outcomes, key=lambda outcome: outcome["evidence"]["mean_dice"])
    assert best["challenger_version"] == champion


def test_twenty_at_once_and_half_of_them_killed_leave_one_champion_and_no_gap(forked):
    left = forked["crowd"]
    assert left["killed"] >= 8
    assert left["versions"] == list(range(1, 21))
    assert left["runs"] == left["decided"] == len(set(left["contents"])) == 20
    outcomes = {outcome["challenger_version"]: outcome for outcome in map(json.loads, left["outcomes"])}
    assert sorted(outcomes) == left["versions"]
    # Every step is an improvement here, so the best has to be on the throne, and its way there is known.
    champion = left["aliases"]["champion"]
    best = max(outcomes.values(), key=lambda outcome: outcome["evidence"]["mean_dice"])
    assert champion == best["challenger_version"]
    reign = [outcomes[champion]]
    while (before := reign[-1]["compared_with"]) is not None:
        reign.append(outcomes[before])
    assert {one["decision"] for one in reign} == {"promoted"}
    assert len(reign) == sum(outcome["decision"] == "promoted" for outcome in outcomes.values())


EXPORTED = [
    *("configs/inference.json", "configs/metadata.json", "docs/README.md", "models/agreement.json"),
    *("models/model.onnx", "models/model.pt2", "models/model.safetensors"),
]


@pytest.fixture
def real(project, save_model):
    """The project with a model that can be loaded."""
    project.train("first", level(0.8))
    save_model(Path("models"), {"left": 1, "right": 2}, (-1000.0, 0.0, 300.0))
    return project


def kept_export():
    """Where the export of the champion is kept."""
    return ModelRegistry(Path.cwd()).champion("liver").folder.with_name("export")


def written():
    """When each of its files was written."""
    folder = kept_export()
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {file.relative_to(folder).as_posix(): file.stat().st_mtime_ns for file in files}


def test_a_model_that_won_is_exported_once_with_its_card(real):
    real.register()
    before = written()
    assert list(before) == EXPORTED
    assert (kept_export() / "docs/README.md").read_text().startswith("# liver, version 1\n")
    real.register()
    assert written() == before


def test_a_model_that_waits_for_approval_is_exported_too(real):
    real.register(RegisterParams(resamples=200, approval="required"))
    assert "content" in ModelRegistry(real.root).version("liver", 1).export


def test_a_model_that_was_refused_is_not_exported(real):
    figures = pd.read_csv("reports/cases.csv", dtype=str, keep_default_na=False).assign(dice=0.3)
    figures.to_csv("reports/cases.csv", index=False)
    assert real.register()["decision"] == "kept"
    assert ModelRegistry(real.root).version("liver", 1).export is None


@pytest.mark.parametrize("sent", [0, 3, len(EXPORTED)])
def test_an_export_that_was_killed_on_its_way_to_the_registry_is_completed(real, monkeypatch, sent):
    from mlflow import MlflowClient

    def killed(*_args, **_options):
        raise KeyboardInterrupt

    store, count = MlflowClient.log_artifact, itertools.count()

    def stored(client, run, file, place):
        if place.startswith("export") and next(count) == sent:
            killed()
        store(client, run, file, place)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifact", stored)
        if sent == len(EXPORTED):
            patch.setattr(ModelRegistry, "note", killed)
        with pytest.raises(KeyboardInterrupt):
            real.register()
    assert ModelRegistry(real.root).version("liver", 1).export is None
    assert real.register()["decision"] == "promoted"
    assert list(written()) == EXPORTED
    assert ModelRegistry(real.root).version("liver", 1).export == {"content": content_of(kept_export())}


def test_a_network_that_cannot_be_exported_is_champion_all_the_same_and_the_reason_is_kept(
    real, monkeypatch, capsys
):
    monkeypatch.setattr("pipeline.export.artefacts.OPERATIONS", 3)
    assert real.register()["champion_version"] == 1
    assert ModelRegistry(real.root).champion_version("liver") == 1
    said = ModelRegistry(real.root).version("liver", 1).export["reason"]
    assert "and 3 are exported" in said
    told = f"liver: version 1 is not exported: {said}"
    assert told in capsys.readouterr().err
    assert written() == {}
    real.register()
    assert told not in capsys.readouterr().err, "it is not tried again by the same code"
    monkeypatch.setattr("pipeline.export.artefacts.OPERATIONS", 10_000)
    monkeypatch.setattr("pipeline.export.registered.CODE", ("export",))
    real.register()
    assert list(written()) == EXPORTED


@pytest.mark.parametrize("lacking", [OSError(28, "No space left on device"), MemoryError()], ids=str)
def test_an_export_that_failed_for_what_the_machine_lacked_is_tried_again(real, monkeypatch, lacking):
    def fail(*_given, **_named):
        raise lacking

    with monkeypatch.context() as patched:
        patched.setattr("torch.onnx.export", fail)
        real.register()
    assert "cannot be written" in ModelRegistry(real.root).version("liver", 1).export["reason"]
    real.register()
    assert "content" in ModelRegistry(real.root).version("liver", 1).export


def test_a_scratch_disk_without_room_for_the_export_is_no_failure_of_the_stage(real, monkeypatch, capsys):
    def fail(*_given, **_named):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("pipeline.export.bundle.write_artefacts", fail)
        assert real.register()["champion_version"] == 1
    assert "liver: version 1 is not exported: " in capsys.readouterr().err
    assert "cannot be written (No space left" in ModelRegistry(real.root).version("liver", 1).export["reason"]
    real.register()
    assert "content" in ModelRegistry(real.root).version("liver", 1).export


APPROVED = RegisterParams(resamples=200, approval="required")


def test_where_approval_is_required_a_model_that_won_waits_as_challenger(project, capsys):
    project.train("first", level(0.8))
    outcome = project.register(APPROVED)
    assert outcome["decision"] == "awaiting_approval"
    assert outcome["champion_version"] is None
    assert ModelRegistry(project.root).champion_version("liver") is None
    assert "waits for approval: hounsfield approve liver 1 --by NAME" in capsys.readouterr().err


@pytest.mark.parametrize(("on_drift", "decision"), [("tell", "promoted"), ("approve", "awaiting_approval")])
def test_a_better_model_of_data_that_drifted_far_is_told_of_or_waits(project, on_drift, decision):
    params = RegisterParams(resamples=200, on_drift=on_drift)
    project.train("first", level(0.8), **{FINGERPRINT: {"cases": 5, "modality": "CT"}})
    outcome = project.register(params)
    assert outcome["decision"] == "promoted"
    assert "No validation error is open: the 6 test cases" in outcome["reasons"][-1]
    project.train("better", level(0.85), **{FINGERPRINT: {"cases": 5, "modality": "MR"}})
    outcome = project.register(params)
    assert outcome["decision"] == decision
    told = "strong (the data are MR, the model was trained on CT)"
    assert told in outcome["reasons"][-1]
    assert ("a person has to approve" in outcome["reasons"][-1]) == (on_drift == "approve")
    assert outcome["met"][-2:] == [True, False if on_drift == "approve" else None]
    assert ModelRegistry(project.root).champion_version("liver") == (2 if on_drift == "tell" else 1)


def test_an_approved_model_becomes_champion_on_the_evidence_it_was_approved_on(project):
    project.train("first", level(0.8))
    waiting = project.register(APPROVED)
    champions.approve(project.root, "liver", 1, "Dr. Rö", "looks right")
    outcome = project.register(APPROVED)
    assert outcome["decision"] == "promoted"
    assert outcome["champion_version"] == 1
    assert outcome["approval"] == {"by": "Dr. Rö", "reason": "looks right"}
    assert outcome["inputs"] == waiting["inputs"]
    assert ModelRegistry(project.root).champion_version("liver") == 1
    assert project.register(APPROVED) == outcome, "the next run replays it"
    page = Path("reports/decision.html").read_text()
    assert "Approved by Dr. Rö: looks right" in page
    assert kept_page(project, 1) == page
    registry = ModelRegistry(project.root)
    assert "promoted:" in registry.evidence(registry.version("liver", 1), "model_card.md")


def test_an_approval_that_is_given_again_after_a_kill_stands(project):
    project.train("first", level(0.8))
    project.register(APPROVED)
    champions.approve(project.root, "liver", 1, "Dr. Rö", "looks right")
    outcome = project.register(APPROVED)
    assert champions.approve(project.root, "liver", 1, "Dr. Rö").approval["reason"] == "looks right"
    assert project.register(APPROVED) == outcome


def test_an_approval_is_of_the_evidence_there_was(project):
    project.train("first", level(0.8))
    project.register(APPROVED)
    champions.approve(project.root, "liver", 1, "somebody")
    project.train("first", level(0.7))
    assert project.register(APPROVED)["decision"] == "awaiting_approval"


def test_only_what_waits_can_be_approved_of(project):
    project.train("first", level(0.8))
    project.register()
    with pytest.raises(DataError, match=r"version 1 does not wait for approval \(decision: promoted\)"):
        champions.approve(project.root, "liver", 1, "somebody")
    with pytest.raises(MissingError, match="there is no version 7 in the registry; there is 1"):
        champions.approve(project.root, "liver", 7, "somebody")
    with pytest.raises(ParamsError, match="--by"):
        champions.approve(project.root, "liver", 1, " ")


def test_who_won_against_a_champion_of_before_cannot_be_approved_of(project):
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(Path(pipeline.__file__).parents[1] / name, project.root)
    project.train("first", level(0.8))
    project.register(APPROVED)
    project.train("other", level(0.85))
    project.register()
    with pytest.raises(DataError, match="version 1 won when the champion was none, and it is version 2 now"):
        approve("liver", 1, by="Dr. Rö")
    assert ModelRegistry(project.root).version("liver", 1).approval is None


def test_who_approves_of_another_model_than_the_one_that_is_there_is_told_how_to_bring_it_back(
    project, capsys
):
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(Path(pipeline.__file__).parents[1] / name, project.root)
    project.train("first", level(0.8))
    project.register(APPROVED)
    shutil.copytree("models", "kept")
    shutil.move("kept", "models/liver")
    approve("liver", 1, by="Dr. Rö")
    said = "models/liver does not hold its files, by which register goes: hounsfield lineage liver"
    assert said not in capsys.readouterr().err
    Path("models/liver/weights.safetensors").write_text("other")
    approve("liver", 1, by="Dr. Rö")
    assert said in capsys.readouterr().err
    shutil.rmtree("models/liver")
    approve("liver", 1, by="Dr. Rö")
    assert said in capsys.readouterr().err


def promote_two(project):
    for name, dice in (("first", 0.8), ("better", 0.85)):
        project.train(name, level(dice))
        assert project.register()["decision"] == "promoted"


def test_a_rollback_brings_the_former_champion_back_and_keeps_why(project):
    promote_two(project)
    done = champions.rollback(project.root, "liver", "it sees kidneys in air", by="Dr. Rö")
    assert (done.former, done.champion) == (2, 1)
    registry = ModelRegistry(project.root)
    assert registry.champion_version("liver") == 1
    assert [entry["reason"] for entry in registry.rollbacks("liver")] == ["it sees kidneys in air"]


def test_a_model_that_was_rolled_back_is_not_brought_back_by_a_replay(project):
    promote_two(project)
    champions.rollback(project.root, "liver", "it sees kidneys in air", by="Dr. Rö")
    outcome = project.register()
    assert outcome["decision"] == "kept"
    assert outcome["champion_version"] == 1
    assert outcome["reasons"] == ["Version 2 was withdrawn by Dr. Rö: it sees kidneys in air."]
    assert outcome["reasons"][0] in Path("reports/decision.html").read_text()
    registry = ModelRegistry(project.root)
    assert (registry.champion_version("liver"), registry.challenger_version("liver")) == (1, 2)
    project.train("third", level(0.9))
    assert project.register()["champion_version"] == 3, "another model may win"


def test_a_rollback_can_be_taken_back(project):
    promote_two(project)
    champions.rollback(project.root, "liver", "a mistake")
    champions.rollback(project.root, "liver", "it was none", to=2)
    assert ModelRegistry(project.root).champion_version("liver") == 2
    assert project.register()["decision"] == "promoted"
    assert ModelRegistry(project.root).champion_version("liver") == 2


def test_the_same_rollback_given_again_goes_no_further_back(project):
    promote_two(project)
    project.train("third", level(0.9))
    project.register()
    for _ in range(2):
        done = champions.rollback(project.root, "liver", "worse", identifier="run 7")
        assert (done.former, done.champion) == (3, 2)
    assert ModelRegistry(project.root).champion_version("liver") == 2
    assert len(ModelRegistry(project.root).rollbacks("liver")) == 1


@pytest.mark.parametrize("killed_at", ["note", "settle", "the end"])
def test_a_rollback_by_hand_that_was_killed_is_completed_when_given_again(project, monkeypatch, killed_at):
    promote_two(project)
    project.train("third", level(0.9))
    project.register()
    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        if killed_at != "the end":
            patch.setattr(ModelRegistry, killed_at, Mock(side_effect=KeyboardInterrupt))
        champions.rollback(project.root, "liver", "worse", by="Dr. Rö")
    done = champions.rollback(project.root, "liver", "worse", by="Dr. Rö")
    assert (done.former, done.champion) == (3, 2)
    registry = ModelRegistry(project.root)
    assert registry.champion_version("liver") == 2
    assert len(registry.rollbacks("liver")) == 1
    champions.rollback(project.root, "liver", "worse, too", by="Dr. Rö")
    assert registry.champion_version("liver") == 1


def test_a_rollback_given_again_after_another_model_won_or_it_was_taken_back_changes_nothing(project):
    promote_two(project)
    champions.rollback(project.root, "liver", "worse", identifier="run 7")
    project.train("third", level(0.9))
    project.register()
    with pytest.raises(DataError, match=r"this rollback to version 1 was made at .* has changed since"):
        champions.rollback(project.root, "liver", "worse", identifier="run 7")
    assert ModelRegistry(project.root).champion_version("liver") == 3
    champions.rollback(project.root, "liver", "it was none", to=2)
    with pytest.raises(DataError, match="has changed since"):
        champions.rollback(project.root, "liver", "worse", identifier="run 7")
    assert ModelRegistry(project.root).champion_version("liver") == 2


def test_a_withdrawn_model_that_is_made_champion_by_hand_is_the_champion(project):
    promote_two(project)
    champions.rollback(project.root, "liver", "it sees kidneys in air")
    client = connect(Path(os.environ["HOUNSFIELD_HOME"]))
    client.set_registered_model_alias("liver", "champion", "2")
    assert project.register()["champion_version"] == 2
    assert client.get_registered_model("liver").aliases == {"champion": 2}
    assert project.register(RegisterParams(resamples=201))["decision"] == "unchanged"


def test_a_model_is_made_champion_again_only_with_its_files(project):
    promote_two(project)
    registry = ModelRegistry(project.root)
    (registry.champion("liver").folder / "weights.safetensors").write_text("damaged")
    with pytest.raises(DataError, match="point the alias 'champion' in MLflow at another version"):
        registry.champion("liver")
    client = connect(Path(os.environ["HOUNSFIELD_HOME"]))
    client.set_registered_model_alias("liver", "champion", "1")
    assert project.register()["champion_version"] == 2
    assert (registry.champion("liver").folder / "weights.safetensors").read_text() == "better"


def test_who_was_made_champion_by_hand_can_be_so_again(project):
    project.train("first", level(0.8))
    project.register()
    project.train("worse", level(0.75))
    project.register()
    client = connect(Path(os.environ["HOUNSFIELD_HOME"]))
    client.set_registered_model_alias("liver", "champion", "2")
    project.train("third", level(0.9))
    assert project.register()["compared_with"] == 2
    done = champions.rollback(project.root, "liver", "it sees kidneys in air")
    assert (done.former, done.champion) == (3, 2)


def test_a_rollback_needs_a_reason_and_a_version_that_was_champion(project):
    with pytest.raises(MissingError, match="there is no champion to roll back"):
        champions.rollback(project.root, "liver", "worse")
    project.train("first", level(0.8))
    project.register()
    with pytest.raises(MissingError, match="version 1 is the first champion"):
        champions.rollback(project.root, "liver", "worse")
    project.train("worse", level(0.6))
    project.register()
    with pytest.raises(DataError, match=r"version 2 was never champion \(its decision: kept\)"):
        champions.rollback(project.root, "liver", "worse", to=2)
    with pytest.raises(DataError, match="version 1 is the champion"):
        champions.rollback(project.root, "liver", "worse", to=1)
    with pytest.raises(ParamsError, match="needs a reason"):
        champions.rollback(project.root, "liver", "  ")
    assert ModelRegistry(project.root).champion_version("liver") == 1


def test_a_rollback_to_files_that_are_gone_changes_nothing(project):
    promote_two(project)
    folder = ModelRegistry(project.root).champion("liver").folder
    first = next(path for path in folder.parents[2].glob("*/artifacts/model") if path != folder)
    (first / "weights.safetensors").write_text("other")
    with pytest.raises(DataError, match="are not those registered"):
        champions.rollback(project.root, "liver", "worse")
    assert ModelRegistry(project.root).champion_version("liver") == 2


def test_who_was_champion_can_be_so_again_though_it_lost_since(project):
    promote_two(project)
    project.train("first", level(0.8))
    assert project.register()["decision"] == "kept"
    done = champions.rollback(project.root, "liver", "it sees kidneys in air")
    assert (done.former, done.champion) == (2, 1)


def test_an_approval_is_of_the_champion_there_was(project):
    promote_two(project)
    project.train("third", level(0.9))
    assert project.register(APPROVED)["compared_with"] == 2
    champions.approve(project.root, "liver", 3, "Dr. Rö", "better than 2")
    champions.rollback(project.root, "liver", "2 was no measure")
    outcome = project.register(APPROVED)
    assert (outcome["decision"], outcome["compared_with"]) == ("awaiting_approval", 1)
    champions.approve(project.root, "liver", 3, "Dr. Rö", "better than 1")
    outcome = project.register(APPROVED)
    assert (outcome["champion_version"], outcome["approval"]["reason"]) == (3, "better than 1")


def split(project, **splits):
    """The accepted table with another split for some cases, and a patient for each."""
    table = pd.DataFrame({"case": [*CASES, "learned"], "key": "k"})
    table["split"] = [splits.get(case, "train" if case == "learned" else "test") for case in table["case"]]
    # The last two test cases are of one patient.
    table["patient"] = [*CASES[:4], "Eve", "Eve", "Bob"]
    table.to_parquet(project.root / "data" / "accepted.parquet")
    return table.loc[table["split"] == "test", "case"].tolist()


def of_cases(project, wanted):
    figures = pd.read_csv("reports/cases.csv", dtype={"case": str}, keep_default_na=False)
    figures[figures["case"].isin(wanted)].to_csv("reports/cases.csv", index=False)


def test_cases_that_the_champion_learned_from_are_not_compared(project):
    test = split(project, case_5="train")
    dice = level(0.8)
    dice[4:] = 0.99
    project.train("first", dice)
    of_cases(project, test)
    project.register()
    split(project)
    project.train("better", level(0.85))
    outcome = project.register()
    assert (outcome["decision"], outcome["champion_version"]) == ("promoted", 2)
    # Both of the patient's.
    assert outcome["learned"] == ["case_5", "case_6"]
    assert outcome["reasons"][1].startswith("2 of 6 test cases are left out of the comparison")
    page = Path("reports/decision.html")
    first = page.read_bytes()
    page.unlink()
    assert project.register() == outcome
    assert page.read_bytes() == first


def test_what_a_champion_has_learned_from_is_known_after_the_home_was_moved(project, tmp_path, monkeypatch):
    test = split(project, case_5="train")
    project.train("first", level(0.8))
    of_cases(project, test)
    project.register()
    home = Path(os.environ["HOUNSFIELD_HOME"])
    monkeypatch.setenv("HOUNSFIELD_HOME", str(home.rename(tmp_path / "moved")))
    split(project)
    project.train("better", level(0.85))
    assert project.register()["learned"] == ["case_5", "case_6"]


def test_nor_those_that_the_model_it_began_with_learned_from(project):
    test = split(project, case_4="train")
    project.train("first", level(0.8))
    of_cases(project, test)
    project.register()
    split(project)
    began_with = ModelRegistry(project.root).champion("liver").content
    training = {"steps": 7, "loss": {}, "start": began_with}
    project.train("second", level(0.85), training=training)
    assert project.register()["learned"] == ["case_4"]
    project.train("third", level(0.9))
    assert project.register()["learned"] == ["case_4"], "of what the champion began with"


def test_where_nothing_tells_what_a_model_has_learned_from_the_gate_decides_all_the_same(project):
    split(project)
    project.train("first", level(0.8))
    project.register()
    (lineage,) = Path(os.environ["HOUNSFIELD_HOME"]).rglob("lineage.json")
    lineage.unlink()
    training = {"steps": 7, "loss": {}, "start": "a model of another organ"}
    project.train("second", level(0.85), training=training)
    outcome = project.register()
    assert (outcome["decision"], outcome["learned"]) == ("promoted", [])


def test_a_case_that_is_called_otherwise_now_is_found_by_its_patient(project):
    test = split(project, case_4="train")
    table = pd.read_parquet("data/accepted.parquet")
    table.loc[table["case"] == "case_4", "case"] = "of before"
    table.to_parquet("data/accepted.parquet")
    project.train("first", level(0.8))
    of_cases(project, test)
    project.register()
    split(project)
    project.train("second", level(0.85))
    assert project.register()["learned"] == ["case_4"]


def test_the_champion_is_judged_by_the_truth_as_it_is_read_now(tmp_path, save_model):
    folder = save_model(tmp_path / "champion", {"left": 1, "right": 2}, (-1000.0, 0.0, 300.0))
    image = np.full((8, 8, 8), -1000, np.int16)
    image[1:4], image[5:7] = 0, 300
    values_of_now = {"left": 2, "right": 1}
    truth = np.select([image == 0, image == 300], [2, 1]).astype(np.uint8)
    for name, array in (("images", image), ("labels", truth)):
        (tmp_path / "raw" / name).mkdir(parents=True)
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "raw" / name / "case_1.nii.gz")
    config = json.loads((folder / "config.json").read_text())
    config["recipe"]["labels"] = values_of_now
    test = pd.DataFrame({"case": ["case_1"], "layout": ["folders"]})
    figures = judge_champion(RegisteredModel("liver", 1, "content", folder), test, tmp_path / "raw", config)
    assert figures.set_index("label")["dice"].to_dict() == {"left": 1.0, "right": 1.0}


def test_patients_that_were_corrected_make_the_decision_anew(project):
    split(project)
    project.train("first", level(0.8))
    project.register()
    project.train("second", level(0.75))
    assert project.register()["evidence"]["overall"]["patients"] == 5
    table = pd.read_parquet("data/accepted.parquet")
    table.assign(patient=table["case"]).to_parquet("data/accepted.parquet")
    assert project.register()["evidence"]["overall"]["patients"] == 6


def test_other_labels_figures_or_code_make_the_decision_anew(project, monkeypatch):
    split(project)
    project.train("first", level(0.8))
    project.register()
    project.train("second", level(0.75))
    seen = [project.register()["inputs"]]
    table = pd.read_parquet("data/accepted.parquet")
    table.assign(key=["labelled again", *table["key"][1:]]).to_parquet("data/accepted.parquet")
    seen.append(project.register()["inputs"])
    monkeypatch.setattr("pipeline.registry.challenge.sha256_code", lambda *_: "other")
    seen.append(project.register()["inputs"])
    assert len(set(seen)) == len(project.judged) == 3
    project.train("second", level(0.85))
    assert project.register()["decision"] == "promoted"


def test_groups_of_cases_and_the_networks_of_an_ensemble_are_looked_at(project):
    split(project)
    table = pd.read_parquet("data/accepted.parquet")
    table.assign(scanner=[*"AAABBBB"]).to_parquet("data/accepted.parquet")
    project.train("first", level(0.8))
    project.register()
    dice = level(0.95)
    dice[:3] = 0.6
    project.train("second", dice, fold_dice={"0": 0.9, "1": 0.88, "2": 0.02})
    outcome = project.register()
    told = [reason for reason, met in zip(outcome["reasons"], outcome["met"], strict=True) if not met]
    assert any(reason.startswith("scanner A: Dice -0.2000 in 3 cases; collapsed") for reason in told)
    assert any(reason.startswith("The network without fold 2: Dice 0.0200") for reason in told)


def test_a_champion_of_other_images_is_no_dead_end(project):
    project.train("first", level(0.8))
    project.register()
    project.judged.clear()
    project.train("of two channels", level(0.9), recipe={"channels": 2})
    outcome = project.register()
    assert (outcome["decision"], outcome["champion_version"]) == ("kept", 1)
    assert project.judged == []
    assert outcome["reasons"][1] == (
        "The champion, version 1, was trained on one image of CT a case, and a case has 2 images of CT now: "
        "it cannot be judged; if that is on purpose, take the alias 'champion' away in MLflow."
    )
    assert project.register() == outcome


def test_a_champion_that_has_learned_from_all_test_cases_is_no_dead_end(project):
    test = split(project, **dict.fromkeys(CASES[1:], "train"))
    project.train("first", level(0.8))
    of_cases(project, test)
    project.register()
    split(project, **{"001": "train"})
    project.train("second", level(0.9))
    of_cases(project, CASES[1:])
    outcome = project.register()
    assert (outcome["decision"], outcome["champion_version"]) == ("kept", 1)
    assert "No test case is left that the champion, version 1, has not learned from" in outcome["reasons"][1]


def test_a_decision_about_many_labels_is_kept_in_full_and_replayed(project):
    labels = [f"a_rather_long_name_of_structure_{number}" for number in range(255)]

    def train(name, dice):
        project.train(name, level(dice), labels=dict.fromkeys(labels, 1))
        rows = {"case": np.repeat(CASES, 255), "label": labels * 6, "dice": dice}
        project.figures_of[name] = pd.DataFrame(rows)
        project.figures_of[name].to_csv("reports/cases.csv", index=False)

    train("first", 0.8)
    project.register(APPROVED)
    champions.approve(project.root, "liver", 1, "Dr. Rö")
    assert project.register(APPROVED)["decision"] == "promoted"
    train("better", 0.85)
    waiting = project.register(APPROVED)
    assert len(json.dumps(waiting)) > 100_000
    assert project.register(APPROVED) == waiting
    for kept in Path(os.environ["HOUNSFIELD_HOME"]).rglob("decision-*.json"):
        kept.unlink()
    assert project.register(APPROVED) == waiting, "made anew"
    champions.approve(project.root, "liver", 2, "Dr. Rö")
    outcome = project.register(APPROVED)
    assert (outcome["decision"], outcome["reasons"]) == ("promoted", waiting["reasons"])
    assert ModelRegistry(project.root).champion_version("liver") == 2


def test_torch_is_loaded_by_none_but_who_judges_a_champion():
    code = "import sys, pipeline.stages.register; print(sorted({'torch', 'mlflow'} & set(sys.modules)))"
    environment = os.environ | {"PYTHONPATH": str(Path(pipeline.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    assert done.stdout.strip() == b"[]"
