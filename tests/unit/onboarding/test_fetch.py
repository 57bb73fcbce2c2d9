import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from rich.console import Console

from pipeline.errors import DataError, HounsfieldError, MissingError, ParamsError
from pipeline.onboarding import add_organ_from_prefix, fetch, fetch_organ
from pipeline.sources import sync_prefix
from pipeline.workspace import home

PROJECT = Path(__file__).parents[3]
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A project under git and DVC, with what this project says of organs and of data/raw."""
    root = tmp_path_factory.mktemp("project")
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=root, check=True)
    (root / "data/raw").mkdir(parents=True)
    for name in ("params.yaml", "dvc.yaml", "data/raw/.gitignore"):
        shutil.copy(PROJECT / name, root / name)
    return root


@pytest.fixture
def root(template, tmp_path, monkeypatch):
    monkeypatch.setenv("HOUNSFIELD_HOME", str(tmp_path / "home"))
    return Path(shutil.copytree(template, tmp_path / "project"))


def scan(folder, value):
    path = folder / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.full((4, 4, 4), value, np.int16), np.eye(4)), path)
    return path.read_bytes()


@pytest.fixture
def prefix(bucket, tmp_path):
    """Two cases of a CT in the msd layout, a scan of no case, a marker and a hidden object; its URL."""
    image, label = scan(tmp_path, -1000), scan(tmp_path, 1)
    bucket.put({f"spleen/imagesTr/{case}.nii.gz": image for case in "ab"})
    bucket.put({f"spleen/labelsTr/{case}.nii.gz": label for case in "ab"})
    bucket.put({"spleen/imagesTs/c.nii.gz": image, "spleen/": b"", "spleen/imagesTr/._a.nii.gz": b"leftover"})
    return bucket.url("spleen")


def add(root, url, modality="CT"):
    return add_organ_from_prefix(root, "spleen", url, modality=modality, labels={"spleen": 1}, console=QUIET)


def state(root):
    """Every file of the project that a command could leave something in, by path."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
        and not {".git", "tmp", "cache"} & set(path.relative_to(root).parts)
        and not path.name.endswith(".lock")
    }


def hounsfield(root, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_after_add_organ_a_fetch_finds_nothing_and_later_ones_what_is_new(root, bucket, prefix):
    options = ["--modality", "CT", "--label", "spleen=1"]
    said = hounsfield(root, "add-organ", "spleen", "--source", prefix, *options).stderr
    assert "git add data/raw/spleen.s3.json as well" in said
    assert "not copied" not in said
    raw = root / "data/raw/spleen"
    assert {str(path.relative_to(raw)) for path in raw.rglob("*") if path.is_file()} == {
        *(f"{kind}/{case}.nii.gz" for kind in ("imagesTr", "labelsTr") for case in "ab"),
        "imagesTs/c.nii.gz",
    }
    assert [path.name for path in (home(root) / "sources").iterdir()] == ["spleen.lock"]
    before = state(root)
    assert json.loads(hounsfield(root, "fetch", "spleen", "--json").stdout) == {
        "organ": "spleen",
        "url": prefix,
        "fetched": 0,
        "unchanged": 5,
        "removed": 0,
        "skipped": 2,
        "fetched_bytes": 0,
        "versioned": False,
        "next": "",
    }
    assert state(root) == before

    bucket.put({"spleen/imagesTr/d.nii.gz": b"new"})
    done = fetch_organ(root, "spleen")
    assert (done.sync.fetched, done.sync.unchanged) == (1, 5)
    assert done.lines()[-1] == "next: dvc repro register@spleen"
    changed = {path for path, content in state(root).items() if content != before.get(path)}
    assert changed == {
        f"data/raw/{name}" for name in ("spleen.dvc", "spleen.s3.json", "spleen/imagesTr/d.nii.gz")
    }


def test_a_fetch_that_dvc_did_not_see_the_end_of_is_taken_in_by_the_next(root, bucket, prefix, monkeypatch):
    def refuse(_root, command, *_arguments, **_options):
        raise HounsfieldError(f"dvc {command} failed")

    bucket.put({"abdomen/imagesTr/a.nii.gz": b"a"})
    with monkeypatch.context() as patch:
        patch.setattr(fetch, "run_dvc", refuse)
        with pytest.raises(HounsfieldError, match="dvc add failed"):
            fetch_organ(root, "abdomen", bucket.url("abdomen"))
    assert not (root / "data/raw/abdomen.dvc").exists()
    done = fetch_organ(root, "abdomen")
    assert (done.sync.fetched, done.versioned) == (0, True)
    assert (root / "data/raw/abdomen.dvc").exists()
    shutil.rmtree(root / "data/raw/abdomen")
    done = fetch_organ(root, "abdomen")
    assert (done.sync.fetched, done.versioned) == (1, False)


def test_an_organ_that_cannot_be_added_leaves_the_project_as_it_was_and_its_scans_fetched(
    root, bucket, prefix, monkeypatch
):
    before = state(root)
    with pytest.raises(ParamsError, match="the modality 'PET' is not known"):
        add(root, prefix, modality="PET")
    assert state(root) == before
    monkeypatch.setattr(fetch, "add_organ", lambda *_, **__: None)
    synced = []
    monkeypatch.setattr(
        fetch, "sync_prefix", lambda *a, **k: synced.append(sync_prefix(*a, **k)) or synced[-1]
    )
    add(root, prefix)
    assert (synced[0].fetched, synced[0].unchanged) == (0, 5)


def test_a_prefix_that_holds_nothing_is_told_so_and_takes_nothing_of_what_was_fetched(root, bucket, prefix):
    with pytest.raises(ParamsError, match="PET"):
        add(root, prefix, modality="PET")
    with pytest.raises(DataError, match="nothing holds no scans: see that bucket"):
        add(root, bucket.url("nothing"))
    assert (home(root) / "sources/spleen/imagesTr/a.nii.gz").is_file()


def test_without_a_prefix_or_an_organ_it_says_what_to_do(root, bucket):
    with pytest.raises(MissingError, match=r"hounsfield fetch abdomen --source s3://BUCKET/PREFIX"):
        fetch_organ(root, "abdomen")
    with pytest.raises(ParamsError, match="spleen"):
        fetch_organ(root, "spleen", bucket.url("x"))
    with pytest.raises(ParamsError, match="cannot be an organ's name"):
        add_organ_from_prefix(root, "../x", bucket.url("x"), modality=None, labels=None, console=QUIET)
    with pytest.raises(ParamsError, match="already has the organ 'abdomen'"):
        add_organ_from_prefix(root, "abdomen", bucket.url("x"), modality=None, labels=None, console=QUIET)
    with pytest.raises(DataError, match="holds no scans"):
        add(root, bucket.url("nothing"))


def test_git_takes_the_manifest_and_not_the_scans(root):
    (root / "data/raw/spleen").mkdir()
    for name in ("spleen.s3.json", "spleen.dvc", "spleen/a.nii.gz", ".fetch-spleen.lock"):
        (root / "data/raw" / name).touch()
    said = subprocess.run(
        ["git", "ls-files", "-o", "--exclude-standard", "data/raw"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.split() == ["data/raw/.gitignore", "data/raw/spleen.dvc", "data/raw/spleen.s3.json"]
