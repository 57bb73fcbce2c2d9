"""Every stage in its image, locked down, does what it does as a process."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from components.engine import Engine
from tests.conftest import ROOT
from tests.integration.containers.conftest import STAGES, Site

LOCKED_DOWN = (
    *("--read-only", "--tmpfs", "/tmp", "--network", "none"),
    *("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
)
LARGEST_INGEST = 600e6
"""Bytes of ingest's image, unpacked, as the engine tells it."""


def run(engine: Engine, image: str, *command: str, options: tuple[str, ...] = ()) -> str:
    return engine.run("run", "--rm", *LOCKED_DOWN, *options, image, *command, capture=True)


@pytest.mark.parametrize("stage", STAGES)
def test_image_runs_without_root_and_holds_no_tools(
    engine: Engine, images: dict[str, str], stage: str
) -> None:
    script = (
        "id -u; for tool in gcc cc g++ make ld pip pip3 apt-get perl5; do command -v $tool; done;"
        " touch /opt/venv/x /etc/x 2>/dev/null && echo writable; cat /proc/self/status | grep CapBnd; true"
    )
    lines = run(engine, images[stage], "sh", "-c", script).split("\n")
    assert lines[0] == "10001"
    assert [line for line in lines[1:] if line and not line.startswith(("CapBnd", "/usr/bin/apt"))] == []
    assert "CapBnd:\t0000000000000000" in lines


@pytest.mark.parametrize("stage", STAGES)
def test_torch_is_where_it_is_imported_and_nowhere_else(
    engine: Engine, images: dict[str, str], stage: str
) -> None:
    requirements = (ROOT / "components" / stage / "requirements.txt").read_text()
    found = run(
        engine, images[stage], "python", "-c", "import importlib.util as u; print(bool(u.find_spec('torch')))"
    )
    assert found.strip() == str("torch.txt" in requirements)


@pytest.mark.parametrize("stage", STAGES)
def test_what_was_slimmed_away_is_not_missed(engine: Engine, images: dict[str, str], stage: str) -> None:
    """The lists `*.unused` may not name what a stage imports."""
    imports = f"import pipeline.stages.{stage}, pyarrow.parquet, dvc.cli, dvc.repo.reproduce"
    assert run(engine, images[stage], "python", "-c", imports) == ""


def test_ingest_decodes_every_transfer_syntax(engine: Engine, images: dict[str, str]) -> None:
    script = (
        "from pydicom import uid; from pydicom.pixels import get_decoder;"
        "wanted = [uid.RLELossless, uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless,"
        " uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEGLSNearLossless, uid.JPEG2000Lossless,"
        " uid.JPEG2000];"
        "print([syntax.name for syntax in wanted if not get_decoder(syntax).is_available])"
    )
    assert run(engine, images["ingest"], "python", "-c", script) == "[]\n"


def test_no_image_keeps_anything_of_the_machine_it_was_built_on(
    engine: Engine, images: dict[str, str]
) -> None:
    """pip's settings may hold a password; where they were mounted, nothing is left, not even a folder."""
    look = (
        "find / -xdev '(' -name pip.conf -o -name uv.env ')' 2>/dev/null;"
        " find /media /mnt -mindepth 1 2>/dev/null; true"
    )
    for image in images.values():
        assert run(engine, image, "sh", "-c", look) == ""


def test_ingest_is_small(engine: Engine, images: dict[str, str]) -> None:
    assert engine.size(images["ingest"]) < LARGEST_INGEST
    # Without torch, which the next one has.
    assert engine.size(images["ingest"]) < engine.size(images["train"]) < engine.size(images["evaluate"])


def test_a_component_makes_what_dvc_makes(
    engine: Engine, images: dict[str, str], site: Site, tmp_path: Path
) -> None:
    """Kubeflow's way: files handed over under names of its own, and component.yaml says where to."""
    described = yaml.safe_load((ROOT / "components/ingest/component.yaml").read_text())
    arguments = described["deploymentSpec"]["executors"]["exec-ingest"]["container"]["args"]
    params = yaml.safe_load((site.folder / "params.yaml").read_text())
    values = {
        "{{$.inputs.parameters['organ']}}": "abdomen",
        "{{$.inputs.parameters['defaults_ingest']}}": as_json(params["defaults"]["ingest"]),
        "{{$.inputs.parameters['organs_ingest']}}": as_json(params["organs"]["abdomen"]["ingest"]),
        "{{$.inputs.artifacts['raw'].path}}": "/in",
    } | {
        f"{{{{$.outputs.artifacts['{role}'].path}}}}": f"/out/{role}/data"
        for role in ("volumes", "cases", "plans")
    }
    for placeholder, value in values.items():
        arguments = [argument.replace(placeholder, value) for argument in arguments]
    (tmp_path / "out").mkdir()
    (tmp_path / "out").chmod(0o777)
    mounts = ("--volume", f"{site.folder}/data/raw/abdomen:/in:ro", "--volume", f"{tmp_path}/out:/out")
    run(engine, images["ingest"], "python", "/opt/hounsfield/launch.py", *arguments, options=mounts)
    site.dvc("repro", "--single-item", "ingest@abdomen")
    for role, made in {"cases": "data/cases/abdomen.parquet", "plans": "data/plans/abdomen.json"}.items():
        assert (tmp_path / "out" / role / "data").read_bytes() == (site.folder / made).read_bytes()
    volumes = {path.name: path.read_bytes() for path in (site.folder / "data/volumes/abdomen").iterdir()}
    assert volumes
    assert {path.name: path.read_bytes() for path in (tmp_path / "out/volumes/data").iterdir()} == volumes


def as_json(section: object) -> str:
    """As Kubeflow hands a section over: every number with a decimal point."""
    import json

    def pointed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: pointed(item) for key, item in value.items()}
        if isinstance(value, list):
            return [pointed(item) for item in value]
        return float(value) if isinstance(value, int) and not isinstance(value, bool) else value

    return json.dumps(pointed(section))
