"""What the pages tell people to type, and to write into params.yaml."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from pipeline.cli import app
from pipeline.params import load_organs, merge
from pipeline.workspace import STAGES

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)
SPAN = re.compile(r"`(hounsfield [^`]+)`")


def _commands(page: Path) -> set[str]:
    """The program's commands in a page's blocks and between its words, but for those that end with `…`."""
    text = page.read_text(encoding="utf-8")
    lines = [line for _, block in BLOCK.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    typed = [line.strip().removeprefix("$ ") for line in lines] + SPAN.findall(BLOCK.sub("", text))
    return {" ".join(line.split()) for line in typed if line.startswith("hounsfield ") and "…" not in line}


def _snippets(page: Path) -> list[dict[str, Any]]:
    """What of a page belongs into params.yaml, from `organs` or `defaults` down."""
    blocks = [block for kind, block in BLOCK.findall(page.read_text(encoding="utf-8")) if kind == "yaml"]
    found = []
    for content in map(yaml.safe_load, blocks):
        if "network" in content:
            content = {"train": content}
        if set(content) <= {*STAGES, "airflow"}:
            content = {"organs": {"abdomen": content}}
        if set(content) <= {"defaults", "organs"}:
            found.append(content)
    return found


@pytest.mark.parametrize("command", sorted(set().union(*map(_commands, PAGES))))
def test_a_command_of_the_pages_is_one_that_the_program_takes(command: str) -> None:
    # What stands in brackets may be left out.
    words = shlex.split(re.sub(r"[][]", " ", command.split(";")[0]), comments=True)[1:]
    verbs: Any = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    if words[0] == "run" and len(words) > 1:
        verbs, words = verbs["run"].commands, words[1:]
    assert words[0] in verbs
    if len(words) > 1:
        verbs[words[0]].make_context(words[0], words[1:])


@pytest.mark.parametrize(
    ("page", "snippet"), [(page.name, snippet) for page in PAGES for snippet in _snippets(page)]
)
def test_params_of_the_pages_are_taken(tmp_path: Path, page: str, snippet: dict[str, Any]) -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    organ: dict[str, Any] = {stage: {} for stage in STAGES}
    organ["ingest"] = {"modality": "CT", "labels": {"nodule": 1, "lung": 2}}
    params["organs"] |= {name: organ for name in snippet.get("organs", {}) if name not in params["organs"]}
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(merge(params, snippet)), encoding="utf-8")
    assert load_organs(path)
