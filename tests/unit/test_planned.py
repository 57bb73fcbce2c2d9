import io
import json
import threading
from dataclasses import asdict

import pytest
import yaml
from rich.console import Console

from pipeline import planned
from pipeline.atomic import locked
from pipeline.errors import MissingError, ParamsError
from pipeline.params import load_organ
from pipeline.runs.editing import LOCK
from pipeline.training.profile import SMALL

DVC = """
stages:
  ingest:
    foreach: ${organs}
    do:
      outs: ["data/plans/${key}.json"]
"""
PARAMS = """# A comment that stays.
defaults: {}
organs:
  spleen:
    ingest: {modality: CT, labels: {spleen: 2}}
    validate: {}
    patches: {}
    augment: {}
    train:
      profile: small   # on this machine
    evaluate: {}
    register: {}
"""
PLAN = {
    "modality": "CT",
    "labels": {"spleen": 2},
    "recipe": {"offset": {"hu": -1000.0, "where": "unsigned"}},
    "spacing": [3.0, 0.8, 0.8],
    "patch_size": [16, 80, 80],
    "batch_size": None,
    "normalisation": [{"image": 0, "clip": [-20.5, 120.25], "mean": 50.1, "std": 10.3}],
    "reasons": {
        name: f"why {name}" for name in ("spacing", "offset", "normalisation", "patch_size", "batch_size")
    },
}


@pytest.fixture
def project(tmp_path):
    (tmp_path / "dvc.yaml").write_text(DVC)
    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / "data/plans").mkdir(parents=True)
    (tmp_path / "data/plans/spleen.json").write_text(json.dumps(PLAN))
    return tmp_path


def by_key(found):
    return {choice.key: choice for choice in found}


def configure(project, stage, **values):
    params = yaml.safe_load(PARAMS)
    params["organs"]["spleen"][stage] |= values
    (project / "params.yaml").write_text(yaml.safe_dump(params))


def test_every_choice_has_its_value_and_reason(project):
    found = by_key(planned.choices(project, "spleen"))
    assert found["ingest.spacing"].value == [3.0, 0.8, 0.8]
    assert found["ingest.spacing"].reason == "why spacing"
    assert found["ingest.hu_offset"].value == -1000.0
    assert found["train.batch_size"].value == SMALL.batch_size
    assert found["train.network.kernels"].value[0] == [1, 3, 3]
    assert found["train.profile"].pinned
    assert found["train.profile"].reason == planned.SET
    assert not found["patches.size"].pinned
    assert "unless its patches would weigh more than 4 times the mean" in found["train.loss.weights"].reason


def test_what_params_say_is_what_follows_from_them(project):
    configure(project, "patches", size=[8, 8, 8])
    found = by_key(planned.choices(project, "spleen"))
    assert found["patches.size"].value == [8, 8, 8]
    # As often as such a patch can be halved.
    assert found["train.network.strides"].value == [[1, 1, 1], [1, 2, 2], [2, 1, 1]]


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("spacing", [1, 1, 1], "ingest.spacing"),
        ("hu_offset", -1000, "ingest.hu_offset"),
        ("normalisation", {"windows": [[-100, 200]]}, "ingest.normalisation"),
        ("train_memory_gb", 24, "patches.size"),
    ],
)
def test_what_was_planned_before_the_parameters_said_otherwise_is_not_pinned(project, key, value, shown):
    asked = {"spacing": "auto", "hu_offset": "auto", "normalisation": "auto", "train_memory_gb": None}
    (project / "data/plans/spleen.json").write_text(json.dumps(PLAN | {"asked": asked}))
    assert planned.STALE not in {choice.reason for choice in planned.choices(project, "spleen")}
    configure(project, "ingest", **{key: value})
    stale = [choice.key for choice in planned.choices(project, "spleen") if choice.reason == planned.STALE]
    assert stale == [shown]
    before = (project / "params.yaml").read_text()
    with pytest.raises(ParamsError, match=f"{shown} is planned .* dvc repro ingest@spleen"):
        planned.pin(project, "spleen")
    assert (project / "params.yaml").read_text() == before


def test_windows_of_hu_are_not_said_to_be_what_an_mr_is_seen_by(project):
    (project / "data/plans/spleen.json").write_text(json.dumps(PLAN | {"modality": "MR"}))
    configure(project, "ingest", modality="MR", normalisation={"windows": [[-100, 200]]})
    found = by_key(planned.choices(project, "spleen"))["ingest.normalisation"]
    assert found.reason == "why normalisation"
    assert "ingest.normalisation" not in by_key(planned.pin(project, "spleen"))


def test_a_patch_that_is_pinned_is_not_of_the_last_ingest(project):
    asked = {"spacing": "auto", "hu_offset": "auto", "normalisation": "auto", "train_memory_gb": None}
    (project / "data/plans/spleen.json").write_text(json.dumps(PLAN | {"asked": asked}))
    params = yaml.safe_load(PARAMS)
    params["organs"]["spleen"] |= {"patches": {"size": [8, 8, 8]}}
    params["organs"]["spleen"]["ingest"]["train_memory_gb"] = 24
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    found = by_key(planned.choices(project, "spleen"))["patches.size"]
    assert (found.value, found.reason) == ([8, 8, 8], planned.SET)
    planned.pin(project, "spleen")


def test_pinning_waits_for_whoever_changes_the_parameters_and_keeps_the_change(project):
    pinning = threading.Thread(target=planned.pin, args=(project, "spleen"))
    with locked(project / LOCK, "a test"):
        pinning.start()
        pinning.join(0.5)
        (project / "params.yaml").write_text(PARAMS.replace("  spleen:", "  liver: {}\n  spleen:"))
    pinning.join()
    organs = yaml.safe_load((project / "params.yaml").read_text())["organs"]
    assert "liver" in organs
    assert organs["spleen"]["ingest"]["spacing"] == [3.0, 0.8, 0.8]


def test_the_networks_of_a_composition_by_name_have_no_keys(project):
    configure(project, "train", network={"name": "cascade"})
    planned.pin(project, "spleen")
    assert load_organ(project / "params.yaml", "spleen").train.before is not None
    assert not any("network" in choice.key for choice in planned.choices(project, "spleen"))


def test_both_networks_of_a_composition_in_full_are_pinned(project):
    configure(project, "train", network={"name": "unet"}, before={"network": {"name": "fcn"}})
    keys = {choice.key for choice in planned.pin(project, "spleen")}
    assert {"train.network.width", "train.before.network.width"} <= keys
    assert load_organ(project / "params.yaml", "spleen").train.before.network.options.keys() == {"width"}


def test_a_plan_of_an_older_version_is_shown(project):
    older = {key: value for key, value in PLAN.items() if key != "batch_size"}
    older["reasons"] = {key: value for key, value in PLAN["reasons"].items() if key != "batch_size"}
    (project / "data/plans/spleen.json").write_text(json.dumps(older))
    assert by_key(planned.choices(project, "spleen"))["train.batch_size"].value == SMALL.batch_size


def test_a_batch_that_was_planned_says_why(project):
    (project / "data/plans/spleen.json").write_text(json.dumps(PLAN | {"batch_size": 3}))
    configure(project, "train", profile="full")
    found = by_key(planned.choices(project, "spleen"))["train.batch_size"]
    assert (found.value, found.reason) == (3, "why batch_size")


def test_pinned_values_stay_when_the_data_change(project):
    before = by_key(planned.choices(project, "spleen"))
    fresh = planned.pin(project, "spleen")
    text = (project / "params.yaml").read_text()
    assert text.startswith("# A comment that stays.")
    assert "# on this machine" in text
    assert {choice.key for choice in fresh} == before.keys() - {"train.profile", *planned.NEVER_PINNED}
    params = load_organ(project / "params.yaml", "spleen")
    assert params.ingest.normalisation.model_dump(mode="json")["channels"] == PLAN["normalisation"]
    other = {"spacing": [1.0, 1.0, 1.0], "patch_size": [64, 64, 64], "batch_size": 8}
    (project / "data/plans/spleen.json").write_text(json.dumps(PLAN | other))
    after = by_key(planned.choices(project, "spleen"))
    # The plan's spacing is what ingest makes of the one that is written down.
    for key in before.keys() - {"ingest.spacing"}:
        assert after[key].value == before[key].value, key
    assert params.ingest.spacing == (3.0, 0.8, 0.8)
    assert planned.pin(project, "spleen") == []


def test_the_table_shows_all_keys(project):
    found = planned.choices(project, "spleen")
    table = planned.as_table("spleen", found)
    assert table.row_count == len(found)
    values = list(table.columns[1].cells)
    assert "3 x 0.8 x 0.8" in values
    assert json.dumps(found, default=asdict)


def test_no_key_is_cut_where_the_terminal_is_narrow(project):
    narrow = Console(width=60, file=io.StringIO(), force_terminal=False)
    narrow.print(planned.as_table("spleen", planned.choices(project, "spleen")))
    assert "…" not in narrow.file.getvalue()


def test_a_label_with_brackets_is_no_markup():
    weights = planned.Choice("train.loss.weights", {"[left] kidney": 1.0, "[/right] kidney": 1.0}, "", False)
    wide = Console(width=200, file=io.StringIO())
    wide.print(planned.as_table("kidneys", [weights]))
    assert "[left] kidney 1; [/right] kidney 1" in wide.file.getvalue()


def test_without_a_plan_the_command_that_makes_it_is_named(project):
    (project / "data/plans/spleen.json").unlink()
    with pytest.raises(MissingError, match="dvc repro ingest@spleen"):
        planned.choices(project, "spleen")
