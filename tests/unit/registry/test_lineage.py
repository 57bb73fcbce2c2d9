"""Walks in a small project under real git and DVC, whose models are registered in a real registry."""

import getpass
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from pipeline.errors import MissingError
from pipeline.params import RegisterParams
from pipeline.registry import origin
from pipeline.registry.lineage import walk
from pipeline.registry.models import ModelRegistry
from pipeline.registry.origin import NAME, case_records
from pipeline.stages import register

ORGAN = "liver"
PIPELINE = {
    "ingest": {
        "cmd": "python tool.py ingest",
        "deps": ["data/raw/${key}", "tool.py"],
        "params": ["organs.${key}.ingest"],
        "outs": ["data/cases/${key}.csv"],
    },
    "validate": {
        "cmd": "python tool.py validate",
        "deps": ["data/cases/${key}.csv"],
        "outs": ["data/accepted/${key}.parquet"],
    },
    "train": {
        "cmd": "python tool.py train",
        "deps": ["data/accepted/${key}.parquet", "tool.py"],
        "params": ["organs.${key}.train"],
        "outs": ["models/${key}"],
        "plots": [{"reports/${key}/curves.csv": {"cache": False}}],
    },
}
TOOL = '''
"""Stages that are quick; the weights are what was learned from, hashed."""
import hashlib, json, sys
from pathlib import Path
import pandas as pd
raw, cases = Path("data/raw/liver"), Path("data/cases/liver.csv")
accepted = Path("data/accepted/liver.parquet")
if sys.argv[1] == "ingest":
    rows = []
    for image in sorted((raw / "images").iterdir()):
        content = image.read_bytes() + (raw / "labels" / image.name).read_bytes()
        rows.append({"case": image.name.partition(".")[0], "key": hashlib.sha256(content).hexdigest()})
    cases.parent.mkdir(exist_ok=True)
    pd.DataFrame(rows).to_csv(cases, index=False)
if sys.argv[1] == "validate":
    table = pd.read_csv(cases)
    table["split"] = ["test", *["train"] * (len(table) - 1)]
    table["fold"] = [-1, *range(len(table) - 1)]
    accepted.parent.mkdir(exist_ok=True)
    table.to_parquet(accepted)
if sys.argv[1] == "train":
    model, steps = Path("models/liver"), 7
    model.mkdir(parents=True)
    learned = hashlib.sha256(accepted.read_bytes()).hexdigest()
    (model / "weights.safetensors").write_text(learned)
    training = {"steps": steps, "profile": "small"}
    config = {"network": {"name": "unet"}, "training": training, "labels": {"left": 1}, "modality": "CT"}
    (model / "config.json").write_text(json.dumps(config | {"spacing": [3, 1, 1], "recipe": {}}))
    Path("reports/liver").mkdir(parents=True, exist_ok=True)
    Path("reports/liver/curves.csv").write_text("step,loss,dice\\n1,0.9,\\n7,0.5,0.8\\n")
'''


class Project:
    """The project, changed and asked as its owner would."""

    def __init__(self, root):
        self.root = root

    def call(self, *command):
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path}
        done = subprocess.run(
            command, cwd=self.root, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def add_case(self, name, label="label"):
        for folder, content in (("images", "image"), ("labels", label)):
            file = self.root / "data/raw" / ORGAN / folder / f"{name}.nii.gz"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{content} of {name}")

    def run(self):
        """Scans under DVC, then every stage to the model."""
        self.call("dvc", "add", "-q", f"data/raw/{ORGAN}")
        self.call("dvc", "repro", "-q", f"train@{ORGAN}")

    def commit(self, message="run"):
        self.call("git", "add", "-A")
        self.call("git", "commit", "-qm", message)
        return self.call("git", "rev-parse", "HEAD")

    def register(self, dice=0.8):
        """The number of the version that the model as it stands becomes."""
        accepted = Path(f"data/accepted/{ORGAN}.parquet")
        table = pd.read_parquet(accepted)
        cases = table.loc[table["split"] == "test", "case"]
        figures = self.root.parent / "figures"
        figures.mkdir(exist_ok=True)
        rows = pd.DataFrame({"case": cases, "label": "left", "dice": dice})
        rows.to_csv(figures / "cases.csv", index=False)
        (figures / "metrics.json").write_text(json.dumps({"dice": {"mean": dice}, "nsd": {"left": 0.5}}))
        (figures / "report.html").write_text("<html></html>")
        register.run(
            ORGAN,
            RegisterParams(resamples=100),
            raw=Path(f"data/raw/{ORGAN}"),
            accepted=accepted,
            models=Path(f"models/{ORGAN}"),
            metrics=figures / "metrics.json",
            curves=Path(f"reports/{ORGAN}/curves.csv"),
            cases=figures / "cases.csv",
            report=figures / "report.html",
            registry=figures / "registry.json",
            decision=figures / "decision.html",
            judge=lambda _champion, _test, _raw, _config: rows.assign(dice=dice - 0.1),
        )
        return json.loads((figures / "registry.json").read_text())["challenger_version"]

    def cached(self, md5):
        return self.root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]

    def raw_hash(self):
        return yaml.safe_load((self.root / f"data/raw/{ORGAN}.dvc").read_text())["outs"][0]["md5"]


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A project of three cases, run once and not committed: DVC takes seconds."""
    root = tmp_path_factory.mktemp("lineage") / "project"
    root.mkdir()
    project = Project(root)
    stages = {name: {"foreach": "${organs}", "do": body} for name, body in PIPELINE.items()}
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    organ = {"ingest": {"modality": "CT", "layout": "folders"}, "train": {"steps": 7}}
    (root / "params.yaml").write_text(yaml.safe_dump({"defaults": {}, "organs": {ORGAN: organ}}))
    (root / "tool.py").write_text(TOOL)
    (root / ".gitignore").write_text("/data/cases/\n/data/accepted/\n/models/\n")
    (root / ".dvc").mkdir()
    (root / ".dvc/config").write_text("[core]\n    analytics = false\n    check_update = false\n")
    (root / ".dvc/.gitignore").write_text("/tmp\n/cache\n")
    for number in range(3):
        project.add_case(f"case_{number}")
    project.call("git", "init", "-q", "-b", "main")
    project.call("git", "config", "user.name", "Test")
    project.call("git", "config", "user.email", "test@example.org")
    (root / "data/raw/.gitignore").write_text(f"/{ORGAN}\n")
    project.commit("start")
    project.run()
    return root


@pytest.fixture
def project(template, tmp_path, home, monkeypatch):
    root = Path(shutil.copytree(template, tmp_path / "project", symlinks=True))
    monkeypatch.chdir(root)
    return Project(root)


def states(lineage):
    return {link.what: link.state for link in lineage.links}


def said(lineage, what):
    return next(link.said for link in lineage.links if link.what == what)


def test_a_version_is_traced_to_the_commit_the_data_and_the_cases(project):
    project.register()
    commit = project.commit()
    found = walk(project.root, ORGAN, cases=True)
    assert (found.version, found.champion, found.commit, found.exit_code) == (1, True, commit, 0)
    links = ["model", "commit", "code", "train", "validate", "ingest", "raw scans", "cases", "files"]
    assert states(found) == dict.fromkeys(links, "whole")
    assert said(found, "raw scans") == f"{project.raw_hash()}, 6 files, all in DVC's cache"
    assert said(found, "cases") == "3: 2 to learn from, 1 of the test, as in data/accepted/liver.parquet"
    assert {case: raw.files for case, raw in found.raw_files.items()} == {f"case_{n}": 2 for n in range(3)}
    assert found.sentence == "liver: version 1 is traced to its 3 raw cases"


def test_what_is_taken_down_names_neither_a_place_nor_a_person(project):
    project.register()
    version = ModelRegistry(project.root).version(ORGAN, 1)
    text = ModelRegistry(project.root).evidence(version, NAME)
    for word in (str(project.root), "nii.gz", "images", getpass.getuser(), platform.node()):
        assert word not in text
    known = json.loads(text)
    assert known["changed"] == [f"data/raw/{ORGAN}.dvc", "dvc.lock"]
    assert known["raw"] == {"md5": project.raw_hash(), "size": known["raw"]["size"], "nfiles": 6}
    assert [(case["case"], case["split"], case["fold"]) for case in known["cases"]] == [
        ("case_0", "test", None),
        ("case_1", "train", 0),
        ("case_2", "train", 1),
    ]
    assert known["environment"]["packages"]["torch"]
    assert known["environment"]["device"]


def test_a_run_that_is_not_committed_yet_says_what_to_do(project):
    project.register()
    found = walk(project.root, ORGAN)
    assert found.exit_code == MissingError.exit_code
    assert found.commit is None
    assert found.sentence.endswith("its dvc.lock is not committed yet: git add dvc.lock, and commit")
    assert found.commands == []


def test_later_scans_leave_the_older_version_with_its_own_data_and_cases(project):
    project.register()
    first, old = project.commit(), project.raw_hash()
    project.add_case("case_1", label="another label")
    project.add_case("case_3")
    project.run()
    assert project.register(0.9) == 2
    second = project.commit()
    before, after = (walk(project.root, ORGAN, number, cases=True) for number in (1, 2))
    assert (before.exit_code, before.commit) == (0, first)
    assert (after.exit_code, after.commit) == (0, second)
    assert said(before, "raw scans").startswith(f"{old}, 6 files")
    assert said(before, "raw scans").endswith("data/raw/liver is at another version now")
    assert said(after, "raw scans") == f"{project.raw_hash()}, 8 files, all in DVC's cache"
    then, now = ({case["case"]: case["key"] for case in one.known["cases"]} for one in (before, after))
    assert list(then) == ["case_0", "case_1", "case_2"]
    assert list(now) == ["case_0", "case_1", "case_2", "case_3"]
    assert then["case_0"] == now["case_0"]
    assert then["case_1"] != now["case_1"], "its label was another"
    assert before.raw_files.keys() == then.keys()


def test_its_commands_bring_the_older_state_back(project):
    project.register()
    project.commit()
    project.add_case("case_1", label="another label")
    project.run()
    project.register(0.9)
    project.commit()
    for command in walk(project.root, ORGAN, 1).commands:
        printed = project.call(*command.split())
    assert "up to date" in printed, "what there was of products is there again"
    assert (project.root / "data/raw/liver/labels/case_1.nii.gz").read_text() == "label of case_1"
    registered = ModelRegistry(project.root).version(ORGAN, 1)
    weights = ModelRegistry(project.root).verify(registered) / "weights.safetensors"
    assert (project.root / "models/liver/weights.safetensors").read_text() == weights.read_text()


def test_a_lost_commit_is_said(project):
    project.register()
    project.commit()
    project.call("git", "reset", "-q", "--hard", "HEAD~1")
    found = walk(project.root, ORGAN)
    assert found.exit_code == MissingError.exit_code
    assert "no commit here has its dvc.lock; it was registered on top of" in found.sentence
    assert "gone" not in found.sentence
    shutil.rmtree(project.root / ".git")
    project.call("git", "init", "-q")
    assert "which is gone as well: git fetch" in walk(project.root, ORGAN).sentence


def test_a_cache_without_the_list_of_the_raw_files_is_said(project):
    project.register()
    project.commit()
    project.cached(project.raw_hash()).unlink()
    found = walk(project.root, ORGAN, cases=True)
    assert found.exit_code == MissingError.exit_code
    assert found.sentence.endswith(
        f"the list of their files, {project.raw_hash()}, is not in DVC's cache: "
        "no DVC remote is configured to pull from"
    )
    project.call("dvc", "remote", "add", "-q", "store", "/nowhere")
    found = walk(project.root, ORGAN)
    assert found.sentence.endswith("pull them from store")
    assert "dvc pull data/raw/liver.dvc" in found.commands


def test_a_case_that_lacks_a_file_in_the_cache_is_named(project):
    project.register()
    project.commit()
    entries = json.loads(project.cached(project.raw_hash()).read_text())
    lost = next(entry["md5"] for entry in entries if entry["relpath"] == "labels/case_2.nii.gz")
    project.cached(lost).unlink()
    found = walk(project.root, ORGAN, cases=True)
    assert f"1 of 6 files of {project.raw_hash()} are not in DVC's cache" in found.sentence
    assert {case: (raw.files, raw.missing) for case, raw in found.raw_files.items()} == {
        "case_0": (2, 0),
        "case_1": (2, 0),
        "case_2": (2, 1),
    }


def test_lost_products_are_no_broken_link_because_they_can_be_made_again(project):
    project.register()
    project.commit()
    lock = yaml.safe_load((project.root / "dvc.lock").read_text())
    project.cached(lock["stages"]["validate@liver"]["outs"][0]["md5"]).unlink()
    found = walk(project.root, ORGAN)
    assert found.exit_code == 0
    assert "dvc repro makes it again: data/accepted/liver.parquet" in said(found, "validate")
    assert "not compared" in said(found, "cases")


def test_code_that_was_never_committed_is_said(project):
    (project.root / "tool.py").write_text(TOOL.replace('"steps": steps', '"steps": 1 + steps'))
    project.run()
    project.register()
    project.call("git", "add", "dvc.lock", "data/raw/liver.dvc")
    project.call("git", "commit", "-qm", "only the lock")
    found = walk(project.root, ORGAN)
    assert found.exit_code == 2
    assert found.sentence.endswith(
        "these are not as they were when it was made: tool.py: what made it was never committed"
    )
    (project.root / "params.yaml").write_text("organs: {}\n")
    assert walk(project.root, ORGAN).sentence == found.sentence, "only the commit counts"


def test_a_model_that_dvc_did_not_make_is_said(project):
    (project.root / "models/liver/weights.safetensors").unlink()
    (project.root / "models/liver/weights.safetensors").write_text("by hand")
    project.register()
    project.commit()
    found = walk(project.root, ORGAN)
    assert (found.exit_code, found.broken[0].what) == (2, "model")
    assert "but models/liver was" in found.sentence


def test_a_registered_file_that_was_changed_since_is_said(project):
    project.register()
    project.commit()
    folder = ModelRegistry(project.root).champion(ORGAN).folder
    (folder / "weights.safetensors").write_text("other")
    found = walk(project.root, ORGAN)
    assert (found.exit_code, found.broken[0].what) == (2, "model")
    assert "are not those registered" in found.sentence


def test_a_stage_that_read_something_else_than_was_made_is_said(project):
    project.add_case("case_3")
    project.call("dvc", "add", "-q", f"data/raw/{ORGAN}")
    project.call("dvc", "repro", "-q", "--single-item", f"ingest@{ORGAN}")
    project.register()
    project.commit()
    found = walk(project.root, ORGAN)
    assert (found.exit_code, states(found)["validate"]) == (2, "differs")
    assert "it read another data/cases/liver.csv than the stage before it made" in found.sentence


def test_a_lineage_of_before_that_names_no_patients_is_whole(project, monkeypatch):
    def without_patients(cases):
        return [{key: one[key] for key in one if key != "patient"} for one in case_records(cases)]

    with monkeypatch.context() as before:
        before.setattr(origin, "case_records", without_patients)
        project.register()
    project.commit()
    assert states(walk(project.root, ORGAN))["cases"] == "whole"


def test_cases_that_are_not_those_of_the_training_are_said(project):
    table = pd.read_parquet(f"data/accepted/{ORGAN}.parquet")
    Path(f"data/accepted/{ORGAN}.parquet").unlink()
    table.assign(key="another").to_parquet(f"data/accepted/{ORGAN}.parquet")
    project.register()
    project.commit()
    assert states(walk(project.root, ORGAN))["cases"] == "differs"


def test_a_model_registered_without_dvc_has_no_lineage_and_says_so(project):
    (project.root / "dvc.lock").unlink()
    project.register()
    project.commit()
    found = walk(project.root, ORGAN)
    assert (found.exit_code, list(states(found))) == (MissingError.exit_code, ["model", "dvc.lock"])
    assert "no dvc.lock said what it was made from" in found.sentence


def test_without_a_champion_or_such_a_version_it_says_so(project):
    with pytest.raises(MissingError, match="there is no champion yet"):
        walk(project.root, ORGAN)
    project.register()
    with pytest.raises(MissingError, match="no version 5 in the registry; there is 1"):
        walk(project.root, ORGAN, 5)


def test_the_command_prints_no_raw_path_and_ends_as_the_links_say(project):
    project.register()
    asked = [sys.executable, "-m", "pipeline", "lineage", ORGAN, "--cases"]
    environment = os.environ | {"PYTHONPATH": str(Path(register.__file__).parents[2]), "COLUMNS": "200"}

    def call(*options):
        return subprocess.run(
            [*asked, *options], cwd=project.root, env=environment, capture_output=True, text=True, check=False
        )

    done = call()
    assert done.returncode == MissingError.exit_code
    assert "not committed yet" in done.stderr
    commit = project.commit()
    done, machine = call(), call("--json")
    assert (done.returncode, machine.returncode) == (0, 0)
    assert f"git checkout {commit}" in done.stdout
    assert "case_2" in done.stdout
    told = json.loads(machine.stdout)
    assert (told["whole"], told["commit"]) == (True, commit)
    assert [case["files"] for case in told["cases"]] == [2, 2, 2]
    assert "nii.gz" not in done.stdout + machine.stdout
