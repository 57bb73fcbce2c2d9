import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import HounsfieldError
from pipeline.runs.onboarding import read_form


def form(tmp_path: Path, **fields: Any) -> str:
    return json.dumps({"organ": "spleen", "source": str(tmp_path)} | fields)


def test_organ_and_source_are_enough(tmp_path: Path) -> None:
    read = read_form(form(tmp_path))
    assert (read.organ, read.source, read.labels, read.modality, read.values) == (
        "spleen",
        str(tmp_path),
        None,
        None,
        {},
    )


def test_every_field_goes_to_its_place(tmp_path: Path) -> None:
    fields = {"labels": "spleen=1, tumour = 2", "modality": "CT", "window": [-160, 240], "budget": "500"}
    read = read_form(form(tmp_path, **fields, schedule="@weekly", watch=True))
    assert read.labels == {"spleen": 1, "tumour": 2}
    assert read.modality == "CT"
    assert read.values == {
        ("ingest", "normalisation"): {"windows": [[-160.0, 240.0]]},
        ("train", "steps"): 500,
        ("airflow", "schedule"): "@weekly",
        ("airflow", "incoming"): str(tmp_path),
    }


@pytest.mark.parametrize("empty", [None, "", "auto"])
def test_what_is_left_empty_is_automatic(tmp_path: Path, empty: str | None) -> None:
    assert read_form(form(tmp_path, window=empty, budget=empty, modality=empty)).values == {}


@pytest.mark.parametrize(
    "labels",
    ["a=1;b=2", "a=1\nb=2", ["a=1", "b=2"], {"a": 1, "b": 2}],
    ids=["text", "lines", "list", "mapping"],
)
def test_labels_can_be_written_as_it_suits(tmp_path: Path, labels: Any) -> None:
    assert read_form(form(tmp_path, labels=labels)).labels == {"a": 1, "b": 2}


@pytest.mark.parametrize("source", ["s3://hospital/spleen/", "s3://hospital/spleen"])
def test_a_prefix_is_a_source(tmp_path: Path, source: str) -> None:
    assert read_form(form(tmp_path, source=source)).source == "s3://hospital/spleen"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"organ": "Spleen"}, "'Spleen' cannot be an organ's name"),
        ({"organ": "../spleen"}, "'../spleen' cannot be an organ's name"),
        ({"organ": ""}, "'' cannot be an organ's name"),
        ({"organ": 7}, "organ is 7: write it as text"),
        ({"organ": "--help"}, "'--help' cannot be an organ's name"),
        ({"source": ""}, "the source is empty: give s3://BUCKET/PREFIX, or the folder of the scans"),
        ({"source": "scans"}, "the source 'scans' is no whole path: begin it with / or s3://"),
        ({"source": "/not/there"}, "the source /not/there is no folder that the worker can read"),
        ({"source": "https://x/y"}, "the source 'https://x/y' is no S3 prefix"),
        ({"source": "s3://"}, "'s3://' is no S3 prefix"),
        ({"labels": "spleen"}, "'spleen' is not a label: write a name and a value, for example liver=1"),
        ({"labels": "a=1,a=2"}, "the label 'a' is given twice"),
        ({"labels": "a=0"}, "the label 'a' has the value 0: give one from 1 to 255"),
        ({"labels": "a=256"}, "the label 'a' has the value 256: give one from 1 to 255"),
        ({"labels": "a=1,b=1"}, "the labels 'a' and 'b' share the value 1"),
        ({"labels": 5}, "labels is 5: write names and values, such as spleen=1, tumour=2"),
        ({"modality": "PET"}, "the modality 'PET' is not known: choose CT, MR or auto"),
        ({"window": "wide"}, "the window is 'wide': write its two ends in HU, such as -160, 240"),
        ({"window": "240, -160"}, "the window 240 to -160 is none: write the lower end first, in HU"),
        ({"window": "-1,nan"}, "the window -1 to nan is none"),
        ({"window": [1, 2, 3]}, "the window is [1, 2, 3]"),
        ({"window": "0 80", "modality": "MR"}, "a window in HU is for CT: leave it empty for MR"),
        ({"budget": 0}, "the budget is 0: write a number of steps from 1 to 10000000"),
        ({"budget": "fast"}, "the budget is 'fast'"),
        ({"budget": True}, "the budget is True"),
        ({"schedule": "weekly"}, "the schedule is 'weekly': write five fields of cron in numbers"),
        ({"watch": "yes"}, "watch is 'yes': say true or false"),
        ({"colour": "red"}, "the form has no field 'colour': it has organ, source"),
    ],
)
def test_a_field_that_cannot_be_meant_is_refused_in_a_sentence(
    tmp_path: Path, fields: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(HounsfieldError) as refused:
        read_form(form(tmp_path, **fields))
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)
    assert refused.value.exit_code in (2, 3), "no retry mends it"


@pytest.mark.parametrize("text", ["", "[]", "{", "null"])
def test_what_is_no_form_is_refused(text: str) -> None:
    with pytest.raises(HounsfieldError, match="the form is no JSON object"):
        read_form(text)
