import pytest

from pipeline.errors import ParamsError
from pipeline.validation import suites
from pipeline.validation.suites import FOLDER, entries, fill, suite

NAMES = ("table", "files", "geometry", "intensity", "anatomy", "dataset")
ENTRY = """
- name: size_{axis}
  each: axis
  title: the size along {axis} is at most {most:g}
  expect: {type: TYPE, column: "size_{axis}", max_value: "{most}"}
  severity: SEVERITY
  reason: it is {value:g} along {axis}
  remedy: mend it
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a suite of one expectation and forget it afterwards."""
    monkeypatch.setattr(suites, "FOLDER", tmp_path)
    entries.cache_clear()

    def written(text=ENTRY, rule="expect_column_values_to_be_between", severity="warning"):
        (tmp_path / "own.yaml").write_text(text.replace("TYPE", rule).replace("SEVERITY", severity))

    yield written
    entries.cache_clear()


@pytest.mark.parametrize("name", NAMES)
def test_every_suite_can_be_read_and_its_names_differ(name):
    names = [entry["name"] for entry in entries(name)]
    assert len(set(names)) == len(names)


def test_no_suite_is_forgotten():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {*NAMES, "organs"}


def test_an_expectation_is_repeated_and_filled_in(write):
    write()
    first, second = suite("own", {"most": 4}, {"axis": [{"axis": "z"}, {"axis": "y"}]})
    assert (first.name, second.name) == ("size_z", "size_y")
    assert first.title == "the size along z is at most 4"
    assert first.reason == "it is {value:g} along z"
    assert first.rule.configuration.kwargs["max_value"] == 4
    assert first.column == "size_z"


def test_a_number_that_the_suite_says_itself_is_kept(write):
    write(ENTRY.replace('max_value: "{most}"', "max_value: 5, strict_max: true"))
    (check,) = suite("own", {"most": 4}, {"axis": [{"axis": "z"}]})
    assert check.rule.configuration.kwargs["max_value"] == 5
    assert check.rule.configuration.kwargs["strict_max"] is True


def test_an_expectation_whose_number_is_unknown_is_left_out(write):
    write()
    assert suite("own", {"most": None}, {"axis": [{"axis": "z"}]}) == []


def test_an_expectation_of_the_other_modality_is_left_out(write):
    write(ENTRY.replace("  each: axis", "  each: axis\n  only: MR"))
    each = {"axis": [{"axis": "z"}]}
    assert suite("own", {"most": 4}, each, "CT") == []
    assert len(suite("own", {"most": 4}, each, "MR")) == 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"rule": "expect_magic"}, "expect_magic"),
        ({"severity": "fatal"}, "fatal"),
        ({"text": ENTRY.replace("remedy: mend it", "cure: mend it")}, "cure, remedy"),
        ({"text": ENTRY + "  colour: red\n"}, r"expectation 1 \(size_\{axis\}\) .* have: colour: "),
        ({"text": ENTRY.replace("  remedy: mend it\n", "")}, "have: remedy: "),
        ({"text": "- name: [broken"}, "not valid YAML"),
    ],
)
def test_a_mistake_in_a_suite_is_named(write, change, told):
    write(**change)
    with pytest.raises(ParamsError, match=told):
        suite("own", {"most": 4}, {"axis": [{"axis": "z"}]})


def test_filling_in_leaves_what_is_not_known():
    assert fill("{a:.1f} of {b}", {"a": 1}) == "1.0 of {b}"
