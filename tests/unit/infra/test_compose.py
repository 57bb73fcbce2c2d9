"""The compose file, as compose itself and the specification's own parser read it."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from docker.utils.build import PatternMatcher

from tests.conftest import ROOT

FILE = ROOT / "infra/compose/compose.yaml"
EXAMPLE = ROOT / "infra/compose/.env.example"
IMAGE = ROOT / "infra/image/Dockerfile"
NEEDED = re.compile(r"\$\{(\w+):\?")
SECRET = re.compile(r"PASSWORD|SECRET|KEY")
COPIED = re.compile(r"^COPY (?!--from)(?:--\S+ )*(.+) \S+$", re.MULTILINE)
PARSE = "import sys, compose_spec; compose_spec.PyCompose.from_yaml(sys.stdin.read()).validate()"


def needed() -> set[str]:
    return set(NEEDED.findall(FILE.read_text()))


def environment() -> dict[str, str]:
    return {"HOME": os.environ.get("HOME", "/")} | {name: f"value-of-{name.lower()}" for name in needed()}


@pytest.fixture(scope="module")
def compose(lint, tmp_path_factory):
    """What podman-compose says the file comes to; it wants a podman to be there, and does not use it."""
    podman = tmp_path_factory.mktemp("bin") / "podman"
    podman.write_text("#!/bin/sh\necho 'podman version 5.0.0'\n")
    podman.chmod(0o755)

    def config(given: dict[str, str], *more: Path, code: int = 0) -> str:
        path = f"{podman.parent}{os.pathsep}{os.environ['PATH']}"
        files = [f"--file={file}" for file in (FILE, *more)]
        said: str = lint("podman-compose", *files, "config", code=code, env=given | {"PATH": path})
        return said

    return config


@pytest.fixture(scope="module")
def resolved(compose):
    return yaml.safe_load(compose(environment()))


def test_the_specification_allows_every_key_and_value(linters, resolved):
    def parsed(content: dict) -> subprocess.CompletedProcess[str]:
        command = [str(linters / "python"), "-c", PARSE]
        return subprocess.run(
            command, input=yaml.safe_dump(content), capture_output=True, text=True, check=False
        )

    assert parsed(resolved).stderr == ""
    mlflow = resolved["services"]["mlflow"] | {"ports_of": ["1:1"]}
    assert "ports_of" in parsed(resolved | {"services": {"mlflow": mlflow}}).stderr


def test_a_secret_that_is_not_set_stops_it_with_a_sentence(compose):
    for name in needed():
        missing = {key: value for key, value in environment().items() if key != name}
        assert f"set {name} in .env" in compose(missing, code=1)


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


def test_with_a_gpu_the_one_image_is_built_with_torch_for_it(compose, resolved):
    services = yaml.safe_load(compose(environment(), FILE.with_name("compose.gpu.yaml")))["services"]
    built = {name for name, service in resolved["services"].items() if "build" in service}
    assert {name for name, service in services.items() if "build" in service} == built
    for name in built:
        assert services[name]["build"]["args"] == ["TORCH_INDEX=https://pypi.org/simple"], name
        assert services[name]["build"]["dockerfile"] == "infra/image/Dockerfile"
    (device,) = services["airflow-scheduler"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"


def test_mlflow_answers_to_the_name_of_its_service_of_this_machine_and_of_a_proxy(compose):
    from mlflow.server.security_utils import is_allowed_host_header, should_block_cors_request

    proxy = "mlflow.hospital.example"
    command = yaml.safe_load(compose(environment() | {"MLFLOW_HOST": proxy}))["services"]["mlflow"]["command"]
    options = dict(word.removeprefix("--").split("=", 1) for word in command)
    hosts = options["allowed-hosts"].split(",")
    for host in ("mlflow:5000", "localhost:5000", "localhost:5001", "127.0.0.1:5000", proxy):
        assert is_allowed_host_header(hosts, host), host
    assert not is_allowed_host_header(hosts, "elsewhere.example")
    assert not should_block_cors_request(f"https://{proxy}", "POST", [options["cors-allowed-origins"]])


def test_what_people_are_told_of_a_failure_is_sent_and_leads_to_where_they_reach_airflow(compose):
    given = {
        "AIRFLOW_URL": "https://airflow.hospital.example",
        "HOUNSFIELD_WEBHOOK": "https://chat.hospital.example/1",
        "HOUNSFIELD_REPORTS": "https://reports.hospital.example",
        "HOUNSFIELD_BRANCH": "trained",
    }
    told = yaml.safe_load(compose(environment() | given))["services"]["airflow-scheduler"]["environment"]
    assert told["AIRFLOW__API__BASE_URL"] == given["AIRFLOW_URL"]
    assert {name: told[name] for name in given if name.startswith("HOUNSFIELD_")}.items() <= given.items()


def test_airflow_is_told_only_what_airflow_knows(resolved):
    from airflow.configuration import conf

    for service in resolved["services"].values():
        for name in service.get("environment", {}):
            if name.startswith("AIRFLOW__"):
                section, option = name.removeprefix("AIRFLOW__").lower().split("__", 1)
                assert option in conf.configuration_description[section]["options"], name


def test_a_build_is_sent_all_that_the_image_copies():
    ignored = PatternMatcher((ROOT / ".dockerignore").read_text().splitlines())
    sources = [name for line in COPIED.findall(IMAGE.read_text()) for name in line.split()]
    assert {"pyproject.toml", "pipeline", "infra/image/make_buckets.py"} <= set(sources)
    assert [name for name in sources if not (ROOT / name).exists() or ignored.matches(name)] == []
