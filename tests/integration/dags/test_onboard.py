import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.workspace import STAGES
from tests.integration.dags.conftest import Deployment

LABELS = {"liver": 1, "spleen": 2, "left_kidney": 3, "right_kidney": 4}


@pytest.fixture(scope="module")
def scans(deployment: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder outside the project, with images and labels."""
    source = deployment.project.folder / "data/raw/abdomen"
    return Path(shutil.copytree(source, tmp_path_factory.mktemp("hospital") / "scans"))


def traces(deployment: Deployment) -> list[str]:
    """All that a refused run could leave."""
    places = [deployment.home / name for name in ("workspaces", "sources")]
    files = [path for place in places for path in place.glob("*/[!.]*")]
    branches = deployment.git("branch", "--list", "onboard/*").split()
    return [*map(str, files), *branches, deployment.git("status", "--short")]


def test_an_organ_from_a_form_ends_as_a_branch_to_merge(deployment: Deployment, scans: Path) -> None:
    form = {
        "organ": "spleen",
        "source": str(scans),
        "labels": LABELS,
        "window": "-160, 240",
        "budget": 6,
        "schedule": "@weekly",
        "watch": True,
    }
    before = deployment.git("rev-parse", "HEAD")
    ended = deployment.run_dag("onboard_organ", conf=form)
    assert ended.state == "success", ended.said
    assert deployment.git("rev-parse", "HEAD") == before, "main waits for the merge"
    changed = deployment.git("diff", "--name-only", "main", "onboard/spleen").split()
    assert {"params.yaml", "dvc.lock", "data/raw/spleen.dvc", "registry/spleen.json"} <= set(changed)
    content = yaml.safe_load(deployment.git("show", "onboard/spleen:params.yaml"))
    organ = content["organs"]["spleen"]
    assert organ["ingest"]["labels"] == LABELS
    assert organ["ingest"]["normalisation"] == {"windows": [[-160.0, 240.0]]}
    assert organ["train"]["steps"] == 6
    assert organ["airflow"] == {"schedule": "@weekly", "incoming": str(scans)}
    assert not list((deployment.home / "workspaces/spleen").glob("[!.]*"))

    deployment.git("merge", "--quiet", "onboard/spleen")
    deployment.project.dvc("checkout", "data/raw/spleen.dvc")
    assert {f"{stage}@spleen" for stage in STAGES} <= set(
        yaml.safe_load((deployment.project.folder / "dvc.lock").read_text())["stages"]
    )


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"organ": "../../etc"}, "'../../etc' cannot be an organ's name: use lower-case letters"),
        ({"organ": "abdomen"}, "params.yaml already has the organ 'abdomen'"),
        ({"source": "/nowhere/at/all"}, "the source /nowhere/at/all is no folder that the worker can read"),
        ({"labels": "tumour=9"}, "no case of {source} has the labels tumour=9: there are: 1, 2, 3, 4"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence_and_nothing_is_left(
    deployment: Deployment, scans: Path, wrong: dict[str, Any], sentence: str
) -> None:
    form = {"organ": "kidneys", "source": str(scans), "labels": LABELS} | wrong
    before = traces(deployment)
    ended = deployment.run_dag("onboard_organ", conf=form)
    assert ended.state == "failed"
    assert ended.tasks["open"] == "failed"
    assert ended.tasks["ingest"] == "upstream_failed"
    assert f"onboard_organ: open failed: {sentence.format(source=scans)}" in ended.said
    assert traces(deployment) == before


def test_a_second_run_for_the_same_organ_is_refused_and_the_first_goes_on(
    deployment: Deployment, scans: Path
) -> None:
    form = {"organ": "kidneys", "source": str(scans), "labels": LABELS}
    first = deployment.project.hounsfield("run", "onboard", "--id", "first", "--form", json.dumps(form))
    before = traces(deployment)
    ended = deployment.run_dag("onboard_organ", conf=form)
    assert "open failed: kidneys: the run first is open: wait for its end" in ended.said
    assert traces(deployment) == before
    assert Path(json.loads(first)["path"]).is_dir()
    deployment.project.hounsfield("run", "close", "kidneys", "--id", "first")
