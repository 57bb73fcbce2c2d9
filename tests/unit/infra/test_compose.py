"""The compose file, as compose itself and the specification's own parser read it."""

import os
import re

import pytest
import yaml

from tests.conftest import ROOT

FILE = ROOT / "infra/compose/compose.yaml"
EXAMPLE = ROOT / "infra/compose/.env.example"
NEEDED = re.compile(r"\$\{(\w+):\?")
SECRET = re.compile(r"PASSWORD|SECRET|KEY")
PARSE = "import sys, compose_spec; compose_spec.PyCompose.from_yaml(sys.stdin.read()).validate()"


def needed() -> set[str]:
    return set(NEEDED.findall(FILE.read_text()))


def environment(**changes: str) -> dict[str, str]:
    given = {name: f"value-of-{name.lower()}" for name in needed()}
    return {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")} | given | changes


@pytest.fixture
def resolved(lint, engine):
    said = lint("podman-compose", "--file", str(FILE), "config", env=environment())
    return yaml.safe_load(said)


@pytest.fixture
def engine(tmp_path, monkeypatch):
    """podman-compose asks for podman's version before it reads a file; nothing here needs podman itself."""
    podman = tmp_path / "podman"
    podman.write_text("#!/bin/sh\necho 'podman version 5.0.0'\n")
    podman.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")


def test_the_specification_allows_every_key_and_value(linters, resolved, tmp_path):
    import subprocess

    done = subprocess.run(
        [str(linters / "python"), "-c", PARSE],
        input=yaml.safe_dump(resolved),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    resolved["services"]["mlflow"]["ports_of"] = ["1:1"]
    wrong = subprocess.run(
        [str(linters / "python"), "-c", PARSE],
        input=yaml.safe_dump(resolved),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "ports_of" in wrong.stderr


def test_a_secret_that_is_not_set_stops_it_with_a_sentence(lint, engine):
    for name in needed():
        missing = {key: value for key, value in environment().items() if key != name}
        assert f"set {name} in .env" in lint("podman-compose", "-f", str(FILE), "config", code=1, env=missing)


def test_every_secret_comes_from_the_environment(resolved):
    values = {f"value-of-{name.lower()}" for name in needed()}
    for name, service in resolved["services"].items():
        for key, value in service.get("environment", {}).items():
            if SECRET.search(key) and not key.endswith("_FILE"):
                assert value in values, f"{name}: {key}"
    # What is not asked for by `:?` has a default in the file, so it is no secret.
    defaults = re.findall(r"\$\{(\w+):-", FILE.read_text())
    assert [name for name in defaults if SECRET.search(name)] == []


def test_the_example_names_every_variable_that_is_needed_and_gives_no_value():
    lines = [line for line in EXAMPLE.read_text().splitlines() if line and not line.startswith("#")]
    assert {line.removesuffix("=") for line in lines if line.endswith("=")} == needed() | {"AIRFLOW_UID"}
    assert all(line.endswith("=") for line in lines)


def test_services_are_locked_down_and_open_to_this_machine_alone(resolved):
    for name, service in resolved["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert not service.get("privileged"), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert not any("docker.sock" in str(volume) for volume in service.get("volumes", [])), name


def test_airflow_is_told_only_what_airflow_knows(resolved):
    from airflow.configuration import conf

    for service in resolved["services"].values():
        for name in service.get("environment", {}):
            if name.startswith("AIRFLOW__"):
                section, option = name.removeprefix("AIRFLOW__").lower().split("__", 1)
                assert option in conf.configuration_description[section]["options"], name
