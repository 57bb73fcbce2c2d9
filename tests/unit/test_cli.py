import errno
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import nibabel
import numpy as np
import pytest

from pipeline import cli
from pipeline.registry.models import ModelRegistry
from pipeline.registry.version import Description

ROOT = Path(__file__).parents[2]
HEAVY = (
    "blosc2",
    "boto3",
    "botocore",
    "dvc",
    "great_expectations",
    "matplotlib",
    "mlflow",
    "monai",
    "nibabel",
    "numpy",
    "onnx",
    "onnxruntime",
    "pandas",
    "pyarrow",
    "scipy",
    "torch",
)
SECTIONS = ("validate", "patches", "augment", "train", "evaluate", "register")


@pytest.fixture
def project(tmp_path):
    """A project with one organ that has neither data nor a model."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "dvc.yaml").write_bytes((ROOT / "dvc.yaml").read_bytes())
    sections = "".join(f"    {section}: {{}}\n" for section in SECTIONS)
    ingest = "    ingest: {modality: CT, labels: {spleen: 2}}\n"
    (folder / "params.yaml").write_text(f"defaults: {{}}\norgans:\n  spleen:\n{ingest}{sections}")
    return folder


@pytest.fixture
def model(project):
    """A model with weights as they were drawn, as the latest of the organ."""
    from safetensors.torch import save_file

    from pipeline.atomic import sha256_file, write_json
    from pipeline.inference.model import build
    from pipeline.volumes.recipe import Recipe

    folder = project / "models" / "spleen"
    folder.mkdir(parents=True)
    config = {
        "organ": "spleen",
        "modality": "CT",
        "labels": {"spleen": 2},
        "recipe": asdict(Recipe("CT", {"spleen": 2}, (1.0, 1.0, 1.0))),
        "spacing": [1.0, 1.0, 1.0],
        "patch_size": [8, 8, 8],
        "normalisation": [{"image": 0, "clip": [-1000.0, 1000.0], "mean": 0.0, "std": 100.0}],
        "network": {"name": "residual_unet", "channels": [4, 6], "strides": [[1, 1, 1], [2, 2, 2]]},
        "training": {},
    }
    save_file(build(config).state_dict(), folder / "weights.safetensors")
    hashed = {"weights.safetensors": sha256_file(folder / "weights.safetensors")}
    write_json(folder / "config.json", config | {"sha256": hashed})
    return folder


@pytest.fixture
def scans(tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    image = np.random.default_rng(0).normal(-200, 300, (9, 10, 11)).clip(-1000).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(image, np.diag([2.0, 1.0, 1.0, 1.0])), folder / "a.nii.gz")
    return folder


def hounsfield(folder, *arguments, options=()):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HOUNSFIELD_", "MLFLOW_"))}
    return subprocess.run(
        [sys.executable, *options, "-m", "pipeline", *map(str, arguments)],
        cwd=folder,
        env=environment | {"PYTHONPATH": str(ROOT), "COLUMNS": "200", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def imported(done):
    """The packages that a process started with `-X importtime` loaded."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


def assert_one_sentence(done, code):
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error ")
    return line


@pytest.mark.parametrize("arguments", [["--help"], ["predict", "--help"], ["train", "-h"]])
def test_help_loads_nothing_heavy(tmp_path, arguments):
    done = hounsfield(tmp_path, *arguments, options=["-X", "importtime"])
    assert done.returncode == 0
    assert "Usage:" in done.stdout
    loaded = imported(done)
    assert "typer" in loaded
    assert not loaded & set(HEAVY)


def test_help_names_every_verb(tmp_path):
    said = hounsfield(tmp_path, "--help").stdout
    for verb in (*SECTIONS, "ingest", "phantom", "add-organ", "predict", "export", "results", "doctor"):
        assert f" {verb} " in said


def test_an_unknown_organ_is_one_sentence_with_the_one_that_was_meant(project):
    line = assert_one_sentence(hounsfield(project, "train", "spleeen"), 3)
    assert "did you mean 'spleen'?" in line


@pytest.mark.parametrize("verb", ["card", "lineage", "drift", "hard-negatives"])
def test_an_unknown_organ_is_not_told_to_train_for_a_champion(project, verb):
    assert "did you mean 'spleen'?" in assert_one_sentence(hounsfield(project, verb, "spleeen"), 3)


def test_outside_a_project_it_says_where_to_go(tmp_path):
    line = assert_one_sentence(hounsfield(tmp_path, "ingest", "spleen"), 4)
    assert "change into your clone" in line


def test_a_parameter_that_is_none_is_one_sentence(project):
    path = project / "params.yaml"
    path.write_text(path.read_text().replace("train: {}", "train: {learning_rat: 1}"))
    line = assert_one_sentence(hounsfield(project, "augment", "spleen"), 3)
    assert "learning_rate" in line


def test_onnx_runtime_keeps_no_identifier_of_the_machine_and_has_nobody_to_tell(tmp_path):
    code = """
from onnx import TensorProto, helper

from pipeline import cli


def check():
    import onnxruntime

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "ab"]
    graph = helper.make_graph([helper.make_node("Identity", ["a"], ["b"])], "graph", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


cli.app = check
cli.main()
"""
    left_out = ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "CI")
    environment = {key: value for key, value in os.environ.items() if key not in left_out}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("person", "spins"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "77"}, "77"), ({"OMP_WAIT_POLICY": "active"}, "30000000000")],
)
def test_threads_that_wait_for_others_leave_the_cores_to_other_trainings(person, spins):
    code = "from pipeline import cli\ncli.app = lambda: __import__('torch')\ncli.main()"
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=kept | person | {"OMP_DISPLAY_ENV": "verbose", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"GOMP_SPINCOUNT = '{spins}'" in done.stderr


def refusing(number, said):
    """A command line where the system refuses a file."""

    def app():
        raise OSError(number, said, "data/x.parquet")

    return app


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "No space left on device: see that there"),
        (errno.EIO, "Input/output error: see to the disk"),
    ],
)
def test_a_disk_without_room_or_that_fails_is_one_sentence(monkeypatch, capsys, number, said):
    monkeypatch.setattr(cli, "app", refusing(number, said.partition(":")[0]))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith(f"error data/x.parquet: {said}")


def test_what_is_no_want_of_room_or_permission_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(cli, "app", refusing(errno.EISDIR, "Is a directory"))
    with pytest.raises(IsADirectoryError):
        cli.main()


@pytest.mark.parametrize(("out", "expected"), [(None, "docs/leaderboard"), (Path("pages"), "notes/pages")])
def test_pages_of_a_leaderboard_go_to_where_the_person_stands(project, monkeypatch, out, expected):
    from pipeline.leaderboard import board

    asked = []

    def make(*_, target, **__):
        asked.append(target)
        return [], target

    monkeypatch.setattr(board, "make", make)
    (project / "notes").mkdir()
    monkeypatch.chdir(project / "notes")
    cli.leaderboard("spleen", target=out)
    assert asked == [project / expected]


def test_a_phantom_in_the_place_of_other_scans_is_refused_with_what_can_be_done(project):
    scan = project / "data" / "raw" / "abdomen" / "scan.nii.gz"
    scan.parent.mkdir(parents=True)
    scan.touch()
    line = assert_one_sentence(hounsfield(project, "phantom"), 2)
    assert "holds something that is not the phantom: move it elsewhere or remove it" in line
    assert scan.exists()


def test_a_letter_that_a_terminal_lacks_is_no_traceback():
    code = "from pipeline import cli; cli.app = lambda: print('1 \u00d7 1'); cli.main()"
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "1 \\xd7 1\n")


def test_an_unknown_verb_is_a_usage_error(tmp_path):
    done = hounsfield(tmp_path, "tarin", "spleen")
    assert done.returncode == 2
    assert "tarin" in done.stderr


def test_a_stage_runs_in_the_folder_of_the_project_wherever_it_is_called(project):
    below = project / "somewhere" / "below"
    below.mkdir(parents=True)
    line = assert_one_sentence(hounsfield(below, "ingest", "spleen"), 2)
    assert "data/raw/spleen" in line


def test_a_stage_removes_what_a_killed_run_of_it_left_and_not_that_of_another_organ(project):
    printed = [sys.executable, "-c", "import os; print(os.getpid())"]
    ended = int(subprocess.run(printed, capture_output=True, text=True, check=True).stdout)
    cases = project / "data" / "cases"
    left = [cases / f".{ended}.partial.{organ}.parquet" for organ in ("spleen", "liver")]
    cases.mkdir(parents=True)
    for file in left:
        file.touch()
    hounsfield(project, "ingest", "spleen")
    assert [file.exists() for file in left] == [False, True]


def test_a_stage_before_its_predecessor_is_one_sentence(project):
    line = assert_one_sentence(hounsfield(project, "train", "spleen"), 4)
    assert "data/accepted/spleen.parquet is not there: run dvc repro validate@spleen" in line


def test_predict_prints_json_and_nothing_else_on_stdout(project, model, scans, tmp_path):
    done = hounsfield(project, "predict", "spleen", scans, tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "model": "the latest model of spleen (not registered)",
        "written": [str(tmp_path / "out" / "a.nii.gz")],
        "failed": {},
        "left_out": [],
        "exit_code": 0,
    }
    assert nibabel.load(tmp_path / "out" / "a.nii.gz").shape == (9, 10, 11)


def test_predict_with_a_bad_scan_labels_the_others_and_ends_with_2(project, model, scans, tmp_path):
    (scans / "bad.nii.gz").write_bytes(b"no scan")
    done = hounsfield(project, "predict", "spleen", "../scans", "../out")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "not labelled: bad.nii.gz" in done.stderr
    assert "1 label maps" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.nii.gz"]


def test_predict_ends_with_4_where_a_label_map_cannot_be_written(project, model, scans, tmp_path):
    (scans / "bad.nii.gz").write_bytes(b"no scan")
    (tmp_path / "out" / "a.nii.gz").mkdir(parents=True)
    done = hounsfield(project, "predict", "spleen", "../scans", "../out")
    assert done.returncode == 4
    assert "a.nii.gz cannot be written (Is a directory)" in done.stderr
    assert "Traceback" not in done.stderr


def test_who_asks_for_a_champion_that_the_gate_refused_is_sent_to_the_page_that_says_why(project):
    page = project / "reports" / "spleen" / "decision.html"
    page.parent.mkdir(parents=True)
    page.touch()
    line = assert_one_sentence(hounsfield(project, "card", "spleen"), 4)
    assert "there is no champion: reports/spleen/decision.html says what became of the last model" in line
    record = project / "registry" / "spleen.json"
    record.parent.mkdir(exist_ok=True)
    record.write_text('{"champion_version": null}')
    assert "reports/spleen/decision.html says" in assert_one_sentence(
        hounsfield(project, "card", "spleen"), 4
    )


def test_a_champion_that_another_registry_has_is_not_said_to_have_been_refused(project):
    for name, text in {
        "reports/spleen/decision.html": "",
        "registry/spleen.json": '{"champion_version": 1}',
    }.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text)
    told = "registry/spleen.json tells of a champion, but the model registry has none: name the registry"
    assert told in assert_one_sentence(hounsfield(project, "card", "spleen"), 4)
    (project / "scans").mkdir()
    asked = ("predict", "spleen", "scans", "out", "--model", "champion")
    assert told in assert_one_sentence(hounsfield(project, *asked), 4)


def test_export_writes_the_champion_whole_and_says_how_far_the_formats_are_apart(project, model, tmp_path):
    line = assert_one_sentence(hounsfield(project, "export", "spleen", tmp_path / "out"), 4)
    assert "there is no champion yet: run dvc repro register@spleen" in line
    registry = ModelRegistry(project, project / ".hounsfield")
    version = registry.register("spleen", model, [], Description())
    registry.settle(version, promoted=True)
    done = hounsfield(project, "export", "spleen", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["version"], told["folder"]) == (1, str(tmp_path / "out"))
    assert 0 <= told["agreement"]["."]["model.onnx"]["largest_difference"] < 1e-4
    assert (tmp_path / "out" / "configs" / "metadata.json").is_file()
    line = assert_one_sentence(hounsfield(project, "export", "spleen", tmp_path / "out"), 2)
    assert "is there already" in line


def test_predict_without_a_model_names_the_command_that_makes_one(project, scans, tmp_path):
    line = assert_one_sentence(hounsfield(project, "predict", "spleen", scans, tmp_path / "out", "--json"), 4)
    assert "dvc repro register@spleen" in line


def test_the_plan_is_shown_and_pinned(project):
    from pipeline.params import IngestParams
    from pipeline.volumes.plan import asked

    plan = {
        "modality": "CT",
        "labels": {"spleen": 2},
        "recipe": {"offset": {"hu": 0.0}},
        "spacing": [3.0, 1.0, 1.0],
        "patch_size": [8, 16, 16],
        "batch_size": None,
        "normalisation": [{"image": 0, "clip": [-20.0, 120.0], "mean": 50.0, "std": 10.0}],
        "reasons": {
            "spacing": "a",
            "offset": "b",
            "normalisation": "c",
            "patch_size": "d",
            "batch_size": "e",
        },
        "asked": asked(IngestParams(modality="CT", labels={"spleen": 2})),
    }
    (project / "data/plans").mkdir(parents=True)
    (project / "data/plans/spleen.json").write_text(json.dumps(plan))
    shown = hounsfield(project, "plan", "spleen")
    assert shown.returncode == 0, shown.stderr
    assert "patches.size" in shown.stdout
    assert "8 x 16 x 16" in shown.stdout
    pinned = json.loads(hounsfield(project, "plan", "spleen", "--pin", "--json").stdout)
    assert "patches.size" in pinned["pinned"]
    assert all(choice["pinned"] for choice in pinned["plan"] if choice["key"] in pinned["pinned"])
    assert "size: [8, 16, 16]" in (project / "params.yaml").read_text()
    again = hounsfield(project, "plan", "spleen", "--pin")
    assert "nothing new" in again.stdout
