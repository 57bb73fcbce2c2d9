import os
import pwd
import stat
import subprocess
import sys

import pytest

from pipeline.errors import MissingError
from pipeline.volumes.identity import fingerprint, pseudonym, salt

SALT = "correct horse battery staple"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user who has no salt yet."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("HOUNSFIELD_SALT", raising=False)
    monkeypatch.delenv("HOUNSFIELD_SALT_FILE", raising=False)
    return tmp_path


def test_a_pseudonym_is_the_same_for_the_same_secret_alone(monkeypatch):
    monkeypatch.setenv("HOUNSFIELD_SALT", SALT)
    # HMAC-SHA256, as `openssl dgst -sha256 -hmac` computes it.
    assert pseudonym("4711") == "patient_2d58e58c3ba3"
    assert pseudonym("4712") != pseudonym("4711")
    assert pseudonym("4711", "folder") == "folder_2d58e58c3ba3"
    monkeypatch.setenv("HOUNSFIELD_SALT", "another")
    assert pseudonym("4711") != "patient_2d58e58c3ba3"


def test_the_fingerprint_tells_salts_apart_and_nothing_else(monkeypatch):
    monkeypatch.setenv("HOUNSFIELD_SALT", SALT)
    first = fingerprint()
    assert len(first) == 8
    assert int(first, 16) >= 0
    monkeypatch.setenv("HOUNSFIELD_SALT", "another")
    assert fingerprint() != first


def test_the_salt_is_made_once_for_its_owner_alone(home, capsys):
    first = salt()
    file = home / ".config" / "hounsfield" / "salt"
    assert len(bytes.fromhex(first)) == 32
    assert file.read_text().strip() == first
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    said = capsys.readouterr().err
    assert str(file) in said
    assert "other machines" in said
    assert first not in said
    assert salt() == first
    assert capsys.readouterr().err == ""
    assert os.listdir(file.parent) == ["salt"]


def test_a_named_file_comes_before_the_own_one(home, monkeypatch):
    own = salt()
    file = home / "elsewhere"
    file.write_text(f"{SALT}\n")
    monkeypatch.setenv("HOUNSFIELD_SALT_FILE", str(file))
    assert salt() == SALT != own
    monkeypatch.setenv("HOUNSFIELD_SALT", "by hand")
    assert salt() == "by hand"


@pytest.mark.parametrize("content", [None, "", " \n"])
def test_a_named_file_that_holds_nothing_is_an_error(home, monkeypatch, content):
    file = home / "elsewhere"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("HOUNSFIELD_SALT_FILE", str(file))
    with pytest.raises(MissingError, match="HOUNSFIELD_SALT"):
        salt()
    assert not (home / ".config").exists()


def test_a_home_where_nothing_can_be_made_is_an_error(home):
    (home / ".config").write_text("a file where a folder should be")
    with pytest.raises(MissingError, match="set HOUNSFIELD_SALT"):
        salt()


def test_processes_that_make_it_at_once_agree(home):
    code = "from pipeline.volumes.identity import salt; print(salt())"
    made = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        for _ in range(6)
    ]
    said = {process.communicate()[0].strip() for process in made}
    assert len(said) == 1
    assert len(said.pop()) == 64


def test_a_user_without_a_home_is_told_where_a_salt_may_be_named(monkeypatch):
    for variable in ("HOME", "HOUNSFIELD_SALT", "HOUNSFIELD_SALT_FILE"):
        monkeypatch.delenv(variable, raising=False)

    def unknown(_number):
        raise KeyError("uid not found")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(MissingError, match=r"this user has no home, .*: set HOUNSFIELD_SALT"):
        salt()
