import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.errors import ParamsError
from pipeline.runs.editing import change_params, with_values
from pipeline.workspace import STAGES

TEXT = """\
# knobs
defaults: {}

organs:
  liver:   # the first
    ingest:
      modality: CT   # not MR
      labels: {liver: 1}
    train: {steps: auto}   # few
    augment: {}
    evaluate:
  spleen:
    train:
      steps: 5
"""


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("organs", "liver", "train", "steps"), 7),
        (("organs", "liver", "train", "start"), "ab12"),
        (("organs", "liver", "augment", "scale"), [0.5, 1.5]),
        (("organs", "liver", "ingest", "modality"), "MR"),
        (("organs", "liver", "ingest", "normalisation"), {"windows": [[-160.0, 240.0]]}),
        (("organs", "liver", "evaluate", "worst_cases"), 1),
        (("organs", "liver", "airflow", "schedule"), "0 3 * * 1"),
        (("organs", "liver", "airflow", "kubernetes", "nodes"), 2),
        (("organs", "spleen", "train", "steps"), 6),
        (("organs", "spleen", "train", "start"), "no"),
        (("defaults", "train", "steps"), 3),
    ],
)
def test_a_value_stands_at_its_place_and_nothing_else_has_changed(place: tuple[str, ...], value: Any) -> None:
    changed = with_values(TEXT, {place: value})
    wanted: Any = yaml.safe_load(TEXT)
    section = wanted
    for key in place[:-1]:
        section[key] = section.get(key) or {}
        section = section[key]
    section[place[-1]] = value
    assert yaml.safe_load(changed) == wanted
    comments = [line.partition("#")[2] for line in TEXT.splitlines() if "#" in line]
    assert [line.partition("#")[2] for line in changed.splitlines() if "#" in line] == comments
    assert with_values(changed, {place: value}) == changed, "set again, it is as before"


def test_several_values_are_set_one_after_another() -> None:
    places: dict[tuple[str, ...], Any] = {
        ("organs", "liver", "airflow", "schedule"): None,
        ("organs", "liver", "airflow", "incoming"): "s3://a: b/#c",
    }
    organ = yaml.safe_load(with_values(TEXT, places))["organs"]["liver"]
    assert organ["airflow"] == {"schedule": None, "incoming": "s3://a: b/#c"}


def test_a_file_that_leaves_no_place_is_refused_with_what_to_write() -> None:
    with pytest.raises(ParamsError, match=r"a\.b cannot be set as the file is written: set it by hand to 2"):
        with_values("x: &x {b: 1}\na: *x\n", {("a", "b"): 2})


@pytest.mark.parametrize("train", ["{steps: auto,}", "{\n      steps: auto  # few\n    }"])
def test_a_flow_mapping_that_leaves_no_place_is_refused_in_a_sentence(train: str) -> None:
    text = TEXT.replace("{steps: auto}", train)
    with pytest.raises(ParamsError, match="cannot be set as the file is written"):
        with_values(text, {("organs", "liver", "train", "start"): "ab12"})


PARAMS = "defaults: {}\norgans:\n  liver:\n    ingest: {modality: CT, labels: {liver: 1}}\n" + "".join(
    f"    {stage}: {{}}\n" for stage in STAGES[1:]
)


def test_two_changes_at_once_are_both_kept(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(PARAMS)
    begun, go_on = threading.Event(), threading.Event()

    def slowly(text: str) -> str:
        begun.set()
        go_on.wait(5)
        return with_values(text, {("organs", "liver", "train", "steps"): 7})

    def quickly(text: str) -> str:
        return with_values(text, {("organs", "liver", "patches", "seed"): 3})

    slow = threading.Thread(target=change_params, args=(tmp_path, "liver", slowly))
    quick = threading.Thread(target=change_params, args=(tmp_path, "liver", quickly))
    slow.start()
    begun.wait(5)
    quick.start()
    quick.join(0.3)
    go_on.set()
    slow.join()
    quick.join()
    liver = yaml.safe_load((tmp_path / "params.yaml").read_text())["organs"]["liver"]
    assert (liver["train"], liver["patches"]) == ({"steps": 7}, {"seed": 3})


def test_a_change_that_does_not_hold_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(PARAMS)
    with pytest.raises(ParamsError, match=r"train\.steps"):
        change_params(tmp_path, "liver", lambda text: text.replace("train: {}", "train: {steps: few}"))
    assert (tmp_path / "params.yaml").read_text() == PARAMS
