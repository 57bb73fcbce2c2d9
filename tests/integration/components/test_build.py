"""What a build is told of the machine's own settings of pip, and how it is asked for."""

import os
import stat
from pathlib import Path

import pytest

from components.build import build_all, pip_settings
from components.engine import Engine, find_engine
from pipeline.errors import MissingError, ParamsError

PODMAN, DOCKER = Engine("/usr/bin/podman"), Engine("/usr/bin/docker")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with an index behind a password, a certificate of its own, and a folder of wheels."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    (tmp_path / "wheels").mkdir()
    (tmp_path / "ca.pem").touch()
    (tmp_path / "pip.conf").write_text(
        "[global]\n"
        "index-url = https://me:secret@index.example/simple\n"
        f"extra-index-url = file://{tmp_path}/index/simple https://other.example/simple\n"
        f"cert = {tmp_path}/ca.pem\n"
        "find-links = /tmp/elsewhere\n"
    )
    (tmp_path / "index/simple").mkdir(parents=True)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    return tmp_path


def test_settings_go_into_secrets_and_their_folders_are_mounted(machine: Path, tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    options = pip_settings(PODMAN, tmp_path / "given")
    pip, uv = tmp_path / "given/pip", tmp_path / "given/uv"
    assert options[:2] == [f"--secret=id=pip,src={pip}", f"--secret=id=uv,src={uv}"]
    # Over what they are in, so that no empty folder of theirs is left in a layer.
    assert options[2] == f"--volume={tmp_path}/given/host:/media:ro"
    mounted = {option.split(":")[0].removeprefix("--volume="): option.split(":")[1] for option in options[3:]}
    # The machine that runs this test may have settings of its own besides.
    assert {place: inside for place, inside in mounted.items() if place.startswith(str(machine))} == {
        str(machine / name): f"/media{machine}/{name}" for name in ("wheels", "ca.pem", "index")
    }
    for name in mounted:
        assert (tmp_path / "given/host" / name[1:]).exists()
    lines = pip.read_text().splitlines()
    assert "index-url = https://me:secret@index.example/simple" in lines
    assert f"extra-index-url = file:///media{machine}/index/simple" in lines
    assert "    https://other.example/simple" in lines
    # The environment's word is the last.
    assert f"find-links = /media{machine}/wheels" in lines
    assert f"export SSL_CERT_FILE=/media{machine}/ca.pem" in uv.read_text().splitlines()
    assert "export UV_DEFAULT_INDEX=https://me:secret@index.example/simple" in uv.read_text().splitlines()
    assert {stat.S_IMODE(path.stat().st_mode) for path in (pip, uv)} == {0o600}


def test_no_password_stands_in_the_options(machine: Path, tmp_path: Path) -> None:
    assert "secret@" not in " ".join(pip_settings(PODMAN, tmp_path))


def test_docker_which_mounts_nothing_is_told_nothing_of_this_machine(
    machine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = pip_settings(DOCKER, tmp_path)
    assert not [option for option in options if option.startswith("--volume")]
    assert "/media" not in (tmp_path / "pip").read_text()
    assert "only podman" in capsys.readouterr().out


def test_a_machine_without_settings_hands_over_empty_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    assert len(pip_settings(PODMAN, tmp_path)) == 2
    assert (tmp_path / "uv").read_text() == ""


def test_settings_that_pip_cannot_read_are_told_in_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pip.conf").write_text("[global\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    with pytest.raises(ParamsError, match=r"pip cannot read its settings .*pip\.conf.* pip config debug"):
        pip_settings(PODMAN, tmp_path)


def test_an_unknown_stage_is_refused_before_anything_is_built() -> None:
    with pytest.raises(ParamsError, match="no stage 'trian'; it has ingest"):
        build_all(["trian"], "", "hounsfield/", "latest")


def test_where_no_engine_answers_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingError, match="apt-get install podman"):
        find_engine()
