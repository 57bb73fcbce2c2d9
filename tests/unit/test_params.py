from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from pipeline.errors import ParamsError
from pipeline.params import OrganParams, Shares, check_name, load_organ, read_params
from pipeline.workspace import STAGES

PROJECT = Path(__file__).parents[2]
SPLEEN: dict[str, Any] = {stage: {} for stage in STAGES} | {
    "ingest": {"modality": "CT", "labels": {"spleen": 1}}
}


def _write(folder: Path, organ: Any = None, defaults: Any = None) -> Path:
    """A params.yaml with one organ, spleen, whose sections are those of `organ` over plain ones."""
    sections = SPLEEN | organ if isinstance(organ, dict) else organ or SPLEEN
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump({"defaults": defaults or {}, "organs": {"spleen": sections}}))
    return path


def _refusal(folder: Path, organ: Any = None, defaults: Any = None) -> str:
    with pytest.raises(ParamsError) as refused:
        load_organ(_write(folder, organ, defaults), "spleen")
    return str(refused.value)


def _said(given: Any, merged: Any) -> bool:
    """Whether every value that a file gives stands in the merged parameters."""
    if isinstance(given, dict):
        return all(_said(value, merged[key]) for key, value in given.items())
    return bool(merged == given or (isinstance(given, list) and merged == tuple(given)))


def test_every_value_of_the_shipped_file_is_valid_and_reaches_its_organ() -> None:
    content = read_params(PROJECT / "params.yaml")
    assert content["organs"], "there is an embedded default organ"
    for organ, own in content["organs"].items():
        merged = load_organ(PROJECT / "params.yaml", organ).model_dump(by_alias=True)
        assert _said(own, merged)
        for stage, section in content["defaults"].items():
            untouched = {key: value for key, value in section.items() if key not in own.get(stage, {})}
            assert _said(untouched, merged[stage])


def test_channels_of_an_organ_stand_in_for_the_windows_of_the_defaults(tmp_path: Path) -> None:
    channel = {"clip": [-100, 300], "mean": 0, "std": 100}
    ingest = SPLEEN["ingest"] | {"normalisation": {"channels": [channel]}}
    windows = {"ingest": {"normalisation": {"windows": [[-160, 240]]}}}
    found = load_organ(_write(tmp_path, {"ingest": ingest}, windows), "spleen").ingest.normalisation
    assert not isinstance(found, str)
    assert (found.windows, found.channels[0].clip) == ((), (-100, 300))


def test_every_stage_has_its_section() -> None:
    params = load_organ(PROJECT / "params.yaml", next(iter(read_params(PROJECT / "params.yaml")["organs"])))
    sections = [params.section(stage) for stage in STAGES]
    assert [type(section).__name__ for section in sections] == [f"{stage.title()}Params" for stage in STAGES]


@pytest.mark.parametrize(
    ("section", "wrong", "right"),
    [
        ("train", {"learning_rat": 1}, "learning_rate"),
        ("train", {"network": {"chanels": [8]}}, "channels"),
        ("patches", {"shares": {"forground": 1.0}}, "foreground"),
        ("validate", {"test_shard": 0.1}, "test_share"),
        ("register", {"minimal_dice": 0.1}, "minimum_dice"),
        ("ingest", SPLEEN["ingest"] | {"hu_ofset": 1}, "hu_offset"),
    ],
)
def test_a_wrong_key_is_named_with_the_right_one(
    tmp_path: Path, section: str, wrong: Any, right: str
) -> None:
    message = _refusal(tmp_path, {section: wrong})
    assert f"did you mean '{right}'?" in message
    assert "?." not in message
    assert section in message
    assert "spleen" in message


def test_a_wrong_section_is_named_with_the_right_one(tmp_path: Path) -> None:
    assert "did you mean 'train'" in _refusal(tmp_path, {"trian": {}})


def test_a_wrong_section_or_key_of_the_defaults_is_no_less_wrong(tmp_path: Path) -> None:
    assert "did you mean 'train'" in _refusal(tmp_path, defaults={"trian": {"steps": 5}})
    assert "did you mean 'steps'" in _refusal(tmp_path, defaults={"train": {"step": 5}})


@pytest.mark.parametrize("section", ["none", 0, False, [], 1.5])
def test_a_section_of_the_defaults_that_has_no_keys_is_refused(tmp_path: Path, section: Any) -> None:
    message = _refusal(tmp_path, defaults={"validate": section})
    assert f"defaults.validate is {section!r}; it needs keys with values, or nothing" in message


@pytest.mark.parametrize(
    "train",
    [
        {"network": 5},
        {"network": True},
        {"network": 1.5},
        {"network": {"name": ["a"]}},
        {"network": {"name": "cascade"}, "loss": 5},
        {"before": {"network": 5}},
    ],
)
def test_a_network_of_another_kind_is_refused_in_a_sentence(tmp_path: Path, train: Any) -> None:
    message = _refusal(tmp_path, {"train": train}, {"train": {"network": {"name": "unet"}}})
    assert message.startswith("params.yaml: organs.spleen.train.")
    assert "\n" not in message


@pytest.mark.parametrize("stage", STAGES)
def test_a_missing_section_is_named_with_what_to_write(tmp_path: Path, stage: str) -> None:
    path = _write(tmp_path)
    content = yaml.safe_load(path.read_text())
    del content["organs"]["spleen"][stage]
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ParamsError, match=rf"organs\.spleen has no section '{stage}'; write '{stage}: {{}}'"):
        load_organ(path, "spleen")


@pytest.mark.parametrize("key", ["modality", "labels"])
def test_what_only_a_person_can_know_is_asked_for(tmp_path: Path, key: str) -> None:
    ingest = {name: value for name, value in SPLEEN["ingest"].items() if name != key}
    assert f"organs.spleen.ingest.{key} is needed" in _refusal(tmp_path, {"ingest": ingest})


def test_an_unknown_organ_is_answered_with_the_nearest_and_the_way_to_add_one(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"no organ 'spleeen': did you mean 'spleen'\? It has") as refused:
        load_organ(_write(tmp_path), "spleeen")
    assert "add-organ spleeen" in str(refused.value)


@pytest.mark.parametrize(
    "name", ["Spleen", "1st", "_x", "left kidney", "left-kidney", "a/b", "..", "", "a" * 64, "é"]
)
def test_a_name_that_is_no_folder_stage_and_model_at_once_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ParamsError, match="lower-case letters"):
        check_name(name)
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump({"defaults": {}, "organs": {name: SPLEEN}}))
    with pytest.raises(ParamsError, match="lower-case letters"):
        read_params(path)


@pytest.mark.parametrize("name", ["spleen", "left_kidney", "l5", "a" * 63])
def test_a_plain_name_is_taken(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    ("section", "value", "key"),
    [
        ("ingest", {"modality": "PET"}, "modality"),
        ("ingest", {"labels": {}}, "labels"),
        ("ingest", {"labels": {"spleen": 0}}, "spleen"),
        ("ingest", {"labels": {"spleen": 256}}, "spleen"),
        ("ingest", {"labels": {"spleen": 1, "liver": 1}}, "labels"),
        ("ingest", {"labels": {"spleen": 1.5}}, "spleen"),
        ("ingest", {"spacing": [1.0, 1.0]}, "spacing"),
        ("ingest", {"spacing": [0.0, 1.0, 1.0]}, "spacing"),
        ("ingest", {"spacing": [1.0, -1.0, 1.0]}, "spacing"),
        ("ingest", {"spacing": "automatic"}, "spacing"),
        ("ingest", {"hu_offset": float("nan")}, "hu_offset"),
        ("ingest", {"hu_offset": "none"}, "hu_offset"),
        ("ingest", {"layout": "dicomdir"}, "layout"),
        ("ingest", {"rois": {"liver": ["hep*"]}}, "rois"),
        ("ingest", {"labels": {"mean": 1}}, "labels"),
        ("ingest", {"labels": {"background": 1}}, "labels"),
        ("ingest", {"labels": {"liver;spleen": 1}}, "labels"),
        ("ingest", {"labels": {f"label_{value}": value for value in range(1, 256)}}, "labels"),
        ("ingest", {"mr_scale": "minmax"}, "mr_scale"),
        ("ingest", {"normalisation": {"windows": []}}, "windows"),
        ("ingest", {"normalisation": {"windows": [[240, -160]]}}, "windows"),
        ("ingest", {"normalisation": {"windows": [[40, 40]]}}, "windows"),
        ("ingest", {"normalisation": {"channels": [{"clip": [40, 40], "mean": 0, "std": 1}]}}, "clip"),
        ("ingest", {"memory_gb": 0}, "memory_gb"),
        ("ingest", {"salt": "not-hex!"}, "salt"),
        ("ingest", {"workers": 0}, "workers"),
        ("validate", {"test_share": 1.1}, "test_share"),
        ("validate", {"folds": 1}, "folds"),
        ("validate", {"min_cases": 2}, "min_cases"),
        ("validate", {"spacing_range": [5.0, 1.0]}, "spacing_range"),
        ("patches", {"per_case": 0}, "per_case"),
        ("patches", {"size": [0, 32, 32]}, "size"),
        ("patches", {"size": [32.5, 32, 32]}, "size"),
        ("patches", {"shares": {"foreground": 0.5}}, "shares"),
        ("patches", {"shares": {"foreground": -0.1}}, "foreground"),
        ("augment", {"rotation_degrees": 181}, "rotation_degrees"),
        ("augment", {"scale": [1.2, 0.8]}, "scale"),
        ("augment", {"mirror_axes": ["t"]}, "mirror_axes"),
        ("augment", {"noise_std": [0.0, float("inf")]}, "noise_std"),
        ("train", {"learning_rate": 0}, "learning_rate"),
        ("train", {"steps": 0}, "steps"),
        ("train", {"ema_decay": 1.0}, "ema_decay"),
        ("train", {"loss": {"dice_weight": 0, "cross_entropy_weight": 0}}, "loss"),
        ("train", None, "train"),
        ("evaluate", {"worst_cases": -1}, "worst_cases"),
        ("evaluate", {"regions": ["spleen"]}, "regions"),
        ("evaluate", {"regions": {"whole": []}}, "whole"),
        ("evaluate", {"regions": {"w" * 101: ["spleen"]}}, "at most 100 characters"),
        ("evaluate", {"regions": {"whole": "spleen"}}, "whole"),
        ("evaluate", {"regions": {"whole": ["spleen", "spleen"]}}, "whole has a label twice"),
        ("register", {"confidence": 0.5}, "confidence"),
        ("register", {"resamples": 99}, "resamples"),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_name(
    tmp_path: Path, section: str, value: Any, key: str
) -> None:
    whole = SPLEEN["ingest"] | value if section == "ingest" else value
    message = _refusal(tmp_path, {section: whole})
    assert f"organs.spleen.{section}" in message
    assert key in message


def test_a_value_that_fits_neither_of_two_kinds_is_told_both(tmp_path: Path) -> None:
    message = _refusal(tmp_path, {"train": {"steps": 0}})
    assert "'auto'" in message
    assert "greater than or equal to 1" in message
    message = _refusal(tmp_path, {"ingest": SPLEEN["ingest"] | {"spacing": [1.0, 0.0, 1.0]}})
    assert "element 1" in message


def test_an_organ_overrides_single_keys_and_inherits_the_rest(tmp_path: Path) -> None:
    defaults = {"train": {"steps": 7, "seed": 3, "network": {"name": "residual_unet", "channels": [4, 8]}}}
    params = load_organ(
        _write(tmp_path, {"train": {"steps": 9, "network": {"channels": [16]}}}, defaults), "spleen"
    )
    assert (params.train.steps, params.train.seed) == (9, 3)
    assert (params.train.network.name, params.train.network.options["channels"]) == ("residual_unet", [16])


def test_labels_replace_those_of_the_defaults(tmp_path: Path) -> None:
    defaults = {"ingest": {"modality": "MR", "labels": {"organ": 1, "tumour": 2}}}
    params = load_organ(_write(tmp_path, {"ingest": {"labels": {"spleen": 5}}}, defaults), "spleen")
    assert params.ingest.labels == {"spleen": 5}
    assert params.ingest.modality == "MR"


def test_empty_defaults_leave_those_of_the_code(tmp_path: Path) -> None:
    params = load_organ(_write(tmp_path, defaults={"train": None}), "spleen")
    assert params.train.steps == "auto"
    assert params.patches.shares == Shares()


def test_values_never_change(tmp_path: Path) -> None:
    params = load_organ(_write(tmp_path), "spleen")
    with pytest.raises(ValidationError):
        params.train.seed = 1


@pytest.mark.parametrize("organ", [[], ["train"], "train", 3])
def test_an_organ_that_is_no_mapping_is_refused(tmp_path: Path, organ: Any) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump({"defaults": {}, "organs": {"spleen": organ}}))
    with pytest.raises(ParamsError, match=r"organs\.spleen"):
        load_organ(path, "spleen")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"defaults: {\n", "not valid YAML"),
        (b"defaults: \xff\n", "not valid YAML"),
        (b"", "two mappings"),
        (b"- a\n", "two mappings"),
        (b"defaults: {}\n", "two mappings"),
        (b"defaults: {}\norgans: [spleen]\n", "two mappings"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(ParamsError, match=said):
        read_params(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="is not there"):
        load_organ(tmp_path / "params.yaml", "spleen")


def test_every_default_of_the_code_lies_within_its_own_range() -> None:
    params = OrganParams.model_validate(SPLEEN)
    assert OrganParams.model_validate(params.model_dump(by_alias=True)) == params


SCHEDULES = [
    "0 3 * * 1",
    "*/15 0-6,22 1 1-12/2 *",
    "@weekly",
    "59 23 31 12 7",
    "0 3 29 2 *",
    "5/20 * * 2,4 *",
    "0 22-2 * * 5-1",
    "0 3 31 2 1",
]
NO_SCHEDULES = [
    *["0 3 * *", "60 3 * * 1", "0 24 * * *", "0 3 * * 8", "weekly", "@often", "", "; rm", "*/0 3 * * 1"],
    *["5- 3 * * 1", ", 3 * * 1", "1--2 3 * * 1", "/5 3 * * 1", "1,,2 3 * * 1", "*-5 3 * * 1", "9-60 3 * * 1"],
]


@pytest.mark.parametrize("cron", SCHEDULES)
def test_a_schedule_is_cron(tmp_path: Path, cron: str) -> None:
    path = _write(tmp_path, {"airflow": {"schedule": cron}})
    assert load_organ(path, "spleen").airflow.schedule == cron


@pytest.mark.parametrize("cron", NO_SCHEDULES)
def test_what_is_no_cron_is_refused_with_an_example(tmp_path: Path, cron: str) -> None:
    message = _refusal(tmp_path, {"airflow": {"schedule": cron}})
    assert "airflow.schedule" in message
    assert "'0 3 * * 1'" in message


@pytest.mark.parametrize(
    "cron", ["0 3 31 2 *", "0 3 30-31 2 *", "0 3 31 4,6 *", "0 3 31 2-4/2 *", "0 3 31 2 0-6"]
)
def test_a_day_that_never_comes_is_no_schedule(tmp_path: Path, cron: str) -> None:
    assert "has no day 3" in _refusal(tmp_path, {"airflow": {"schedule": cron}})


def test_a_wrong_key_of_airflow_is_named_with_the_right_one(tmp_path: Path) -> None:
    assert "did you mean 'retry_seconds'" in _refusal(tmp_path, {"airflow": {"retry_second": 1}})


@pytest.mark.parametrize(
    ("section", "value", "said"),
    [
        (
            "train",
            None,
            "(or defaults.train) is empty: write keys with values, or {} for none.",
        ),
        ("train", {"network": "vnet"}, "is 'vnet': write keys with values; known there: init, name."),
        ("train", {"before": "unet"}, "known there: folds, gives, grow_mm, loss, network, steps."),
        ("patches", {"size": 32}, "is 32: Input should be 'auto'; or write a list, as [A, B]."),
        ("ingest", SPLEEN["ingest"] | {"labels": ["spleen"]}, "write names with values, as {NAME: VALUE}."),
    ],
)
def test_a_value_of_another_kind_is_told_what_to_write(
    tmp_path: Path, section: str, value: Any, said: str
) -> None:
    assert said in _refusal(tmp_path, {section: value})


def test_a_key_is_told_those_of_a_section_that_may_be_left_out(tmp_path: Path) -> None:
    message = _refusal(tmp_path, {"train": {"before": {"network": {"name": "unet"}, "give": "maps"}}})
    assert "did you mean 'gives'? Known there: folds, gives" in message
    channel = {"clip": [0, 1], "mean": 0, "std": 1, "min": 0}
    wrong = {"ingest": SPLEEN["ingest"] | {"normalisation": {"channels": [channel]}}}
    assert "channels: element 0: min: not a parameter there" in _refusal(tmp_path, wrong)


def test_what_is_wrong_between_keys_is_told_without_the_whole_section(tmp_path: Path) -> None:
    message = _refusal(tmp_path, {"train": {"transfer": "partial"}}, {"train": {"seed": 4321}})
    assert "organs.spleen.train (or defaults.train): transfer is partial" in message
    assert "4321" not in message


@pytest.mark.parametrize(
    "section",
    [
        {"patches": {"balance": {"spleeen": 2}}},
        {"patches": {"hard_negatives": {"within": ["spleeen"]}}},
        {"train": {"loss": {"weights": {"spleeen": 2}}}},
        {"train": {"before": {"loss": {"weights": {"spleeen": 2}}}}},
        {"evaluate": {"regions": {"whole": ["spleen", "spleeen"]}}},
    ],
)
def test_a_label_that_is_not_there_is_named_before_any_stage_runs(tmp_path: Path, section: Any) -> None:
    message = _refusal(tmp_path, section)
    assert "has 'spleeen', which is no label of ingest.labels: did you mean 'spleen'?" in message


def test_the_background_may_have_a_weight_in_the_loss(tmp_path: Path) -> None:
    weights = {"background": 0.5, "spleen": 2.0}
    params = load_organ(_write(tmp_path, {"train": {"loss": {"weights": weights}}}), "spleen")
    assert params.train.loss.weights == weights


def test_resources_are_of_stages_and_written_as_kubernetes_takes_them(tmp_path: Path) -> None:
    def pods(resources: Any) -> dict[str, Any]:
        return {"airflow": {"kubernetes": {"resources": resources}}}

    params = load_organ(_write(tmp_path, pods({"train": {"limits": {"nvidia.com/gpu": 1}}})), "spleen")
    assert params.airflow.kubernetes.resources == {"train": {"limits": {"nvidia.com/gpu": "1"}}}
    gpu = {"limits": {"nvidia.com/gpu": 1}}
    assert "'trian' is no stage: did you mean 'train'?" in _refusal(tmp_path, pods({"trian": gpu}))
    assert "'requests' or 'limits'" in _refusal(tmp_path, pods({"train": {"limit": {"cpu": 1}}}))


@pytest.mark.parametrize("name", ["spleen", "mean", "background"])
def test_a_region_has_a_name_of_its_own(tmp_path: Path, name: str) -> None:
    message = _refusal(tmp_path, {"evaluate": {"regions": {name: ["spleen"]}}})
    assert f"evaluate.regions has '{name}', which is taken; call the region otherwise" in message


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ({"fold": 3}, "train.fold is 3, but with validate.folds 3 it is 2 at most: lower it, or raise"),
        ({"ensemble": 4}, "train.ensemble is 4, but with validate.folds 3 it is 3 at most"),
        ({"before": {"folds": 3}}, "train.before.folds is 3, but with validate.folds 3 it is 2 at most"),
    ],
)
def test_more_folds_than_there_are_is_told_before_any_stage_runs(
    tmp_path: Path, train: Any, said: str
) -> None:
    assert said in _refusal(tmp_path, {"validate": {"folds": 3}, "train": train})


def test_as_many_networks_as_folds_are_taken(tmp_path: Path) -> None:
    sections = {"validate": {"folds": 2}, "train": {"fold": 1, "ensemble": 2}}
    assert load_organ(_write(tmp_path, sections), "spleen").train.ensemble == 2
