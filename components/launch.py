"""Run a stage where no workspace is: inputs handed over as files, outputs taken away as files.

    python launch.py --organ spleen --param 'organs.${key}.train={"steps": 9}' \
        --input 'data/cases/${key}.parquet=/in/cases' --output 'models/${key}=/out/model' \
        -- 'python -m pipeline train ${key}'

This is how a Kubeflow pipeline runs it (component.yaml beside each Dockerfile): a project is laid out of
nothing but what was handed over, the command of `dvc.yaml` runs in it, and what it made is moved to where
Kubeflow fetches it. Paths, keys and the command are those of `dvc.yaml`.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

KEY = "${key}"
REFUSED = 2
"""Exit code of what a person has to mend, as of the pipeline."""
HERE = Path(__file__).parent


def main() -> int:
    """Lay out the project, run the command, hand the outputs over; the exit code is the command's."""
    asked = _arguments()
    for _, artifact in asked.output:
        if Path(artifact).is_dir() and any(Path(artifact).iterdir()):
            print(
                f"error {artifact} holds something already: empty it, or give another path", file=sys.stderr
            )
            return REFUSED
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        shutil.copyfile(HERE / "dvc.yaml", project / "dvc.yaml")
        given = {key.replace(KEY, asked.organ): _numbers(json.loads(value)) for key, value in asked.param}
        (project / "params.yaml").write_text(yaml.safe_dump(params_of(given, asked.organ, project)))
        for place, artifact in asked.input:
            target = project / place.replace(KEY, asked.organ)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(Path(artifact).absolute())
        environment = {"HOUNSFIELD_HOME": str(project / ".hounsfield")} | os.environ
        command = asked.command.replace(KEY, asked.organ)
        code = subprocess.run(command, shell=True, cwd=project, env=environment, check=False).returncode
        if code == 0:
            for place, artifact in asked.output:
                _hand_over(project / place.replace(KEY, asked.organ), Path(artifact))
        return code


def _hand_over(made: Path, artifact: Path) -> None:
    """Move what was made, whole or not at all: from one disk to another it is copied."""
    artifact.parent.mkdir(parents=True, exist_ok=True)
    partial = artifact.with_name(f".{artifact.name}.partial")
    # A killed attempt's.
    shutil.rmtree(partial, ignore_errors=True)
    shutil.move(made, partial)
    if artifact.is_dir():
        # Empty, and no file takes the place of a folder.
        artifact.rmdir()
    partial.replace(artifact)


def params_of(given: dict[str, Any], organ: str, project: Path) -> dict[str, Any]:
    """A `params.yaml` of the sections in `given` (by dotted key); the others stand empty in it.

    A stage reads its own section only, but a file without all of them is refused. What was scanned
    (the modality, the labels) has no default, so a stage that is not told gets any.
    """
    stages = yaml.safe_load((project / "dvc.yaml").read_text())["stages"]
    nothing: dict[str, Any] = {stage: {} for stage in stages}
    params = {
        "defaults": {},
        "organs": {organ: nothing | {"ingest": {"modality": "CT", "labels": {"organ": 1}}}},
    }
    for key, value in given.items():
        *parents, name = key.split(".")
        section: dict[str, Any] = params
        for parent in parents:
            section = section.setdefault(parent, {})
        section[name] = value
    return params


def _numbers(value: Any) -> Any:
    """Whole numbers as such: Kubeflow hands over every number with a decimal point."""
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--organ", required=True)
    for name in ("param", "input", "output"):
        parser.add_argument(f"--{name}", action="append", default=[], type=_pair, metavar="PLACE=VALUE")
    parser.add_argument("command")
    return parser.parse_args()


def _pair(text: str) -> tuple[str, str]:
    place, _, value = text.partition("=")
    return place, value


if __name__ == "__main__":
    sys.exit(main())
