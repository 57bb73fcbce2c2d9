"""Build the image of every stage and say how large each is.

    python -m components.build [STAGE...] [--base IMAGE] [--prefix hounsfield/] [--tag latest]

pip in a build goes by this machine's settings (index, certificates, constraints, folders of wheels), as `pip
config list` tells them. They are handed in for the build alone: no layer and no image keeps them.
"""

import argparse
import ast
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from components import render
from components.engine import Engine, find_engine
from pipeline.errors import HounsfieldError, ParamsError
from pipeline.graph import load_stages

ROOT = Path(__file__).parents[1]
INDEXES = ("index-url", "extra-index-url")


def main() -> None:
    """Build what was asked for, all stages if nothing was."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("stage", nargs="*", help="stages of dvc.yaml; all of them if none is named")
    parser.add_argument("--base", default="", help="instead of python:3.11-slim-bookworm")
    parser.add_argument("--prefix", default="hounsfield/", help="what image names begin with")
    parser.add_argument("--tag", default="latest")
    asked = parser.parse_args()
    try:
        build_all(asked.stage, asked.base, asked.prefix, asked.tag)
    except HounsfieldError as error:
        sys.exit(f"error {error}")


def build_all(names: list[str], base: str, prefix: str, tag: str) -> None:
    """Build the named stages' images, one after the other: they share their first layers.

    Raises:
        ParamsError: dvc.yaml has no such stage.
        MissingError: no engine answers, or a build failed.
    """
    stages = load_stages(ROOT)
    unknown = set(names) - set(stages)
    if unknown:
        raise ParamsError(f"dvc.yaml has no stage '{unknown.pop()}'; it has {', '.join(stages)}.")
    engine = find_engine()
    with tempfile.TemporaryDirectory() as folder:
        settings = pip_settings(engine, Path(folder))
        for name in names or list(stages):
            for path in render.write(ROOT, stages[name]):
                print(f"written: {path.relative_to(ROOT)}")
            image = f"{prefix}{name}:{tag}"
            started = time.perf_counter()
            build(engine, name, image, base, settings)
            seconds = time.perf_counter() - started
            print(f"{image:32} {engine.size(image) / 1e6:6.0f} MB  {seconds:4.0f} s", flush=True)


def build(engine: Engine, stage: str, image: str, base: str, settings: list[str]) -> None:
    """Build the image of one stage."""
    engine.run(
        "build",
        *("--file", f"components/{stage}/Dockerfile", "--tag", image, "--quiet"),
        # Some machines' containers have no network of their own; a build trusts what it fetches by hash.
        *("--network", "host"),
        *(["--build-arg", f"BASE={base}"] if base else []),
        *(["--layers"] if engine.is_podman else []),
        *settings,
        str(ROOT),
        capture=True,
    )


def pip_settings(engine: Engine, folder: Path) -> list[str]:
    """Options that give pip in a build the settings it has outside, in a file written to `folder`."""
    sections: dict[str, dict[str, str]] = {}
    for name, value in _pip_config():
        section, _, key = name.rpartition(".")
        sections.setdefault("global" if section == ":env:" else section, {})[key] = value
    places = {place for section in sections.values() for item in section.items() for place in _places(*item)}
    if places and not engine.is_podman:
        print("note: docker builds without this machine's local pip settings: only podman mounts folders")
        sections, places = {}, set()
    path = folder / "pip.conf"
    path.touch(mode=0o600)
    path.write_text("".join(_as_text(name, section) for name, section in sections.items()))
    mounts = [f"--volume={place}:{place}:ro" for place in sorted(places)]
    return ["--secret", f"id=pip,src={path}", *mounts]


def _pip_config() -> list[tuple[str, str]]:
    """Settings of this interpreter's pip; the environment's stand last, so that they win."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    pairs = [
        (name, str(ast.literal_eval(value))) for name, _, value in (line.partition("=") for line in lines)
    ]
    return sorted(pairs, key=lambda pair: pair[0].startswith(":env:"))


def _places(key: str, value: str) -> list[str]:
    """Files and folders of this machine that a setting names."""
    paths = [
        Path(word.removeprefix("file://")) for word in value.split() if word.startswith(("/", "file:///"))
    ]
    # The pages of an index lie in one folder, the files they lead to in one beside it.
    return [str(path.parent if key in INDEXES else path) for path in paths if path.exists()]


def _as_text(name: str, section: dict[str, str]) -> str:
    """A section as pip's configuration file has it; values of several lines are indented."""
    lines = [f"{key} = {value.strip()}".replace("\n", "\n    ") for key, value in section.items()]
    return "\n".join([f"[{name}]", *lines, ""])


if __name__ == "__main__":
    main()
