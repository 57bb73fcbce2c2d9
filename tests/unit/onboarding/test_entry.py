from pathlib import Path

import pytest
import yaml

from pipeline.errors import ParamsError
from pipeline.onboarding.entry import Quoted, with_organ
from pipeline.params import load_organ
from pipeline.workspace import STAGES

PARAMS = Path(__file__).parents[3] / "params.yaml"
LABELS = {"anterior": 1, "posterior": 2}
MR = {"ingest": {"modality": "MR", "labels": LABELS}, "train": {"steps": "auto"}}
CT = {"ingest": {"modality": "CT", "labels": {"x": 1}}}


def _without(changed: str, organ: str, line_end: str = "\n") -> tuple[str, str]:
    """`changed` without the lines of `organ`, and those lines."""
    lines = changed.split(line_end)
    start = next(n for n, line in enumerate(lines) if line.strip() == f"{organ}:")
    column = len(lines[start]) - len(lines[start].lstrip())
    end = start + 1
    while end < len(lines) and lines[end].startswith(" " * (column + 1)):
        end += 1
    return line_end.join(lines[:start] + lines[end:]), line_end.join(lines[start:end])


def test_every_other_byte_of_the_projects_own_file_stays() -> None:
    text = PARAMS.read_text(encoding="utf-8")
    rest, added = _without(with_organ(text, "hippocampus", MR), "hippocampus")
    assert rest == text
    assert added.splitlines() == [
        "  hippocampus:",
        "    ingest:",
        "      modality: MR",
        "      labels: {anterior: 1, posterior: 2}",
        "    validate: {}",
        "    patches: {}",
        "    augment: {}",
        "    train: {steps: auto}",
        "    evaluate: {}",
        "    register: {}",
    ]


def test_the_organ_loads_with_every_section(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(with_organ(PARAMS.read_text(encoding="utf-8"), "hippocampus", MR), encoding="utf-8")
    params = load_organ(path, "hippocampus")
    assert params.ingest.modality == "MR"
    assert params.ingest.labels == LABELS
    assert list(yaml.safe_load(path.read_text(encoding="utf-8"))["organs"]["hippocampus"]) == list(STAGES)


ODD = {
    "quotes, alignment, folded text": (
        "# top\n'organs':\n    a:\n        ingest: {modality: \"CT\",   labels: {x:   1}}\n"
        "        train:   {steps:   400}   # why\ndefaults: {}\n# end\n"
    ),
    "no newline at the end": "defaults: {}\norgans:\n  a:\n    register: {}",
    "a comment of the last organ": (
        "defaults: {}\norgans:\n  a:\n    register: {}\n\n    # margin: 0.02\n\n# of the file\n"
    ),
    "an alias last": "defaults: &none {}\norgans:\n  a: &a\n    train: {}\n  b: *a\n\n# end\n",
    "an organ without a value": "defaults: {}\norgans:\n  a:\n",
    "a block text last": "organs:\n  a:\n    note: |\n      one\n      two\ndefaults: {}\n",
    "a list last": "organs:\n  a:\n    augment:\n      mirror_axes:\n      - z\n      - y\ndefaults: {}\n",
}


@pytest.mark.parametrize("text", ODD.values(), ids=ODD.keys())
def test_odd_ways_of_writing_survive(text: str) -> None:
    changed = with_organ(text, "new", CT)
    rest, _ = _without(changed, "new")
    assert rest.rstrip("\n") == text.rstrip("\n")
    before, after = yaml.safe_load(text), yaml.safe_load(changed)
    assert list(after["organs"])[-1] == "new"
    assert {**after, "organs": {name: after["organs"][name] for name in before["organs"]}} == before


def test_a_comment_stays_with_its_organ() -> None:
    changed = with_organ(ODD["a comment of the last organ"], "new", CT)
    assert changed.index("# margin") < changed.index("new:") < changed.index("# of the file")


def test_line_ends_of_windows_stay() -> None:
    text = PARAMS.read_text(encoding="utf-8").replace("\n", "\r\n")
    changed = with_organ(text, "new", CT)
    assert changed.count("\n") == changed.count("\r\n")
    assert _without(changed, "new", "\r\n")[0] == text


def test_the_first_organ_replaces_the_empty_braces() -> None:
    changed = with_organ("organs: {}  # none yet\ndefaults: {}\n", "new", CT)
    assert changed.startswith("organs:  # none yet\n  new:\n")
    assert yaml.safe_load(changed)["organs"]["new"]["ingest"] == {"modality": "CT", "labels": {"x": 1}}


def test_many_labels_take_a_line_each() -> None:
    labels = {f"vertebra_{n}": n for n in range(1, 25)}
    changed = with_organ("organs: {}\ndefaults: {}\n", "spine", {"ingest": {"labels": labels}})
    assert "        vertebra_24: 24\n" in changed
    assert yaml.safe_load(changed)["organs"]["spine"]["ingest"]["labels"] == labels


def test_names_that_yaml_reads_otherwise_are_quoted() -> None:
    changed = with_organ("organs: {}\ndefaults: {}\n", "no", {"ingest": {"labels": {"on": 1, "null": 2}}})
    assert yaml.safe_load(changed)["organs"]["no"]["ingest"]["labels"] == {"on": 1, "null": 2}


def test_organs_in_one_line_are_refused_with_the_lines_to_add() -> None:
    with pytest.raises(ParamsError, match="add by hand:\n  new:\n    ingest:"):
        with_organ("organs: {a: {}}\ndefaults: {}\n", "new", CT)


@pytest.mark.parametrize("salt", ["01234567", "1234e567", "deadbeef"])
def test_a_salt_is_written_as_text_for_every_parser(salt: str) -> None:
    sections = {"ingest": {"labels": {"x": 1}, "salt": Quoted(salt)}}
    salted = with_organ("organs: {}\ndefaults: {}\n", "new", sections)
    assert f"      salt: '{salt}'\n" in salted
    assert yaml.safe_load(salted)["organs"]["new"]["ingest"]["salt"] == salt


def test_sections_in_which_mappings_are_become_blocks(tmp_path: Path) -> None:
    regions = {"whole": ["anterior", "posterior"], "no": ["posterior"]}
    sections = MR | {"evaluate": {"regions": regions}}
    text = PARAMS.read_text(encoding="utf-8")
    changed = with_organ(text, "hippocampus", sections)
    rest, added = _without(changed, "hippocampus")
    assert rest == text
    assert added.splitlines()[8:] == [
        "    evaluate:",
        "      regions: {whole: [anterior, posterior], 'no': [posterior]}",
        "    register: {}",
    ]
    path = tmp_path / "params.yaml"
    path.write_text(changed, encoding="utf-8")
    assert load_organ(path, "hippocampus").evaluate.regions == regions


def test_many_regions_take_a_line_each() -> None:
    regions = {f"region_{n}": [f"part_{n}", f"part_{n + 1}"] for n in range(8)}
    changed = with_organ("organs: {}\ndefaults: {}\n", "new", CT | {"evaluate": {"regions": regions}})
    assert "        region_7: [part_7, part_8]\n" in changed
    assert yaml.safe_load(changed)["organs"]["new"]["evaluate"]["regions"] == regions
